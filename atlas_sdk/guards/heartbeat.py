"""Heartbeats, which keep the slot of a container alive while its holder lives. Without them the slot expires."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from atlas_sdk.errors import AtlasError, DatabaseError, DatabaseUnreachable, InvalidInput, NotFound, SlotLost
from atlas_sdk.guards.backend import AsyncQuotaBackend, Grant, QuotaBackend
from atlas_sdk.model.users import User

__all__ = ["AsyncHeartbeat", "Heartbeat", "HeartbeatState", "Held"]

logger = logging.getLogger(__name__)

B = TypeVar("B")
H = TypeVar("H")

#: Heartbeats in one time to live, so that two may fail.
_BEATS = 3
#: The pause after a failed heartbeat is shorter by this factor.
_HURRY = 4


class HeartbeatState:
    """The time at which a slot may be lost, by this process's clock, and the time of the next heartbeat."""

    def __init__(self, ttl: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare for `begin`."""
        self.ttl = ttl
        self.clock = clock
        self._grant: Grant | None = None
        self._lost = False
        #: The time until which the database surely keeps the slot, and the time of the next heartbeat.
        self._until = 0.0
        self._next = 0.0

    def begin(self, grant: Grant, asked_at: float) -> None:
        """Start with a grant that was requested at the time `asked_at`."""
        self._grant = grant
        self.renewed(asked_at)

    def renewed(self, asked_at: float) -> None:
        """Note a successful heartbeat that was sent at the time `asked_at`."""
        # Count from before the request. The server counts from a later time, so the slot never ends earlier there.
        self._until = asked_at + self.ttl.total_seconds()
        self._next = asked_at + self.ttl.total_seconds() / _BEATS

    def failed(self, error: AtlasError) -> bool:
        """Note a failed heartbeat; return True if the next one may succeed."""
        if isinstance(error, NotFound):
            self._lost = True
            return False
        if isinstance(error, DatabaseUnreachable | DatabaseError):
            logger.debug("heartbeat of slot %s failed", self._id, exc_info=error)
            self._next = self.clock() + self.ttl.total_seconds() / _BEATS / _HURRY
            return not self.lost
        logger.warning("slot %s gets no more heartbeats: %s", self._id, error)
        return False

    @property
    def lost(self) -> bool:
        """True if the slot has ended, or no heartbeat succeeded for a time to live. It stays lost."""
        if not self._lost and self.clock() >= self._until:
            logger.debug("no heartbeat of slot %s succeeded in time", self._id)
            self._lost = True
        return self._lost

    def check(self) -> None:
        """Raise SlotLost when the slot is lost."""
        if self.lost and self._grant is not None:
            message = (
                f"slot {self._id} (epoch {self._grant.epoch}) is lost: no heartbeat succeeded for {self.ttl}, or"
                " another process ended it; stop the container"
            )
            raise SlotLost(message, epoch=self._grant.epoch)

    @property
    def _id(self) -> object:
        return None if self._grant is None else self._grant.id

    def wait_s(self) -> float:
        """Return the seconds until the next heartbeat."""
        return max(0.0, self._next - self.clock())


class Heartbeat:
    """A thread that keeps a reservation alive until it is stopped."""

    def __init__(self, backend: QuotaBackend[Any], user: User, grant: Grant, state: HeartbeatState) -> None:
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
        """Stop sending heartbeats."""
        self._over.set()

    def join(self) -> None:
        """Wait for a heartbeat that is under way."""
        self._thread.join()


class AsyncHeartbeat:
    """A task that keeps a reservation alive until it is stopped."""

    def __init__(self, backend: AsyncQuotaBackend[Any], user: User, grant: Grant, state: HeartbeatState) -> None:
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
        """Stop sending heartbeats, and cancel one that is under way."""
        self._task.cancel()

    async def join(self) -> None:
        """Wait for a heartbeat that is under way."""
        await asyncio.wait([self._task])


class Held(Generic[B, H]):
    """Base class of guards and slots: the grant that a `with` block holds."""

    #: The word for such an object in errors.
    _kind: ClassVar[str]

    def __init__(self, backend: B, liveness: HeartbeatState | None) -> None:
        self._backend = backend
        #: None if the grant needs no heartbeats.
        self._liveness = liveness
        self._grant: Grant | None = None
        self._heartbeat: H | None = None
        #: The process that entered the block. A forked child must not settle.
        self._process = 0

    @property
    def _granted(self) -> Grant:
        if self._grant is None:
            kind = self._kind
            raise InvalidInput(f"enter the {kind} first: `with {kind} as {kind[0]}:`", field=kind)
        return self._grant

    @property
    def id(self) -> UUID:
        """The id of the reservation, or of the lease's block that the grant is a part of."""
        return self._granted.id

    @property
    def epoch(self) -> int | None:
        """The fencing number: a later grant to this user has a higher one.

        For each container, a driver obeys the highest number that it has seen for that container. Two slots that a user
        holds at the same time have different numbers, and both are valid.
        """
        return self._granted.epoch

    @property
    def lost(self) -> bool:
        """True if other containers may run in these slots: they have ended, or no heartbeat succeeded for `ttl`.

        Slots that are lost stay lost. False for a guard without slots.
        """
        self._granted  # noqa: B018  # raises before the block is entered
        return self._liveness is not None and self._liveness.lost

    def check(self) -> None:
        """Raise SlotLost if the slots are lost, else do nothing. No round trip."""
        self._granted  # noqa: B018  # as above
        if self._liveness is not None:
            self._liveness.check()
