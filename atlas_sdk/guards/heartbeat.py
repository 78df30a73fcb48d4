"""Heartbeats: a container's place is kept while somebody says that it is needed, and lost when nobody does."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread

from atlas_sdk.errors import AtlasError, DatabaseError, DatabaseUnreachable, NotFound, SlotLost
from atlas_sdk.guards.source import AsyncSource, Held, Source
from atlas_sdk.model.users import User

__all__ = ["AsyncHeartbeat", "Heartbeat", "Pulse"]

logger = logging.getLogger(__name__)

#: Heartbeats in one time to live: two may fail.
_BEATS = 3
#: After one that failed, the next comes this much sooner.
_HURRY = 4


class Pulse:
    """Whether a place is still ours, by our own clock, and when to ask for more time."""

    def __init__(self, ttl: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is kept before `begin`."""
        self.ttl = ttl
        self.clock = clock
        self._held: Held | None = None
        self._lost = False
        #: Until when the place is ours for sure, and when to ask for more.
        self._until = 0.0
        self._next = 0.0

    def begin(self, held: Held, asked_at: float) -> None:
        """Keep what was granted to a request of that time."""
        self._held = held
        self.renewed(asked_at)

    def renewed(self, asked_at: float) -> None:
        """Note that it was granted, or kept, for another time to live."""
        # From before the request: the server's own count starts later, so it never ends earlier.
        self._until = asked_at + self.ttl.total_seconds()
        self._next = asked_at + self.ttl.total_seconds() / _BEATS

    def missed(self, error: AtlasError) -> bool:
        """Tell whether another heartbeat makes sense after this error."""
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
        """Whether the place is gone, or no heartbeat came through for a time to live. It stays lost."""
        if not self._lost and self.clock() >= self._until:
            logger.debug("no heartbeat of slot %s came through in time", self._id)
            self._lost = True
        return self._lost

    def check(self) -> None:
        """Raise SlotLost when it is lost."""
        if self.lost and self._held is not None:
            message = (
                f"slot {self._id} (epoch {self._held.epoch}) is lost: it was not kept alive for {self.ttl}, or"
                " somebody ended it; stop what runs in it"
            )
            raise SlotLost(message, epoch=self._held.epoch)

    @property
    def _id(self) -> object:
        return None if self._held is None else self._held.id

    def wait_s(self) -> float:
        """Return how long to wait for the next heartbeat."""
        return max(0.0, self._next - self.clock())


class Heartbeat:
    """Keeps a promise in a thread of its own until it is stopped."""

    def __init__(self, source: Source, user: User, held: Held, pulse: Pulse) -> None:
        self._source = source
        self._user = user
        self._held = held
        self._pulse = pulse
        self._over = Event()
        self._thread = Thread(target=self._beat, name="atlas-slot", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        pulse = self._pulse
        while not self._over.wait(pulse.wait_s()) and not pulse.lost:
            asked_at = pulse.clock()
            try:
                self._source.extend(self._user, self._held, tokens=0, cost=0, ttl=pulse.ttl)
            except AtlasError as problem:
                if not pulse.missed(problem):
                    return
            else:
                if not pulse.lost:
                    pulse.renewed(asked_at)

    def stop(self) -> None:
        """Begin no heartbeat any more."""
        self._over.set()

    def join(self) -> None:
        """Wait for the end of one that has begun."""
        self._thread.join()


class AsyncHeartbeat:
    """Keeps a promise in a task of its own until it is stopped."""

    def __init__(self, source: AsyncSource, user: User, held: Held, pulse: Pulse) -> None:
        self._source = source
        self._user = user
        self._held = held
        self._pulse = pulse
        self._task = asyncio.get_running_loop().create_task(self._beat(), name="atlas-slot")

    async def _beat(self) -> None:
        pulse = self._pulse
        while True:
            await asyncio.sleep(pulse.wait_s())
            if pulse.lost:
                return
            asked_at = pulse.clock()
            try:
                await self._source.extend(self._user, self._held, tokens=0, cost=0, ttl=pulse.ttl)
            except AtlasError as problem:
                if not pulse.missed(problem):
                    return
            else:
                if not pulse.lost:
                    pulse.renewed(asked_at)

    def stop(self) -> None:
        """Begin no heartbeat any more, and give up one that has begun."""
        self._task.cancel()

    async def join(self) -> None:
        """Wait for the end of one that has begun."""
        await asyncio.wait([self._task])
