"""Turn errors into HTTP answers with problem details (RFC 9457)."""

import json
from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from http import HTTPStatus

from atlas_sdk import (
    AlreadyExists,
    AuthError,
    DatabaseUnreachable,
    IdempotencyConflict,
    IllegalTransition,
    InvalidInput,
    NotFound,
    NotPermitted,
    QuotaExceeded,
)

__all__ = ["MEDIA_TYPE", "PROBLEMS", "REFUSALS", "Answer", "Problem", "answer", "close_code", "close_reason"]

MEDIA_TYPE = "application/problem+json"
#: Close codes of a websocket: "Try again later" and "Policy violation" (IANA's registry of close codes).
_TRY_AGAIN, _VIOLATION = 1013, 1008
#: A close frame carries at most 123 bytes of reason.
_REASON_BYTES = 123

#: The errors that the request did not cause.
REFUSALS = (QuotaExceeded, DatabaseUnreachable)
#: The errors that have an answer; all others are 500.
PROBLEMS = (
    *REFUSALS,
    *(AlreadyExists, AuthError, IdempotencyConflict, IllegalTransition, InvalidInput, NotFound, NotPermitted),
)

Refusal = QuotaExceeded | DatabaseUnreachable
Problem = (
    Refusal
    | AlreadyExists
    | AuthError
    | IdempotencyConflict
    | IllegalTransition
    | InvalidInput
    | NotFound
    | NotPermitted
)

#: The status, the header fields and the body of an answer.
Answer = tuple[int, dict[str, str], bytes]

_GONE = "usage cannot be counted at the moment, so nothing is served; try again later"
#: The problem type of the draft that `QuotaExceeded.headers` follows. Its "violated-policies" have the names in those
#: headers.
_QUOTA = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def answer(problem: Problem) -> Answer:
    """Return the answer to an error. For a lost database it contains no details."""
    status = problem.http_status
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if isinstance(problem, QuotaExceeded):
        body |= _quota(problem)
    else:
        body["detail"] = _detail(problem)
    for name in ("kind", "name", "field"):
        if hasattr(problem, name):
            body[name] = getattr(problem, name)
    headers = problem.headers if isinstance(problem, (*REFUSALS, AuthError)) else {}
    return status, {"Content-Type": MEDIA_TYPE, **headers}, json.dumps(body).encode()


def close_code(problem: Problem) -> int:
    """Return the close code of a websocket."""
    return _TRY_AGAIN if isinstance(problem, REFUSALS) else _VIOLATION


def close_reason(problem: Problem) -> str:
    """Return the close reason of a websocket."""
    return _detail(problem).encode()[:_REASON_BYTES].decode(errors="ignore")


def _detail(problem: Problem) -> str:
    return _GONE if isinstance(problem, DatabaseUnreachable) else str(problem)


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
