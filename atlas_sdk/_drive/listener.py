"""Listeners, which receive the notifications of channels, blocking or on asyncio."""

import asyncio
import contextlib
import selectors
import socket
import time
from collections.abc import AsyncIterator, Iterator
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, Connection

from atlas_sdk._drive.configure import BACKEND_PID
from atlas_sdk._drive.listen_state import ListenState, listen_address
from atlas_sdk._translate import translate
from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.model.notifications import Notification, NotificationGap

if TYPE_CHECKING:
    from atlas_sdk._drive.connection_config import ConnectionConfig

__all__ = ["AsyncListener", "Listener"]


def _not_entered() -> InvalidInput:
    return InvalidInput("enter it first: `with atlas.listen(…) as notifications`", field="listener")


def _left(deadline: float | None, most: float | None = None) -> float | None:
    """Return the seconds until the deadline, but not more than `most`; None means a wait without an end."""
    if deadline is None:
        return most
    left = max(0.0, deadline - time.monotonic())
    return left if most is None else min(left, most)


class Listener:
    """A receiver of notifications on a connection of its own. `Atlas.listen` makes it.

    Iterate over the listener in one thread: each item is a `Notification`, or a `NotificationGap` after the connection
    was lost and opened again. `stop()` ends the iteration from any thread.
    """

    def __init__(self, config: "ConnectionConfig", channels: tuple[str, ...], tenant: UUID | None = None) -> None:
        """Use `Atlas.listen` instead of this constructor."""
        self._config = config
        self._address = listen_address(config, channels, tenant)
        self._state = ListenState(config, tenant)
        self._connection: Connection[Any] | None = None
        self._stopped = False
        self._lock = Lock()
        #: A byte sent to the second socket wakes the thread that waits for the first one.
        self._wake: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Self:
        """Start to listen; the listener receives all later notifications. Raises DatabaseUnreachable, InvalidInput."""
        try:
            self._connect()
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc
        self._wake = socket.socketpair()
        self._wake[1].setblocking(False)
        self._config.listeners.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Notification | NotificationGap]:
        """Yield notifications and gaps until the listener is stopped."""
        while (found := self.get()) is not None:
            yield found

    def get(self, *, timeout_s: float | None = None) -> Notification | NotificationGap | None:
        """Wait for the next item; return None after the time-out or when the listener is stopped."""
        self._state.check_process()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            if self._wake is None:
                raise _not_entered()
            while not self._stopped:
                if (found := self._state.take()) is not None:
                    return found
                self._wait_and_receive(deadline)
                if deadline is not None and time.monotonic() >= deadline:
                    return self._state.take()
        return None

    def stop(self) -> None:
        """Ask the listener to end its iteration. Any thread may call this, also more than once."""
        self._stopped = True
        # Ignore an error: a full socket wakes the thread too, and after `close` no thread waits.
        with contextlib.suppress(OSError):
            if self._wake is not None:
                self._wake[1].send(b"\0")

    def close(self) -> None:
        """Stop the listener, and close its connection. A second call does nothing."""
        self.stop()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            for end in self._wake or ():
                end.close()

    def _connect(self) -> None:
        connection = psycopg.connect(self._config.ready(), **self._address.kwargs)
        try:
            self._state.check_connection(connection, connection.execute(BACKEND_PID).fetchone())
            connection.execute(self._address.listen)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._state.connected()
        # Read now: a notification that came together with the answer does not make the socket readable again.
        self._receive(connection)

    def _wait_and_receive(self, deadline: float | None) -> None:
        """Wait for notifications of the server and receive them; without a connection, wait and reconnect."""
        connection = self._connection
        if connection is None:
            if self._wait(None, _left(deadline, self._state.wait_s())) and not self._state.wait_s():
                self._reconnect()
            return
        if not self._wait(connection.pgconn.socket, _left(deadline)):
            return
        self._receive(connection)

    def _receive(self, connection: Connection[Any]) -> None:
        try:
            for note in connection.notifies(timeout=0):
                self._state.received(note)
        except psycopg.Error as exc:
            self._state.lost(exc)
            self._connection = None
            connection.close()

    def _reconnect(self) -> None:
        try:
            self._connect()
        except (psycopg.Error, AtlasError) as exc:
            self._state.lost(exc)

    def _wait(self, number: int | None, seconds: float | None) -> bool:
        """Wait until the socket can be read; without a socket, wait for these seconds.

        Return False after `stop`, or if the time is up before the socket can be read.
        """
        with selectors.DefaultSelector() as selector:
            if self._wake is not None:
                selector.register(self._wake[0], selectors.EVENT_READ)
            if number is not None:
                selector.register(number, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(seconds)}
        return not self._stopped and (number is None or number in ready)


