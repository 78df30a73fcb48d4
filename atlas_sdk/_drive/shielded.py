"""Finish a transaction step even if its task is cancelled, and run calls in threads."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

from atlas_sdk._plan import Local

__all__ = ["call_in_thread", "shielded"]

#: How long the end of a task waits for an answer before the server is asked to stop.
_PATIENCE_S = 5.0


async def shielded(work: Coroutine[Any, Any, object]) -> asyncio.CancelledError | None:
    """Await work to its end; return the cancellation that came meanwhile, for the caller to raise.

    Raises what the work raises. A step of a transaction that is left in the middle may have been made or not: whoever
    goes on in that transaction would take back what is another's, or keep what is not to be kept.
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
    """Call a function of a plan's in a thread and return what it returns."""
    if effect.executor is None:
        return await asyncio.to_thread(effect.call)
    # As asyncio.to_thread does it, which has no executor of the caller's.
    run = contextvars.copy_context().run
    return await asyncio.get_running_loop().run_in_executor(effect.executor, run, effect.call)
