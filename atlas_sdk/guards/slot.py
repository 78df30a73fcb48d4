"""Slots: a container's place among those that may run at once, kept by a heartbeat."""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self
from uuid import UUID

from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.asking import Ask
from atlas_sdk.guards.heartbeat import AsyncHeartbeat, Heartbeat, Pulse
from atlas_sdk.guards.source import AsyncSource, Held, Source
from atlas_sdk.model.users import User

__all__ = ["TTL", "AsyncSlot", "Slot"]

logger = logging.getLogger(__name__)

#: Default for how long a slot outlives its last heartbeat.
TTL = timedelta(seconds=60)


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
        self._ask: Ask = {"slots": 1, "requests": 0, "ttl": ttl, "meta": meta}
        self._ask["holder"] = f"{socket.gethostname()}:{os.getpid()}" if holder is None else holder
        self._pulse = Pulse(ttl, clock)
        self._held: Held | None = None
        self._used = False
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
        """The fencing number: a later slot of this user has a higher one.

        For each container that it manages, a driver obeys the highest number that came with that container. Two slots
        of a user that are held at the same time have different numbers, and both are right.
        """
        return self._granted.epoch

    @property
    def lost(self) -> bool:
        """Whether another container may run in this place: the slot is gone, or no heartbeat came through for `ttl`.

        It stays lost.
        """
        self._granted  # noqa: B018  # raises before the slot is entered
        return self._pulse.lost

    def check(self) -> None:
        """Do nothing while the place is ours. Raises SlotLost. No round trip."""
        self._granted  # noqa: B018  # as above
        self._pulse.check()

    def _begin(self) -> float:
        if self._used:
            raise InvalidInput("this slot is used already: make one for every container", field="slot")
        return self._pulse.clock()

    def _enter(self, held: Held, began: float) -> None:
        self._held, self._pid, self._used = held, os.getpid(), True
        self._pulse.begin(held, began)


class Slot(_Place):
    """A container's place, kept until the end of the `with`. Make one with `atlas.quotas.slot`.

    ::

        with atlas.quotas.slot(user) as slot:              # raises QuotaExceeded: `holders` has the places
            container = start("web-1", fence=slot.epoch)
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
        self._heart: Heartbeat | None = None

    def __enter__(self) -> Self:
        began = self._begin()
        self._enter(self._source.reserve(self._user, self._ask), began)
        self._heart = Heartbeat(self._source, self._user, self._granted, self._pulse)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid or self._heart is None:
            # A forked child: the place is the parent's.
            return
        self._heart.stop()
        try:
            self._source.release(self._user, self._granted)
        except AtlasError as problem:
            _unreleased(self._granted, problem, error)
        self._heart.join()


class AsyncSlot(_Place):
    """A container's place, kept until the end of the `async with`. Make one with `atlas.quotas.slot`.

    ::

        async with atlas.quotas.slot(user) as slot:        # raises QuotaExceeded: `holders` has the places
            container = await start("web-1", fence=slot.epoch)
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
        self._heart: AsyncHeartbeat | None = None

    async def __aenter__(self) -> Self:
        began = self._begin()
        self._enter(await self._source.reserve(self._user, self._ask), began)
        self._heart = AsyncHeartbeat(self._source, self._user, self._granted, self._pulse)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid or self._heart is None:
            # A forked child: the place is the parent's.
            return
        self._heart.stop()
        try:
            await self._source.release(self._user, self._granted)
        except AtlasError as problem:
            _unreleased(self._granted, problem, error)
        await self._heart.join()


def _unreleased(held: Held, problem: AtlasError, of_body: BaseException | None) -> None:
    """Tell what kept a slot from being released, unless the body has an exception of its own to tell."""
    if of_body is None:
        raise problem
    logger.warning("slot %s comes free when it expires: %s", held.id, problem)
