"""Wake the waiting calls of a client by notifications: one connection listens for all of them, while there are some.

While the connection is lost, and always behind a pooler in transaction mode, a call's `is_listening` is False, and the
call must poll.
"""

import asyncio
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Event, Lock, Thread
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, Connection

from atlas_sdk._drive.configure import BACKEND_PID
from atlas_sdk._drive.failures import closed_client
from atlas_sdk._drive.listen_state import ListenState, listen_address
from atlas_sdk._drive.subscriptions import Subscription, Subscriptions, commands
from atlas_sdk._forks import reset_in_children
from atlas_sdk.errors import AtlasError, InvalidInput

if TYPE_CHECKING:
    from atlas_sdk._drive.connection_config import ConnectionConfig

__all__ = ["AsyncWakeups", "Wakeups"]
#: Seconds without a waiting call after which the connection is closed.
_IDLE_S = 5.0
#: Seconds that a closing client waits for its waiting calls to end.
_CLOSE_S = 10.0


class Wakeups:
    """The subscriptions of a blocking client, and the thread that listens for them."""

    def __init__(self, config: "ConnectionConfig") -> None:
        self._config = config
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Start anew in a forked child, which has no thread: the parent's calls wait in the parent."""
        self._lock = Condition(Lock())
        self._subscriptions: Subscriptions[Event] = Subscriptions()
        self._closed = False
        self._thread: Thread | None = None
        self._connection: Connection[Any] | None = None
        self._idle_since: float | None = None
        self._ended = self._config.pooler == "transaction"
        #: A byte sent to the second socket wakes the thread.
        self._wake: tuple[socket.socket, socket.socket] | None = None

    @contextmanager
    def subscribe(self, channel: str, name: str) -> Iterator[Subscription[Event]]:
        """Yield a subscription, which ends with the block."""
        subscription = Subscription(channel, name, Event())
        with self._lock:
            self._subscriptions.add(subscription)
            self._start()
            if self._closed:
                subscription.event.set()
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions.remove(subscription)
                self._lock.notify_all()
                self._poke()

    def check_open(self) -> None:
        """Raise InvalidInput after `close`."""
        if self._closed:
            raise closed_client()

    def close(self) -> None:
        """Wake all calls, wait until they have ended, and close the connection. Idempotent."""
        with self._lock:
            self._closed = self._ended = True
            self._subscriptions.wake_all()
            self._poke()
            self._lock.wait_for(lambda: not self._subscriptions, _CLOSE_S)
            thread = self._thread
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        """Start the thread, or let it look at the subscriptions. The caller holds the lock."""
        if self._ended:
            return
        if self._thread is not None:
            self._poke()
            return
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._thread = Thread(target=self._run, args=self._wake, name="atlas-waits", daemon=True)
        self._thread.start()

    def _poke(self) -> None:
        # A full socket wakes the thread too.
        with suppress(BlockingIOError):
            if self._wake is not None:
                self._wake[1].send(b"\0")

    def _run(self, wake: socket.socket, waker: socket.socket) -> None:
        state = ListenState(self._config, None)
        try:
            while self._is_needed():
                try:
                    self._listen(state)
                except InvalidInput:
                    self._ended = True
                except (psycopg.Error, AtlasError) as exc:
                    state.lost(exc)
                    self._disconnect()
                else:
                    self._sleep(wake, state)
        finally:
            self._disconnect()
            with self._lock, wake, waker:
                self._thread = self._wake = None
        with self._lock:
            if self._subscriptions:
                # It came while this thread was ending.
                self._start()

    def _is_needed(self) -> bool:
        with self._lock:
            if self._subscriptions:
                self._idle_since = None
            elif self._idle_since is None:
                self._idle_since = time.monotonic()
            return not self._ended and (self._idle_since is None or time.monotonic() - self._idle_since < _IDLE_S)

    def _listen(self, state: ListenState) -> None:
        """Connect if necessary, listen to the channels of the calls, and receive notifications."""
        with self._lock:
            begun, ended = self._subscriptions.changes()
        if self._connection is None:
            if not begun or state.wait_s():
                return
            address = listen_address(self._config, begun, None)
            self._connection = psycopg.connect(self._config.ready(), **address.kwargs)
            state.check_connection(self._connection, self._connection.execute(BACKEND_PID).fetchone())
            state.connected()
        if begun or ended:
            self._connection.execute(commands(begun, ended))
        for note in self._connection.notifies(timeout=0):
            state.received(note)
        with self._lock:
            self._subscriptions.changed(begun, ended)
            self._subscriptions.received(state)

    def _disconnect(self) -> None:
        with self._lock:
            self._subscriptions.lost()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _sleep(self, wake: socket.socket, state: ListenState) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            if self._connection is not None:
                selector.register(self._connection.pgconn.socket, selectors.EVENT_READ)
            selector.select(min(_IDLE_S, state.wait_s() or _IDLE_S))
        with suppress(BlockingIOError):
            wake.recv(4096)


