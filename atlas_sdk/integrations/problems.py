"""Refusals as HTTP answers: problem details of RFC 9457."""

import json
from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from http import HTTPStatus

from atlas_sdk import DatabaseUnreachable, QuotaExceeded

__all__ = ["CLOSE_CODE", "MEDIA_TYPE", "PROBLEMS", "Answer", "answer", "close_reason"]

MEDIA_TYPE = "application/problem+json"
#: Of a websocket: "Try again later" (IANA's registry of close codes).
CLOSE_CODE = 1013
#: A close frame carries at most 123 bytes of reason.
_REASON_BYTES = 123

#: What has an answer.
PROBLEMS = (QuotaExceeded, DatabaseUnreachable)

#: Status, header fields, body.
Answer = tuple[int, dict[str, str], bytes]

_GONE = "usage cannot be counted at the moment, so nothing is served; try again later"
#: Of the draft that `QuotaExceeded.headers` follows; the policy is named as there.
_QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def answer(problem: QuotaExceeded | DatabaseUnreachable) -> Answer:
    """Return the answer to a refusal; of a database that is gone it tells nothing but that."""
    status = problem.http_status
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if isinstance(problem, QuotaExceeded):
        body |= _quota(problem)
    else:
        body["detail"] = _GONE
    return status, {"Content-Type": MEDIA_TYPE, **problem.headers}, json.dumps(body).encode()


def close_reason(problem: QuotaExceeded | DatabaseUnreachable) -> str:
    """Return what a closed websocket is told."""
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
    """Return dollars as a text: JSON's numbers are floats to most readers."""
    return value if isinstance(value, int) else format(value, "f")
