"""Count the events of streams, and end the guard however the stream ends.

A stream of a client library ends in four ways: the caller reads it to its end; it breaks; the caller closes it
(`close`, the exit of a `with` block, a dropped iterator); or a helper closes the HTTP response. The stream's iterator
sees the first three; for the last, this module hooks the response's `close`. If a caller drops a stream before the
first event, the iterator never started, and a finalizer ends the guard.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextvars import Context
from threading import Thread
from types import coroutine
from typing import Any, TypeVar

from atlas_sdk.guards import AsyncGuard, Guard
from atlas_sdk.integrations.metering.call import MeteredCall
from atlas_sdk.integrations.metering.endpoint import Tally

__all__ = ["AsyncWatch", "Watch", "closing", "closing_async", "within"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


@coroutine
def within(context: Context, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await `work` in another context, so that the caller does not see the context variables of an open guard."""
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
        except BaseException as error:  # noqa: BLE001  # passed on to the work
            step, value = work.throw, error


def closing(shown: Iterator[T], inner: Iterator[T]) -> Iterator[T]:
    """Yield the items that a stream shows; close the stream's inner iterator when the caller's loop ends or breaks."""
    try:
        yield from shown
    finally:
        _close(inner)


async def closing_async(shown: AsyncIterator[T], inner: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Yield the items that a stream shows; close the stream's inner iterator when the caller's loop ends or breaks."""
    try:
        async for item in shown:
            yield item
    finally:
        await _aclose(inner)


class _Watched:
    def __init__(self, call: MeteredCall) -> None:
        self._call = call
        self._tally = Tally()
        self._running = False
        self._begun = False
        self._over = False
        self._complete = False

    def _see(self, guard: Guard | AsyncGuard, event: Any) -> bool:
        shown = self._call.endpoint.see(self._tally, event)
        if not self._over:
            # Skip this if a helper has closed the response: the call is settled, although the helper still yields
            # events.
            self._call.progress(guard, self._tally)
        return shown

    @property
    def _keeps(self) -> bool:
        """True if the usage must be read before the caller sees this event, because the caller may stop there."""
        return self._tally.ending and not self._tally.final

    @property
    def _unread(self) -> bool:
        """True if the call is open, and no iterator has started that could end it."""
        return not self._begun and not self._over

    def _end(self, guard: Guard | AsyncGuard) -> None:
        self._over = True
        self._call.ended(guard, self._tally, cut=not self._complete and not self._tally.final)


class Watch(_Watched):
    """An object that counts the events of a blocking stream, and ends the guard of its call."""

    def __init__(self, call: MeteredCall, guard: Guard, context: Context) -> None:
        super().__init__(call)
        self._guard = guard
        self._context = context

    def hook(self, response: Any) -> None:
        """Make the close of the response end the guard."""
        close = response.close

        def closed() -> None:
            try:
                close()
            finally:
                # A running iterator closes the response itself, and may still have events to yield.
                if not self._running:
                    self.close()

        response.close = closed

    def through(self, events: Iterator[T]) -> Iterator[T]:
        """Yield the events of the stream, and count them."""
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
        """Settle the call. Idempotent."""
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
            # Use a thread: the garbage collector may have interrupted code that holds the lock of the connections.
            Thread(target=self._close_dropped, name="atlas-dropped-stream", daemon=True).start()
        except RuntimeError:
            # The interpreter is ending. The reservation expires, and is charged in full.
            logger.debug("could not start a thread for a dropped stream", exc_info=True)

    def _close_dropped(self) -> None:
        try:
            self.close()
        except Exception:
            logger.exception("could not settle a dropped stream: it is left to its expiry")


class AsyncWatch(_Watched):
    """An object that counts the events of an asyncio stream, and ends the guard of its call."""

    def __init__(self, call: MeteredCall, guard: AsyncGuard, context: Context) -> None:
        super().__init__(call)
        self._guard = guard
        self._context = context
        self._loop = asyncio.get_running_loop()

    def hook(self, response: Any) -> None:
        """Make the close of the response end the guard."""
        close = response.aclose

        async def closed() -> None:
            try:
                await close()
            finally:
                # See `Watch.hook`.
                if not self._running:
                    await self.close()

        response.aclose = closed

    async def through(self, events: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """Yield the events of the stream, and count them."""
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
        """Settle the call. Idempotent."""
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
            # The event loop is closed. The reservation expires, and is charged in full.
            logger.debug("the event loop is closed, so a dropped stream is not settled", exc_info=True)

    def _start_closing(self) -> None:
        task = self._loop.create_task(self._close_dropped())
        # Keep a reference until the task is done; the event loop keeps none.
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def _close_dropped(self) -> None:
        try:
            await self.close()
        except Exception:
            logger.exception("could not settle a dropped stream: it is left to its expiry")


_closing: set[asyncio.Task[None]] = set()


def _close(events: Iterator[Any]) -> None:
    if isinstance(events, Generator):
        events.close()


async def _aclose(events: AsyncIterator[Any]) -> None:
    if isinstance(events, AsyncGenerator):
        await events.aclose()