class AsyncListener:
    """A receiver of notifications on a connection of its own. `AsyncAtlas.listen` makes it. See `Listener`."""

    def __init__(self, config: "ConnectionConfig", channels: tuple[str, ...], tenant: UUID | None = None) -> None:
        """Use `AsyncAtlas.listen` instead of this constructor."""
        self._config = config
        self._address = listen_address(config, channels, tenant)
        self._state = ListenState(config, tenant)
        self._connection: AsyncConnection[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start to listen; the listener receives all later notifications. Raises DatabaseUnreachable, InvalidInput."""
        try:
            await self._connect()
        except psycopg.Error as exc:
            raise translate(exc, self._config.dsn) from exc
        self._loop = asyncio.get_running_loop()
        self._config.listeners.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Notification | NotificationGap]:
        """Yield notifications and gaps until the listener is stopped."""
        while (found := await self.get()) is not None:
            yield found

    async def get(self, *, timeout_s: float | None = None) -> Notification | NotificationGap | None:
        """Wait for the next item; return None after the time-out or when the listener is stopped."""
        self._state.check_process()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        async with self._lock:
            if self._loop is None:
                raise _not_entered()
            while not self._stopped:
                if (found := self._state.take()) is not None:
                    return found
                await self._wait_and_receive(deadline)
                if deadline is not None and time.monotonic() >= deadline:
                    return self._state.take()
        return None

    def stop(self) -> None:
        """Ask the listener to end its iteration. Any thread may call this, also more than once. Do not await it."""
        self._stopped = True
        # Ignore the error of a closed loop: no task waits in it.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake.set)

    async def close(self) -> None:
        """Stop the listener, and close its connection. A second call does nothing."""
        self.stop()
        async with self._lock:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def _connect(self) -> None:
        ready = await asyncio.to_thread(self._config.ready)
        connection = await AsyncConnection.connect(ready, **self._address.kwargs)
        try:
            self._state.check_connection(connection, await (await connection.execute(BACKEND_PID)).fetchone())
            await connection.execute(self._address.listen)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        self._state.connected()
        # Read now: a notification that came together with the answer does not make the socket readable again.
        await self._receive(connection)

    async def _wait_and_receive(self, deadline: float | None) -> None:
        """Wait for notifications of the server and receive them; without a connection, wait and reconnect."""
        connection = self._connection
        if connection is None:
            if await self._wait(None, _left(deadline, self._state.wait_s())) and not self._state.wait_s():
                await self._reconnect()
            return
        if not await self._wait(connection.pgconn.socket, _left(deadline)):
            return
        await self._receive(connection)

    async def _receive(self, connection: AsyncConnection[Any]) -> None:
        try:
            async for note in connection.notifies(timeout=0):
                self._state.received(note)
        except psycopg.Error as exc:
            self._state.lost(exc)
            self._connection = None
            await connection.close()

    async def _reconnect(self) -> None:
        try:
            await self._connect()
        except (psycopg.Error, AtlasError) as exc:
            self._state.lost(exc)

    async def _wait(self, number: int | None, seconds: float | None) -> bool:
        """Wait until the socket can be read; without a socket, wait for these seconds.

        Return False after `stop`, or if the time is up before the socket can be read.
        """
        loop = asyncio.get_running_loop()
        self._wake.clear()
        if self._stopped:
            return False
        if number is not None:
            loop.add_reader(number, self._wake.set)
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return number is None
        finally:
            if number is not None:
                loop.remove_reader(number)
        return not self._stopped
