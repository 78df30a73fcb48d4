"""Scripts: operations that can continue after one of their plans fails.

A plan is one piece of work, which a database error ends. A script yields plans, one after the other, and gets back the
result or the error of each. A script does no I/O itself, so blocking and asyncio clients run the same scripts.

`retry_once` repeats an idempotent plan in a script. For whole operations, `_retry.py` decides what to repeat.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from atlas_sdk._namespaces import AsyncRunner, Runner
from atlas_sdk._plan import Plan, Script
from atlas_sdk.errors import AtlasError, DatabaseUnreachable, TransactionConflict

__all__ = ["RETRIED", "retry_once", "run_script", "run_script_async"]

T = TypeVar("T")

#: Errors that a second try of an idempotent plan may mend: a lost connection, an embedded server that restarts, a
#: conflict.
RETRIED = (DatabaseUnreachable, TransactionConflict)
#: A try that took this long has waited for a connection (5 s by default) and got none; another try would wait as long.
_PROMPT_S = 4.0
_UNLOCKED: AbstractContextManager[object] = nullcontext()


def run_script(runner: Runner, script: Script[T], *, lock: AbstractContextManager[object] = _UNLOCKED) -> T:
    """Run a script to its end, blocking; an interruption reaches the script as an exception.

    The lock is held while the script itself runs, not while its plans run.
    """
    try:
        with lock:
            plan = next(script)
        while True:
            try:
                answer = runner.run(plan)
            except BaseException as problem:  # noqa: BLE001  # the script raises it again
                with lock:
                    plan = script.throw(problem)
            else:
                with lock:
                    plan = script.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        with lock:
            script.close()


async def run_script_async(
    runner: AsyncRunner, script: Script[T], *, lock: AbstractContextManager[object] = _UNLOCKED
) -> T:
    """Run a script to its end, on asyncio. The twin of `run_script`, line by line."""
    try:
        with lock:
            plan = next(script)
        while True:
            try:
                answer = await runner.run(plan)
            except BaseException as problem:  # noqa: BLE001  # the script raises it again
                with lock:
                    plan = script.throw(problem)
            else:
                with lock:
                    plan = script.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        with lock:
            script.close()


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
