"""Keepers look after leases between their calls: they give idle blocks back and settle what has drained.

One for a client, for all of its leases: a daemon thread, or an asyncio task. It runs while there is something to look
after, and no longer. What is left at the end of the interpreter or of the event loop is settled then.
"""

import asyncio
import atexit
import contextlib
import logging
import time
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from atlas_sdk._faces import AsyncRunner, Runner
from atlas_sdk.guards.forks import tell_of_forks
from atlas_sdk.guards.rounds import Rounds
from atlas_sdk.model.users import User

__all__ = ["AsyncKeeper", "AsyncKept", "Keeper", "Kept", "keeper_of", "keeper_on"]

logger = logging.getLogger(__name__)

H = TypeVar("H", bound="_Holder")

#: How long the end of an event loop may wait for the settlements.
_END_S = 5.0


class _Holder(Protocol):
    """A lease of either kind."""

    @property
    def user(self) -> User:
        """Whose quota it holds."""
        ...

    @property
    def empty(self) -> bool:
        """Whether there is nothing to look after."""
        ...

    @property
    def can_give_back(self) -> bool:
        """Whether it holds something that no call needs."""
        ...


class Kept(_Holder, Protocol):
    """A lease for threads, as its keeper sees it."""

    def tend(self) -> float | None:
        """Do what is due; return in how many seconds to come again, or None: when called."""
        ...

    def give_back(self) -> None:
        """Give back what no call needs."""
        ...

    def end(self) -> None:
        """Settle everything, for good: calls that still run are charged what they were promised."""
        ...


def _idle(leases: "list[H]", user: User, but: H | None) -> "list[H]":
    return [lease for lease in leases if lease is not but and lease.user.id == user.id and lease.can_give_back]


class Keeper:
    """Looks after the leases of one client in a thread of its own."""

    def __init__(self) -> None:
        self._known: WeakSet[Kept] = WeakSet()
        self.after_fork()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """Look after nothing: thread, task and what leases hold are the parent's."""
        # The one queue that a finalizer may put into while its thread is in it.
        self._calls: SimpleQueue[Kept] = SimpleQueue()
        self._rounds: Rounds[Kept] = Rounds()
        self._starting = RLock()
        self._runs = False

    def know(self, lease: Kept) -> None:
        """Ask this lease too when something is to be given back."""
        with self._starting:
            self._known.add(lease)

    def give_back(self, user: User, *, but: Kept | None = None) -> bool:
        """Give back what a user's leases hold and no call needs; return whether there was any.

        Waits for the talks of those leases, so not to be called in such a talk.
        """
        with self._starting:
            known = list(self._known)
        leases = _idle(known, user, but)
        for lease in leases:
            lease.give_back()
        return bool(leases)

    def call(self, lease: Kept) -> None:
        """Have this lease looked after, now and from now on. Never waits."""
        self._calls.put(lease)
        with self._starting:
            if self._runs:
                return
            self._runs = True
        try:
            Thread(target=self._run, name="atlas-leases", daemon=True).start()
        except RuntimeError:
            # At the end of the interpreter: `end_all` settles.
            self._runs = False
            logger.debug("no thread for the leases", exc_info=True)

    def _run(self) -> None:
        calls, rounds = self._calls, self._rounds
        while True:
            now = time.monotonic()
            for lease in rounds.due(now):
                again_s = None
                try:
                    again_s = lease.tend()
                except Exception:
                    logger.exception("a lease could not be looked after: what it holds is left to its expiry")
                rounds.seen(lease, now, again_s)
            try:
                rounds.call(calls.get(timeout=rounds.wait_s(time.monotonic()) if len(rounds) else 0.0))
                while True:
                    rounds.call(calls.get_nowait())
            except Empty:
                if len(rounds):
                    continue
            with self._starting:
                # Under the lock that `call` takes after it has put something in.
                if calls.empty():
                    self._runs = False
                    return

    def end(self) -> None:
        """Settle everything that leases hold, for good."""
        # Copied: the thread may be in the middle of its round.
        leases = set(self._rounds.all())
        with contextlib.suppress(Empty):
            while True:
                leases.add(self._calls.get_nowait())
        for lease in leases:
            lease.end()


class AsyncKept(_Holder, Protocol):
    """A lease for asyncio, as its keeper sees it."""

    async def tend(self) -> float | None:
        """Do what is due; return in how many seconds to come again, or None: when called."""
        ...

    async def give_back(self) -> None:
        """Give back what no call needs."""
        ...

    async def end(self) -> None:
        """Settle everything, for good: calls that still run are charged what they were promised."""
        ...


class AsyncKeeper:
    """Looks after the leases of one client in a task of its own."""

    def __init__(self) -> None:
        self._known: WeakSet[AsyncKept] = WeakSet()
        self.after_fork()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """Look after nothing: thread, task and what leases hold are the parent's."""
        self._rounds: Rounds[AsyncKept] = Rounds()
        self._called = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def know(self, lease: AsyncKept) -> None:
        """Ask this lease too when something is to be given back."""
        self._known.add(lease)

    async def give_back(self, user: User, *, but: AsyncKept | None = None) -> bool:
        """Give back what a user's leases hold and no call needs; return whether there was any.

        Waits for the talks of those leases, so not to be called in such a talk.
        """
        leases = _idle(list(self._known), user, but)
        for lease in leases:
            await lease.give_back()
        return bool(leases)

    def call(self, lease: AsyncKept) -> None:
        """Have this lease looked after, now and from now on."""
        self._rounds.call(lease)
        if self._task is not None and not self._task.done():
            self._called.set()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # A finalizer after the end of the loop: the next call, or the expiry, sees to it.
            logger.debug("no event loop for the leases", exc_info=True)
            return
        # One event a task: it belongs to the loop that it was first awaited on.
        self._called = asyncio.Event()
        self._task = loop.create_task(self._run(), name="atlas-leases")

    async def _run(self) -> None:
        try:
            while len(self._rounds):
                self._called.clear()
                now = time.monotonic()
                for lease in self._rounds.due(now):
                    again_s = None
                    try:
                        again_s = await lease.tend()
                    except Exception:
                        logger.exception("a lease could not be looked after: what it holds is left to its expiry")
                    self._rounds.seen(lease, now, again_s)
                if len(self._rounds):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._called.wait(), self._rounds.wait_s(time.monotonic()))
        except asyncio.CancelledError:
            # The event loop ends: there is no later.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end(), _END_S)
            raise

    async def end(self) -> None:
        """Settle everything that leases hold, for good."""
        task = self._task
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])
        await self._end()

    async def _end(self) -> None:
        for lease in self._rounds.all():
            await lease.end()
            self._rounds.seen(lease, 0.0, None)


_keepers: "WeakKeyDictionary[Runner, Keeper]" = WeakKeyDictionary()
_async_keepers: "WeakKeyDictionary[AsyncRunner, AsyncKeeper]" = WeakKeyDictionary()


def keeper_of(runner: Runner) -> Keeper:
    """Return the keeper of a blocking client."""
    return _keepers.setdefault(runner, Keeper())


def keeper_on(runner: AsyncRunner) -> AsyncKeeper:
    """Return the keeper of an asyncio client."""
    return _async_keepers.setdefault(runner, AsyncKeeper())


def _end_all() -> None:
    for keeper in list(_keepers.values()):
        keeper.end()


atexit.register(_end_all)
