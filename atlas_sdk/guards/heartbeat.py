"""Heartbeats: they keep a container's place while its holder lives. Without them the place expires."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread

from atlas_sdk.errors import AtlasError, DatabaseError, DatabaseUnreachable, NotFound, SlotLost
from atlas_sdk.guards.backend import AsyncQuotaBackend, Grant, QuotaBackend
from atlas_sdk.model.users import User

__all__ = ["AsyncHeartbeat", "Heartbeat", "HeartbeatState"]

logger = logging.getLogger(__name__)

#: Heartbeats in one time to live: two may fail.
_BEATS = 3
#: After a failed heartbeat the next one comes this much sooner.
_HURRY = 4


class HeartbeatState:
    """Time until which a place is kept, by this process's clock, and the time of the next heartbeat."""

    def __init__(self, ttl: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep nothing before `begin`."""
        self.ttl = ttl
        self.clock = clock
        self._grant: Grant | None = None
        self._lost = False
        #: The place is surely kept until then, and the next heartbeat is due then.
        self._until = 0.0
        self._next = 0.0

    def begin(self, grant: Grant, asked_at: float) -> None:
        """Keep a grant that was asked for at that time."""
        self._grant = grant
        self.renewed(asked_at)

    def renewed(self, asked_at: float) -> None:
        """Note that the place is kept for another `ttl` from then on."""
        # Count from before the request. The server counts from a later moment, so the place never ends earlier there.
        self._until = asked_at + self.ttl.total_seconds()
        self._next = asked_at + self.ttl.total_seconds() / _BEATS

    def failed(self, error: AtlasError) -> bool:
        """Note a failed heartbeat; return whether another one makes sense."""
        if isinstance(error, NotFound):
            self._lost = True
            return False
        if isinstance(error, DatabaseUnreachable | DatabaseError):
            logger.debug("a heartbeat of slot %s failed", self._id, exc_info=error)
            self._next = self.clock() + self.ttl.total_seconds() / _BEATS / _HURRY
            return not self.lost
        logger.warning("slot %s has no heartbeat any more: %s", self._id, error)
        return False

    @property
    def lost(self) -> bool:
        """True if the place is gone, or no heartbeat came through for a time to live. It stays lost."""
        if not self._lost and self.clock() >= self._until:
            logger.debug("no heartbeat of slot %s came through in time", self._id)
            self._lost = True
        return self._lost

    def check(self) -> None:
        """Raise SlotLost when it is lost."""
        if self.lost and self._grant is not None:
            message = (
                f"slot {self._id} (epoch {self._grant.epoch}) is lost: it was not kept alive for {self.ttl}, or"
                " somebody ended it; stop what runs in it"
            )
            raise SlotLost(message, epoch=self._grant.epoch)

    @property
    def _id(self) -> object:
        return None if self._grant is None else self._grant.id

    def wait_s(self) -> float:
        """Return how long to wait for the next heartbeat."""
        return max(0.0, self._next - self.clock())


class Heartbeat:
    """Keeps a reservation alive in a thread of its own until it is stopped."""

    def __init__(self, backend: QuotaBackend, user: User, grant: Grant, state: HeartbeatState) -> None:
        self._backend = backend
        self._user = user
        self._grant = grant
        self._state = state
        self._over = Event()
        self._thread = Thread(target=self._beat, name="atlas-slot", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        state = self._state
        while not self._over.wait(state.wait_s()) and not state.lost:
            asked_at = state.clock()
            try:
                self._backend.extend(self._user, self._grant, tokens=0, cost=0, ttl=state.ttl)
            except AtlasError as problem:
                if not state.failed(problem):
                    return
            else:
                if not state.lost:
                    state.renewed(asked_at)

    def stop(self) -> None:
        """Start no more heartbeats."""
        self._over.set()

    def join(self) -> None:
        """Wait for the end of a heartbeat that has started."""
        self._thread.join()


class AsyncHeartbeat:
    """Keeps a reservation alive in a task of its own until it is stopped."""

    def __init__(self, backend: AsyncQuotaBackend, user: User, grant: Grant, state: HeartbeatState) -> None:
        self._backend = backend
        self._user = user
        self._grant = grant
        self._state = state
        self._task = asyncio.get_running_loop().create_task(self._beat(), name="atlas-slot")

    async def _beat(self) -> None:
        state = self._state
        while True:
            await asyncio.sleep(state.wait_s())
            if state.lost:
                return
            asked_at = state.clock()
            try:
                await self._backend.extend(self._user, self._grant, tokens=0, cost=0, ttl=state.ttl)
            except AtlasError as problem:
                if not state.failed(problem):
                    return
            else:
                if not state.lost:
                    state.renewed(asked_at)

    def stop(self) -> None:
        """Start no more heartbeats, and cancel one that has started."""
        self._task.cancel()

    async def join(self) -> None:
        """Wait for the end of a heartbeat that has started."""
        await asyncio.wait([self._task])
