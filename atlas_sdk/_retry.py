"""Calls that are made again, because nothing of them was kept and the reason may pass.

What is safe to make again is decided where it failed (`_drive/failures.py`); how often and when is decided here.
Nothing of this costs a call that succeeds.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from atlas_sdk.errors import AtlasError, TransactionConflict

__all__ = ["again", "again_async"]

T = TypeVar("T")

logger = logging.getLogger("atlas_sdk.retries")

#: The first wait is up to this long; each further one twice as long.
_FIRST_S = 0.02
_LONGEST_S = 1.0
#: Whoever calls waits for a connection, too, so all in all it does not get longer than this by repeating.
_WHOLE_S = 10.0


def _schedule(retries: int) -> dict[str, Any]:
    # Takes 20 ms to import, and most processes never need it.
    import tenacity  # noqa: PLC0415  # see above

    return {
        "retry": tenacity.retry_if_exception(lambda problem: isinstance(problem, AtlasError) and problem.repeatable),
        "stop": tenacity.stop_after_attempt(retries + 1) | tenacity.stop_after_delay(_WHOLE_S),
        "wait": tenacity.wait_random_exponential(multiplier=_FIRST_S, max=_LONGEST_S),
        "reraise": True,
    }


def _tell(name: str, problem: AtlasError, number: int, retries: int) -> None:
    what = "another transaction was in the way" if isinstance(problem, TransactionConflict) else "no connection"
    logger.info("%s: %s; once more (%d of %d)", name, what, number, retries)


def again(call: Callable[[], T], first: AtlasError, *, name: str, retries: int) -> T:
    """Make a call again that failed so at first; return what it returns, or raise what it failed with last."""
    from tenacity import Retrying  # noqa: PLC0415  # as above

    problem = first
    for attempt in Retrying(**_schedule(retries)):
        with attempt:
            number = attempt.retry_state.attempt_number
            if number == 1:
                # So that the first repetition waits like all others.
                raise first
            _tell(name, problem, number - 1, retries)
            try:
                return call()
            except AtlasError as found:
                problem = found
                raise
    raise problem


async def again_async(call: Callable[[], Awaitable[T]], first: AtlasError, *, name: str, retries: int) -> T:
    """Make a call again that failed so at first; return what it returns, or raise what it failed with last."""
    from tenacity import AsyncRetrying  # noqa: PLC0415  # as above

    problem = first
    async for attempt in AsyncRetrying(**_schedule(retries)):
        with attempt:
            number = attempt.retry_state.attempt_number
            if number == 1:
                # So that the first repetition waits like all others.
                raise first
            _tell(name, problem, number - 1, retries)
            try:
                return await call()
            except AtlasError as found:
                problem = found
                raise
    raise problem
