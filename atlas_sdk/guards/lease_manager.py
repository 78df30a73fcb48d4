"""Lease managers maintain leases between their calls: they give idle blocks back and settle what has drained.

A client has one for all of its leases: a daemon thread, or an asyncio task. It runs while a lease needs it, and no
longer. What is left at the end of the interpreter or of the event loop is settled then.
"""

import asyncio
import atexit
import contextlib
import logging
import time
from math import inf
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from atlas_sdk._forks import reset_in_children
from atlas_sdk._namespaces import AsyncRunner, Runner
from atlas_sdk.model.users import User

__all__ = ["AsyncLeaseManager", "LeaseManager", "ManagedLease", "async_lease_manager", "lease_manager"]

logger = logging.getLogger(__name__)

#: A lease that waits for a call is maintained all the same after so long.
_AT_LAST_S = 5.0
#: Maintenance is bundled: with a thousand leases the next is always due at once.
_PAUSE_MIN_S = 0.05
#: The end of an event loop may wait so long for the settlements.
_END_S = 5.0


class _Lease(Protocol):
    """The core of a lease of either kind."""

    @property
    def user(self) -> User: ...
    @property
    def empty(self) -> bool: ...
    @property
    def can_give_back(self) -> bool: ...


class ManagedLease(_Lease, Protocol):
    """The core of a lease for threads, as its manager sees it."""

    def run_maintenance(self) -> float | None:
        """Do what is due; return in how many seconds to come again, or None: when scheduled."""
        ...

    def give_back(self) -> None:
        """Give back what no call needs."""
        ...

    def end(self) -> None:
        """Settle everything, for good: running calls are charged what they were granted."""
        ...


class AsyncManagedLease(_Lease, Protocol):
    """The core of a lease for asyncio, as its manager sees it."""

    async def run_maintenance(self) -> float | None:
        """Do what is due; return in how many seconds to come again, or None: when scheduled."""
        ...

    async def give_back(self) -> None:
        """Give back what no call needs."""
        ...

    async def end(self) -> None:
        """Settle everything, for good: running calls are charged what they were granted."""
        ...


L = TypeVar("L", bound=_Lease)


class Schedule(Generic[L]):
    """The leases that need maintenance, and when."""

    def __init__(self) -> None:
        self._due: dict[L, float] = {}

    def add(self, lease: L) -> None:
        """Maintain this one as soon as possible."""
        self._due[lease] = -inf

    def due(self, now: float) -> list[L]:
        """Return the leases to maintain now; each is returned once."""
        found = [lease for lease, at in self._due.items() if at <= now]
        for lease in found:
            self._due[lease] = now + _AT_LAST_S
        return found

    def done(self, lease: L, now: float, again_s: float | None) -> None:
        """Note that a lease was maintained, and when to come again; an empty one needs nothing."""
        if lease.empty:
            self._due.pop(lease, None)
        elif self._due.get(lease, 0.0) > now and again_s is not None:
            # Not when it was added again meanwhile.
            self._due[lease] = now + again_s

    def wait_s(self, now: float) -> float:
        """Return how long nothing is due."""
        return max(min(self._due.values(), default=now) - now, _PAUSE_MIN_S)

    def all(self) -> list[L]:
        """Return every lease that needs maintenance."""
        return list(self._due)

    def __len__(self) -> int:
        return len(self._due)


class _Manager(Generic[L]):
    """Base class of both managers: the leases of one client."""

    def __init__(self) -> None:
        self._known: WeakSet[L] = WeakSet()
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Maintain nothing in a forked child: what leases hold is the parent's."""
        self._lock = RLock()
        self._schedule: Schedule[L] = Schedule()

    def register(self, lease: L) -> None:
        """Add a lease, to be asked when something is to be given back."""
        with self._lock:
            self._known.add(lease)

    def _idle(self, user: User, but: L | None) -> list[L]:
        with self._lock:
            known = list(self._known)
        return [lease for lease in known if lease is not but and lease.user.id == user.id and lease.can_give_back]


