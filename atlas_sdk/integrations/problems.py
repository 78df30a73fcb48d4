"""Turn errors into HTTP answers with problem details (RFC 9457)."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from http import HTTPStatus

from atlas_sdk import AtlasError, DatabaseUnreachable, QuotaExceeded

__all__ = ["MEDIA_TYPE", "REFUSALS", "Answer", "answer", "close_code", "close_reason"]

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Close codes of a websocket: "Try again later", "Policy violation" and "Internal error" (IANA's registry of close
#: codes).
_TRY_AGAIN, _VIOLATION, _INTERNAL = 1013, 1008, 1011
#: A close frame carries at most 123 bytes of reason.
_REASON_BYTES = 123

#: The errors that mean "not now" for a good request.
REFUSALS = (QuotaExceeded, DatabaseUnreachable)

#: The status, the header fields and the body of an answer.
Answer = tuple[int, dict[str, str], bytes]

#: The details of an error that the request did not cause. Its own message is for the log: it may name hosts and files.
_LATER = "this cannot be done at the moment; try again later"
_FAILED = "the service failed; its log has the reason"
#: The problem type of the draft that `QuotaExceeded.headers` follows. Its "violated-policies" have the names in those
#: headers.
_QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def answer(problem: AtlasError) -> Answer:
    """Return the answer to an error. If the status is 500 or more, log the error; the answer has no details of it."""
    status = problem.http_status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("answered with %d: %s", status, problem, exc_info=problem)
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if isinstance(problem, QuotaExceeded):
        body |= _quota(problem)
    else:
        body["detail"] = _detail(problem)
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        body |= {name: getattr(problem, name) for name in ("kind", "name", "field") if hasattr(problem, name)}
    return status, {"Content-Type": MEDIA_TYPE, **problem.headers}, json.dumps(body).encode()


def close_code(problem: AtlasError) -> int:
    """Return the close code of a websocket."""
    if isinstance(problem, QuotaExceeded) or problem.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
        return _TRY_AGAIN
    return _VIOLATION if problem.http_status < HTTPStatus.INTERNAL_SERVER_ERROR else _INTERNAL


def close_reason(problem: AtlasError) -> str:
    """Return the close reason of a websocket."""
    return _detail(problem).encode()[:_REASON_BYTES].decode(errors="ignore")


def _detail(problem: AtlasError) -> str:
    if problem.http_status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return str(problem)
    return _LATER if problem.http_status == HTTPStatus.SERVICE_UNAVAILABLE else _FAILED


def _quota(problem: QuotaExceeded) -> Mapping[str, object]:
    return {
        "type": _QUOTA,
        "title": "Quota exceeded",
        "detail": str(problem),
        "violated-policies": [problem.dimension],
        "dimension": problem.dimension,
        "asked": _number(problem.asked),
        "remaining": _number(problem.remaining),
        "limit": None if problem.limit is None else _number(problem.limit),
        "resets_at": None if problem.resets_at is None else problem.resets_at.astimezone(UTC).isoformat(),
        "retry_after": None if problem.retry_after is None else problem.retry_after.total_seconds(),
    }


def _number(value: int | Decimal) -> int | str:
    """Return dollars as text, because most readers of JSON read numbers as floats."""
    return value if isinstance(value, int) else format(value, "f")
