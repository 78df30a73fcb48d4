"""Streams under a guard: what passes is counted, and whoever ends the stream, however, ends the guard.

A client library ends a stream in four ways: it was read to its end, it broke, its reader closed it (`close`, leaving a
`with` block, dropping the iterator), or a helper on top closed the HTTP response. The first three pass through the
stream's iterator; for the last the response's `close` is hooked. A stream that is dropped before its first event was
asked for has an iterator that never began, so there the collector ends the guard.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextvars import Context
from threading import Thread
from types import coroutine
from typing import Any, TypeVar

from atlas_sdk.guards import AsyncGuard, Guard
from atlas_sdk.integrations.metering import Call, Tally

__all__ = ["AsyncWatch", "Watch", "within"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


@coroutine
def within(context: Context, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await in another context, so that what is set there is not seen by the caller: a guard that outlives its call."""
    step: Callable[[Any], Any] = work.send
    value: Any = None
    while True:
        try:
            waited = context.run(step, value)
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            step, value = work.send, (yield waited)
        except BaseException as error:  # noqa: BLE001  # it is passed on to the work, whatever it is
            step, value = work.throw, error


class _Watched:
    def __init__(self, call: Call) -> None:
        self._call = call
        self._tally = Tally()
        self._running = False
        self._begun = False
        self._over = False
        self._complete = False

    def _see(self, guard: Guard | AsyncGuard, event: Any) -> bool:
        shown = self._call.api.see(self._tally, event)
        if not self._over:
            # Closed by a helper that goes on with what had come.
            self._call.progress(guard, self._tally)
        return shown

    @property
    def _keeps(self) -> bool:
        """Tell whether to read on before this event is shown: a caller that stops here would miss the usage."""
        return self._tally.ending and not self._tally.final

    @property
    def _unread(self) -> bool:
        """Tell whether the call is still open, with no iterator left that could end it."""
        return not self._begun and not self._over

    def _end(self, guard: Guard | AsyncGuard) -> None:
        self._over = True
        self._call.ended(guard, self._tally, cut=not self._complete and not self._tally.final)


class Watch(_Watched):
    """A blocking stream's guard. Made when the stream is open; the guard is entered already."""

    def __init__(self, call: Call, guard: Guard, context: Context) -> None:
        super().__init__(call)
        self._guard = guard
        self._context = context

    def hook(self, response: Any) -> None:
        """End the guard when somebody closes the response."""
        close = response.close

        def closed() -> None:
            try:
                close()
            finally:
                # While the iterator runs it closes the response itself, and may still have events to give.
                if not self._running:
                    self.close()

        response.close = closed

    def through(self, events: Iterator[T]) -> Iterator[T]:
        """Give the events on."""
        self._begun = True
        kept: list[T] = []
        try:
            while True:
                self._running = True
                try:
                    event = next(events)
                except StopIteration:
                    self._complete = True
                    break
                except Exception:
                    self._running = False
                    yield from kept
                    raise
                finally:
                    self._running = False
                if self._see(self._guard, event):
                    kept.append(event)
                if not self._keeps:
                    yield from kept
                    kept.clear()
            yield from kept
        finally:
            try:
                _close(events)
            finally:
                self.close()

    def close(self) -> None:
        """Settle; a second time does nothing."""
        if self._over:
            return
        try:
            self._end(self._guard)
        finally:
            self._context.run(self._guard.__exit__, None, None, None)

    def __del__(self) -> None:
        if not self._unread:
            return
        try:
            # Not here: the collector may have interrupted whoever holds the lock of the connections.
            Thread(target=self._close_dropped, name="atlas-dropped-stream", daemon=True).start()
        except RuntimeError:
            # At the end of the interpreter: the expiry charges it.
            logger.debug("no thread for a dropped stream", exc_info=True)

    def _close_dropped(self) -> None:
        try:
            self.close()
        except Exception:
            logger.exception("a stream that was dropped unread is left to its expiry")


class AsyncWatch(_Watched):
    """A stream's guard on asyncio."""

    def __init__(self, call: Call, guard: AsyncGuard, context: Context) -> None:
        super().__init__(call)
        self._guard = guard
        self._context = context
        self._loop = asyncio.get_running_loop()

    def hook(self, response: Any) -> None:
        """End the guard when somebody closes the response."""
        close = response.aclose

        async def closed() -> None:
            try:
                await close()
            finally:
                # As above.
                if not self._running:
                    await self.close()

        response.aclose = closed

    async def through(self, events: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """Give the events on."""
        self._begun = True
        kept: list[T] = []
        try:
            while True:
                self._running = True
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    self._complete = True
                    break
                except Exception:
                    self._running = False
                    for late in kept:
                        yield late
                    raise
                finally:
                    self._running = False
                if self._see(self._guard, event):
                    kept.append(event)
                if not self._keeps:
                    for shown in kept:
                        yield shown
                    kept.clear()
            for last in kept:
                yield last
        finally:
            try:
                await _aclose(events)
            finally:
                await self.close()

    async def close(self) -> None:
        """Settle; a second time does nothing."""
        if self._over:
            return
        try:
            self._end(self._guard)
        finally:
            await within(self._context, self._guard.__aexit__(None, None, None))

    def __del__(self) -> None:
        if not self._unread:
            return
        try:
            self._loop.call_soon_threadsafe(self._start_closing)
        except RuntimeError:
            # The event loop is closed: the expiry charges it.
            logger.debug("no event loop for a dropped stream", exc_info=True)

    def _start_closing(self) -> None:
        task = self._loop.create_task(self._close_dropped())
        # Kept until it is done, since the event loop does not.
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def _close_dropped(self) -> None:
        try:
            await self.close()
        except Exception:
            logger.exception("a stream that was dropped unread is left to its expiry")


_closing: set[asyncio.Task[None]] = set()


def _close(events: Iterator[Any]) -> None:
    if isinstance(events, Generator):
        events.close()


async def _aclose(events: AsyncIterator[Any]) -> None:
    if isinstance(events, AsyncGenerator):
        await events.aclose()
