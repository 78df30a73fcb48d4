"""Slots: a container's place among those that may run at once, kept by a heartbeat."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from threading import Event, Thread
from types import TracebackType
from typing import Self
from uuid import UUID

from atlas_sdk.errors import AtlasError, DatabaseError, DatabaseUnreachable, InvalidInput, NotFound, SlotLost
from atlas_sdk.guards.asking import Ask
from atlas_sdk.guards.source import AsyncSource, Held, Source
from atlas_sdk.model.users import User

__all__ = ["TTL", "AsyncSlot", "Slot"]

logger = logging.getLogger(__name__)

#: Default for how long a slot outlives its last heartbeat.
TTL = timedelta(seconds=60)
#: Heartbeats in one time to live: two may fail.
_BEATS = 3
#: After one that failed, the next comes this much sooner.
_HURRY = 4


class _Place:
    """What both slots know without asking: whether the place is still theirs."""

    def __init__(
        self,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._user = user
        self._ttl = ttl
        self._ask: Ask = {"slots": 1, "requests": 0, "ttl": ttl, "meta": meta}
        self._ask["holder"] = f"{socket.gethostname()}:{os.getpid()}" if holder is None else holder
        self._clock = clock
        self._held: Held | None = None
        self._used = False
        self._lost = False
        #: Until when the place is ours for sure, and when to ask for more, by our own clock.
        self._until = 0.0
        self._next = 0.0
        self._pid = 0

    @property
    def _granted(self) -> Held:
        if self._held is None:
            raise InvalidInput("enter the slot first: `with slot as s:`", field="slot")
        return self._held

    @property
    def id(self) -> UUID:
        """The reservation that keeps the place."""
        return self._granted.id

    @property
    def epoch(self) -> int | None:
        """The fencing number: a later slot of this user has a higher one, and a driver obeys the highest."""
        return self._granted.epoch

    @property
    def lost(self) -> bool:
        """Whether another container may run in this place: the slot is gone, or no heartbeat came through for `ttl`.

        It stays lost.
        """
        held = self._granted
        if not self._lost and self._clock() >= self._until:
            logger.debug("no heartbeat of slot %s came through in time", held.id)
            self._lost = True
        return self._lost

    def check(self) -> None:
        """Do nothing while the place is ours. Raises SlotLost. No round trip."""
        if self.lost:
            message = (
                f"slot {self._granted.id} (epoch {self.epoch}) is lost: it was not kept alive for {self._ttl}, or"
                " somebody ended it; stop what runs in it"
            )
            raise SlotLost(message, epoch=self.epoch)

    def _begin(self) -> float:
        if self._used:
            raise InvalidInput("this slot is used already: make one for every container", field="slot")
        return self._clock()

    def _enter(self, held: Held, began: float) -> None:
        self._held, self._pid, self._used = held, os.getpid(), True
        self._renewed(began)

    def _renewed(self, began: float) -> None:
        # From before the request: the server's own count starts later, so it never ends earlier.
        self._until = began + self._ttl.total_seconds()
        self._next = began + self._ttl.total_seconds() / _BEATS

    def _missed(self, error: AtlasError) -> bool:
        """Tell whether another heartbeat makes sense after this error."""
        if isinstance(error, NotFound):
            self._lost = True
            return False
        if isinstance(error, DatabaseUnreachable | DatabaseError):
            logger.debug("a heartbeat of slot %s failed", self._granted.id, exc_info=error)
            self._next = self._clock() + self._ttl.total_seconds() / _BEATS / _HURRY
            return not self.lost
        logger.warning("slot %s has no heartbeat any more: %s", self._granted.id, error)
        return False

    def _wait_s(self) -> float:
        return max(0.0, self._next - self._clock())


class Slot(_Place):
    """A container's place, kept until the end of the `with`. Make one with `atlas.quotas.slot`.

    ::

        with atlas.quotas.slot(user) as slot:              # raises QuotaExceeded: `holders` has the places
            container = start(fence=slot.epoch)
            while container.runs():
                slot.check()                               # raises SlotLost: stop the container
    """

    def __init__(
        self,
        source: Source,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `atlas.quotas.slot`."""
        super().__init__(user, ttl=ttl, holder=holder, meta=meta, clock=clock)
        self._source = source
        self._over = Event()
        self._beating = Thread(target=self._beat, name="atlas-slot", daemon=True)

    def __enter__(self) -> Self:
        began = self._begin()
        self._enter(self._source.reserve(self._user, self._ask), began)
        self._beating.start()
        return self

    def _beat(self) -> None:
        while not self._over.wait(self._wait_s()) and not self.lost:
            began = self._clock()
            try:
                self._source.extend(self._user, self._granted, tokens=0, cost=0, ttl=self._ttl)
            except AtlasError as problem:
                if not self._missed(problem):
                    return
            else:
                if not self.lost:
                    self._renewed(began)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:
            # A forked child: the place is the parent's.
            return
        self._over.set()
        try:
            self._source.release(self._user, self._granted)
        except AtlasError as problem:
            _unreleased(self._granted, problem, error)
        self._beating.join()


class AsyncSlot(_Place):
    """A container's place, kept until the end of the `async with`. Make one with `atlas.quotas.slot`.

    ::

        async with atlas.quotas.slot(user) as slot:        # raises QuotaExceeded: `holders` has the places
            container = await start(fence=slot.epoch)
            while await container.runs():
                slot.check()                               # raises SlotLost: stop the container

    A body that blocks the event loop for longer than `ttl` loses its place.
    """

    def __init__(
        self,
        source: AsyncSource,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `atlas.quotas.slot`."""
        super().__init__(user, ttl=ttl, holder=holder, meta=meta, clock=clock)
        self._source = source
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        began = self._begin()
        self._enter(await self._source.reserve(self._user, self._ask), began)
        self._beating = asyncio.get_running_loop().create_task(self._beat(), name="atlas-slot")
        return self

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._wait_s())
            if self.lost:
                return
            began = self._clock()
            try:
                await self._source.extend(self._user, self._granted, tokens=0, cost=0, ttl=self._ttl)
            except AtlasError as problem:
                if not self._missed(problem):
                    return
            else:
                if not self.lost:
                    self._renewed(began)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid or self._beating is None:
            # A forked child: the place is the parent's.
            return
        self._beating.cancel()
        try:
            await self._source.release(self._user, self._granted)
        except AtlasError as problem:
            _unreleased(self._granted, problem, error)
        await asyncio.wait([self._beating])


def _unreleased(held: Held, problem: AtlasError, of_body: BaseException | None) -> None:
    """Tell what kept a slot from being released, unless the body has an exception of its own to tell."""
    if of_body is None:
        raise problem
    logger.warning("slot %s comes free when it expires: %s", held.id, problem)
