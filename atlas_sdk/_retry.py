"""Retries of operations that certainly changed nothing, and of idempotent plans in a script.

When an operation fails, the driver decides whether it may be repeated (`_drive/failures.py`). This module decides how
often and when. A call that succeeds costs nothing extra.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from atlas_sdk._plan import Plan, Script
from atlas_sdk.errors import AtlasError, DatabaseUnreachable, TransactionConflict

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["RETRIED", "again", "again_async", "retry_once"]

T = TypeVar("T")

logger = logging.getLogger("atlas_sdk.retries")

#: The first wait is up to this long; each further one twice as long.
_FIRST_S = 0.02
_LONGEST_S = 1.0
#: Seconds after which no further repetition starts. The caller also waits for connections, so repetitions must not add
#: much.
_WHOLE_S = 10.0
#: Errors that a second try of an idempotent plan may mend: a lost connection, an embedded server that restarts, a
#: conflict.
RETRIED = (DatabaseUnreachable, TransactionConflict)
#: A try that took this long has waited for a connection (5 s by default) and got none; another try would wait as long.
_PROMPT_S = 4.0


def _options(name: str, retries: int) -> dict[str, Any]:
    # The import takes 20 ms, and most processes never need it.
    import tenacity  # noqa: PLC0415  # see above

    def log(state: "RetryCallState") -> None:
        conflict = state.outcome is not None and isinstance(state.outcome.exception(), TransactionConflict)
        reason = "another transaction was in the way" if conflict else "no connection"
        logger.info("%s: %s; once more (%d of %d)", name, reason, state.attempt_number, retries)

    return {
        "retry": tenacity.retry_if_exception(lambda problem: isinstance(problem, AtlasError) and problem.repeatable),
        "stop": tenacity.stop_after_attempt(retries + 1) | tenacity.stop_after_delay(_WHOLE_S),
        "wait": tenacity.wait_random_exponential(multiplier=_FIRST_S, max=_LONGEST_S),
        "before_sleep": log,
        "reraise": True,
    }


def again(call: Callable[[], T], first: AtlasError, *, name: str, retries: int) -> T:
    """Repeat a call that failed with `first`; return its result, or raise its last error."""
    from tenacity import Retrying  # noqa: PLC0415  # as above

    failed = [first]

    def attempt() -> T:
        # The first attempt is the call that failed, so that the first repetition waits like all others.
        if failed:
            raise failed.pop()
        return call()

    return Retrying(**_options(name, retries))(attempt)


async def again_async(call: Callable[[], Awaitable[T]], first: AtlasError, *, name: str, retries: int) -> T:
    """Repeat a call that failed with `first`; return its result, or raise its last error."""
    from tenacity import AsyncRetrying  # noqa: PLC0415  # as above

    failed = [first]

    async def attempt() -> T:
        # The first attempt is the call that failed, so that the first repetition waits like all others.
        if failed:
            raise failed.pop()
        return await call()

    return await AsyncRetrying(**_options(name, retries))(attempt)


def retry_once(
    plan: Callable[[], Plan[T]], clock: Callable[[], float], *, errors: tuple[type[AtlasError], ...] = RETRIED
) -> Script[T]:
    """Run a plan, and once more after one of these errors, unless the first try took long.

    The plan must be idempotent: the first try may have been committed although no answer came. Each try calls `plan`.
    """
    began = clock()
    try:
        answer: T = yield plan()
    except errors:
        if clock() - began > _PROMPT_S:
            raise
        answer = yield plan()
    return answer
