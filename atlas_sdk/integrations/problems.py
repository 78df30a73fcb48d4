"""Turn refusals into HTTP answers with problem details (RFC 9457)."""

import json
from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from http import HTTPStatus

from atlas_sdk import DatabaseUnreachable, QuotaExceeded

__all__ = ["CLOSE_CODE", "MEDIA_TYPE", "PROBLEMS", "Answer", "answer", "close_reason"]

MEDIA_TYPE = "application/problem+json"
#: The close code of a websocket: "Try again later" (IANA's registry of close codes).
CLOSE_CODE = 1013
#: A close frame carries at most 123 bytes of reason.
_REASON_BYTES = 123

#: The errors that have an answer.
PROBLEMS = (QuotaExceeded, DatabaseUnreachable)

#: Status, header fields, body.
Answer = tuple[int, dict[str, str], bytes]

_GONE = "usage cannot be counted at the moment, so nothing is served; try again later"
#: From the draft that `QuotaExceeded.headers` follows; policies have the same names there.
_QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def answer(problem: QuotaExceeded | DatabaseUnreachable) -> Answer:
    """Return the answer to a refusal. For a lost database it contains no details."""
    status = problem.http_status
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if isinstance(problem, QuotaExceeded):
        body |= _quota(problem)
    else:
        body["detail"] = _GONE
    return status, {"Content-Type": MEDIA_TYPE, **problem.headers}, json.dumps(body).encode()


def close_reason(problem: QuotaExceeded | DatabaseUnreachable) -> str:
    """Return the reason for closing a websocket."""
    if not isinstance(problem, QuotaExceeded):
        return _GONE
    return str(problem).encode()[:_REASON_BYTES].decode(errors="ignore")


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
