"""Finish a transaction step even if its task is cancelled, and run calls in threads."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

from atlas_sdk._plan import Local

__all__ = ["call_in_thread", "shielded"]

#: Seconds that a cancelled task waits for the server's answer before it cancels the statement.
_PATIENCE_S = 5.0


async def shielded(work: Coroutine[Any, Any, object]) -> asyncio.CancelledError | None:
    """Await work to its end, even if the task is cancelled; return the cancellation, for the caller to raise.

    Raises the errors of the work. Without this function, nobody knows whether a cancelled step of a transaction was
    done, and the next step could roll back another operation's work, or commit work that must not be committed.
    """
    task = asyncio.ensure_future(work)
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task}, timeout=None if interrupted is None else _PATIENCE_S)
        except asyncio.CancelledError as exc:
            interrupted = exc
            continue
        if interrupted is not None and not task.done():
            task.cancel()
    try:
        task.result()
    except Exception as exc:
        if interrupted is None:
            raise
        raise interrupted from exc
    return interrupted


async def call_in_thread(effect: Local) -> object:
    """Call the function of a plan in a thread and return its result."""
    if effect.executor is None:
        return await asyncio.to_thread(effect.call)
    # Do what `asyncio.to_thread` does, because that function accepts no executor.
    run = contextvars.copy_context().run
    return await asyncio.get_running_loop().run_in_executor(effect.executor, run, effect.call)
