"""Retries of operations that certainly changed nothing.

When an operation fails, the driver decides whether it may be repeated (`_drive/failures.py`). This module decides how
often and when. A call that succeeds costs nothing extra.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from atlas_sdk.errors import AtlasError, TransactionConflict

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["again", "again_async"]

T = TypeVar("T")

logger = logging.getLogger("atlas_sdk.retries")

#: The first wait is up to this long; each further one twice as long.
_FIRST_S = 0.02
_LONGEST_S = 1.0
#: Seconds after which no further repetition starts. The caller also waits for connections, so repetitions must not add
#: much.
_WHOLE_S = 10.0


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