class LeaseManager(_Manager[ManagedLease]):
    """Maintains the leases of one client in a thread of its own."""

    def after_fork(self) -> None:
        """Maintain nothing in a forked child: the thread is the parent's, too."""
        super().after_fork()
        # The one queue that a finalizer may put into while its thread is in it.
        self._added: SimpleQueue[ManagedLease] = SimpleQueue()
        self._runs = False

    def give_back(self, user: User, *, but: ManagedLease | None = None) -> bool:
        """Give back what a user's leases hold and no call needs; return whether there was any.

        This waits for the scripts of those leases, so a script must not call it.
        """
        leases = self._idle(user, but)
        for lease in leases:
            lease.give_back()
        return bool(leases)

    def schedule(self, lease: ManagedLease) -> None:
        """Maintain this lease, now and from now on. Never waits."""
        self._added.put(lease)
        with self._lock:
            if self._runs:
                return
            self._runs = True
        try:
            Thread(target=self._run, name="atlas-leases", daemon=True).start()
        except RuntimeError:
            # At the end of the interpreter: `_end_all` settles.
            self._runs = False
            logger.debug("no thread for the leases", exc_info=True)

    def _run(self) -> None:
        added, schedule = self._added, self._schedule
        while True:
            now = time.monotonic()
            for lease in schedule.due(now):
                again_s = None
                try:
                    again_s = lease.run_maintenance()
                except Exception:
                    logger.exception("a lease could not be maintained: what it holds is left to its expiry")
                schedule.done(lease, now, again_s)
            try:
                schedule.add(added.get(timeout=schedule.wait_s(time.monotonic()) if len(schedule) else 0.0))
                while True:
                    schedule.add(added.get_nowait())
            except Empty:
                if len(schedule):
                    continue
            with self._lock:
                # Under the lock that `schedule` takes after it has put something in.
                if added.empty():
                    self._runs = False
                    return

    def end(self) -> None:
        """Settle everything that leases hold, for good."""
        # Copied: the thread may be in the middle of its round.
        leases = set(self._schedule.all())
        with contextlib.suppress(Empty):
            while True:
                leases.add(self._added.get_nowait())
        for lease in leases:
            lease.end()


class AsyncLeaseManager(_Manager[AsyncManagedLease]):
    """Maintains the leases of one client in a task of its own."""

    def after_fork(self) -> None:
        """Maintain nothing in a forked child: the task is the parent's, too."""
        super().after_fork()
        self._added = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def give_back(self, user: User, *, but: AsyncManagedLease | None = None) -> bool:
        """Give back what a user's leases hold and no call needs; return whether there was any.

        This waits for the scripts of those leases, so a script must not call it.
        """
        leases = self._idle(user, but)
        for lease in leases:
            await lease.give_back()
        return bool(leases)

    def schedule(self, lease: AsyncManagedLease) -> None:
        """Maintain this lease, now and from now on."""
        self._schedule.add(lease)
        if self._task is not None and not self._task.done():
            self._added.set()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # A finalizer after the end of the loop: the next call, or the expiry, sees to it.
            logger.debug("no event loop for the leases", exc_info=True)
            return
        # One event a task: it belongs to the loop that it was first awaited on.
        self._added = asyncio.Event()
        self._task = loop.create_task(self._run(), name="atlas-leases")

    async def _run(self) -> None:
        try:
            while len(self._schedule):
                self._added.clear()
                now = time.monotonic()
                for lease in self._schedule.due(now):
                    again_s = None
                    try:
                        again_s = await lease.run_maintenance()
                    except Exception:
                        logger.exception("a lease could not be maintained: what it holds is left to its expiry")
                    self._schedule.done(lease, now, again_s)
                if len(self._schedule):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._added.wait(), self._schedule.wait_s(time.monotonic()))
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
        for lease in self._schedule.all():
            await lease.end()
            self._schedule.done(lease, 0.0, None)


_managers: "WeakKeyDictionary[Runner, LeaseManager]" = WeakKeyDictionary()
_async_managers: "WeakKeyDictionary[AsyncRunner, AsyncLeaseManager]" = WeakKeyDictionary()


def lease_manager(runner: Runner) -> LeaseManager:
    """Return the lease manager of a blocking client."""
    return _managers.setdefault(runner, LeaseManager())


def async_lease_manager(runner: AsyncRunner) -> AsyncLeaseManager:
    """Return the lease manager of an asyncio client."""
    return _async_managers.setdefault(runner, AsyncLeaseManager())


def _end_all() -> None:
    for manager in list(_managers.values()):
        manager.end()


atexit.register(_end_all)