class AsyncWakeups:
    """The subscriptions of an asyncio client, and the task that listens for them. The twin of `Wakeups`."""

    def __init__(self, config: "ConnectionConfig") -> None:
        self._config = config
        self._subscriptions: Subscriptions[asyncio.Event] = Subscriptions()
        self._task: asyncio.Task[None] | None = None
        self._connection: AsyncConnection[Any] | None = None
        self._idle_since: float | None = None
        self._ended = config.pooler == "transaction"
        self._closed = False
        self._wake = asyncio.Event()

    @contextmanager
    def subscribe(self, channel: str, name: str) -> Iterator[Subscription[asyncio.Event]]:
        """Yield a subscription, which ends with the block."""
        subscription = Subscription(channel, name, asyncio.Event())
        self._subscriptions.add(subscription)
        self._start()
        if self._closed:
            subscription.event.set()
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)
            self._wake.set()

    def check_open(self) -> None:
        """Raise InvalidInput after `close`."""
        if self._closed:
            raise closed_client()

    async def close(self) -> None:
        """Wake all calls, and close the connection. Idempotent."""
        self._closed = self._ended = True
        self._subscriptions.wake_all()
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _start(self) -> None:
        """Start the task, or let it look at the subscriptions."""
        self._wake.set()
        if not self._ended and self._task is None:
            # An event belongs to the loop that first awaits it.
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="atlas-waits")

    async def _run(self) -> None:
        state = ListenState(self._config, None)
        try:
            while self._is_needed():
                try:
                    await self._listen(state)
                except InvalidInput:
                    self._ended = True
                except (psycopg.Error, AtlasError) as exc:
                    state.lost(exc)
                    await self._disconnect()
                else:
                    await self._sleep(state)
        finally:
            self._task = None
            await self._disconnect()
        if self._subscriptions:
            # It came while this task was ending.
            self._start()

    def _is_needed(self) -> bool:
        if self._subscriptions:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        return not self._ended and (self._idle_since is None or time.monotonic() - self._idle_since < _IDLE_S)

    async def _listen(self, state: ListenState) -> None:
        """Connect if necessary, listen to the channels of the calls, and receive notifications."""
        begun, ended = self._subscriptions.changes()
        if self._connection is None:
            if not begun or state.wait_s():
                return
            address = listen_address(self._config, begun, None)
            ready = await asyncio.to_thread(self._config.ready)
            self._connection = await AsyncConnection.connect(ready, **address.kwargs)
            pid = await (await self._connection.execute(BACKEND_PID)).fetchone()
            state.check_connection(self._connection, pid)
            state.connected()
        if begun or ended:
            await self._connection.execute(commands(begun, ended))
        async for note in self._connection.notifies(timeout=0):
            state.received(note)
        self._subscriptions.changed(begun, ended)
        self._subscriptions.received(state)

    async def _disconnect(self) -> None:
        self._subscriptions.lost()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _sleep(self, state: ListenState) -> None:
        loop, number = asyncio.get_running_loop(), None if self._connection is None else self._connection.pgconn.socket
        if number is not None:
            loop.add_reader(number, self._wake.set)
        try:
            async with asyncio.timeout(min(_IDLE_S, state.wait_s() or _IDLE_S)):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            if number is not None:
                loop.remove_reader(number)
        self._wake.clear()
