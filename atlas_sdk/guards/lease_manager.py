"""Lease managers maintain leases between their calls: they call each lease when its maintenance is due.

The maintenance gives idle blocks back and settles drained ones; `block_pool` decides which block is idle.

A client has one manager for all its leases, which runs as a daemon thread or an asyncio task while a lease needs it. At
the end of the interpreter or of the event loop it settles everything that is left.
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
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.model.users import User

__all__ = ["AsyncLeaseManager", "LeaseManager", "ManagedLease", "async_lease_manager", "lease_manager"]

logger = logging.getLogger(__name__)

#: Dimensions that leases hold. If one of them is exhausted, giving back idle blocks may help.
_LEASED = frozenset({"tokens", "cost", "requests"})
#: The longest time between two maintenances of a lease, in seconds.
_AT_LAST_S = 5.0
#: The shortest pause between two rounds, in seconds, so that a thousand leases share a round.
_PAUSE_MIN_S = 0.05
#: Seconds that the end of an event loop waits for settlements.
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
        """Maintain the lease; return the seconds until the next time, or None to wait for `schedule`."""
        ...

    def give_back(self) -> None:
        """Give back the unused parts of all blocks."""
        ...

    def end(self) -> None:
        """End the lease: settle everything, and charge running calls their whole grant."""
        ...


class AsyncManagedLease(_Lease, Protocol):
    """The core of a lease for asyncio. Its methods do the same as those of `ManagedLease`."""

    async def run_maintenance(self) -> float | None: ...
    async def give_back(self) -> None: ...
    async def end(self) -> None: ...


L = TypeVar("L", bound=_Lease)


class Schedule(Generic[L]):
    """The leases that need maintenance, with the time of the next one."""

    def __init__(self) -> None:
        self._due: dict[L, float] = {}

    def add(self, lease: L) -> None:
        """Schedule a lease for the next round."""
        self._due[lease] = -inf

    def due(self, now: float) -> list[L]:
        """Return the leases to maintain now, and postpone each to `_AT_LAST_S` from now."""
        found = [lease for lease, at in self._due.items() if at <= now]
        for lease in found:
            self._due[lease] = now + _AT_LAST_S
        return found

    def done(self, lease: L, now: float, again_s: float | None) -> None:
        """Set the next time of a lease after its maintenance; remove an empty lease."""
        if lease.empty:
            self._due.pop(lease, None)
        elif self._due.get(lease, 0.0) > now and again_s is not None:
            # Keep the time of a lease that was added again in the meantime.
            self._due[lease] = now + again_s

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next lease is due."""
        return max(min(self._due.values(), default=now) - now, _PAUSE_MIN_S)

    def all(self) -> list[L]:
        """Return every lease that needs maintenance."""
        return list(self._due)

    def __len__(self) -> int:
        return len(self._due)


class _Manager(Generic[L]):
    """Base class of both managers, with the leases of one client."""

    def __init__(self) -> None:
        self._known: WeakSet[L] = WeakSet()
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Reset the manager in a forked child: the parent maintains its leases."""
        self._lock = RLock()
        self._schedule: Schedule[L] = Schedule()

    def register(self, lease: L) -> None:
        """Add a lease, so that `make_room` finds it."""
        with self._lock:
            self._known.add(lease)

    def _idle(self, user: User, refusal: QuotaExceeded, but: L | None) -> list[L]:
        """Return the leases that have something to give back, or raise the refusal."""
        with self._lock:
            known = list(self._known)
        found = [lease for lease in known if lease is not but and lease.user.id == user.id and lease.can_give_back]
        if refusal.dimension not in _LEASED or not found:
            raise refusal
        return found


class LeaseManager(_Manager[ManagedLease]):
    """A thread that maintains the leases of one client."""

    def after_fork(self) -> None:
        """Reset the manager in a forked child, which has no thread."""
        super().after_fork()
        # A SimpleQueue is reentrant: a finalizer may call `put` while the same thread is inside the queue.
        self._added: SimpleQueue[ManagedLease] = SimpleQueue()
        self._runs = False

    def make_room(self, user: User, refusal: QuotaExceeded, *, but: ManagedLease | None = None) -> None:
        """Give back the unused parts of the user's other leases after a refusal. Raises the refusal if there are none.

        This waits for the scripts of those leases, so a script must not call it.
        """
        leases = self._idle(user, refusal, but)
        for lease in leases:
            lease.give_back()

    def schedule(self, lease: ManagedLease) -> None:
        """Maintain this lease from now on. Never waits."""
        self._added.put(lease)
        with self._lock:
            if self._runs:
                return
            self._runs = True
        try:
            Thread(target=self._run, name="atlas-leases", daemon=True).start()
        except RuntimeError:
            # The interpreter is ending, and `_end_all` settles everything.
            self._runs = False
            logger.debug("could not start the thread of the leases", exc_info=True)

    def _run(self) -> None:
        added, schedule = self._added, self._schedule
        while True:
            now = time.monotonic()
            for lease in schedule.due(now):
                again_s = None
                try:
                    again_s = lease.run_maintenance()
                except Exception:
                    logger.exception("could not maintain a lease: its blocks are left to their expiry")
                schedule.done(lease, now, again_s)
            try:
                schedule.add(added.get(timeout=schedule.wait_s(time.monotonic()) if len(schedule) else 0.0))
                while True:
                    schedule.add(added.get_nowait())
            except Empty:
                if len(schedule):
                    continue
            with self._lock:
                # Check this under the lock, because `schedule` first adds a lease and then takes the same lock.
                if added.empty():
                    self._runs = False
                    return

    def end(self) -> None:
        """End all leases: settle everything that they hold."""
        # Copy the set, because the thread may be in the middle of a round.
        leases = set(self._schedule.all())
        with contextlib.suppress(Empty):
            while True:
                leases.add(self._added.get_nowait())
        for lease in leases:
            lease.end()


class AsyncLeaseManager(_Manager[AsyncManagedLease]):
    """A task that maintains the leases of one client."""

    def after_fork(self) -> None:
        """Reset the manager in a forked child, which has no task."""
        super().after_fork()
        self._added = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def make_room(self, user: User, refusal: QuotaExceeded, *, but: AsyncManagedLease | None = None) -> None:
        """Give back the unused parts of the user's other leases, as `LeaseManager.make_room` does."""
        leases = self._idle(user, refusal, but)
        for lease in leases:
            await lease.give_back()

    def schedule(self, lease: AsyncManagedLease) -> None:
        """Maintain this lease from now on."""
        self._schedule.add(lease)
        if self._task is not None and not self._task.done():
            self._added.set()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # A finalizer ran after the end of the loop. The next call settles the block; without a next call, the block
            # expires.
            logger.debug("no event loop runs for the leases", exc_info=True)
            return
        # Create an event per task, because an event belongs to the loop that first awaits it.
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
                        logger.exception("could not maintain a lease: its blocks are left to their expiry")
                    self._schedule.done(lease, now, again_s)
                if len(self._schedule):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._added.wait(), self._schedule.wait_s(time.monotonic()))
        except asyncio.CancelledError:
            # The event loop ends: settle now.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end(), _END_S)
            raise

    async def end(self) -> None:
        """End all leases: settle everything that they hold."""
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
