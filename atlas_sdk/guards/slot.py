"""Slots: places for containers that may run at once. A heartbeat keeps each of them."""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Generic, Self, TypeVar
from uuid import UUID

from atlas_sdk._forks import process
from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.backend import RELEASED, AsyncQuotaBackend, Grant, QuotaBackend
from atlas_sdk.guards.heartbeat import AsyncHeartbeat, Heartbeat, HeartbeatState
from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.model.users import User

__all__ = ["TTL", "AsyncSlot", "Slot"]

logger = logging.getLogger(__name__)

B = TypeVar("B")
H = TypeVar("H")

#: Default for how long a slot outlives its last heartbeat.
TTL = timedelta(seconds=60)


class _SlotState(Generic[B, H]):
    """Base class of both slots: all that they do without waiting."""

    def __init__(
        self,
        backend: B,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `atlas.quotas.slot`."""
        self._backend = backend
        self._user = user
        self._options: GuardOptions = {"slots": 1, "requests": 0, "ttl": ttl, "meta": meta}
        self._options["holder"] = f"{socket.gethostname()}:{os.getpid()}" if holder is None else holder
        self._liveness = HeartbeatState(ttl, clock)
        self._grant: Grant | None = None
        self._used = False
        self._process = 0
        self._heartbeat: H | None = None

    @property
    def _granted(self) -> Grant:
        if self._grant is None:
            raise InvalidInput("enter the slot first: `with slot as s:`", field="slot")
        return self._grant

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
        """True if another container may run in this place: the slot ended, or no heartbeat came through for `ttl`.

        It stays lost.
        """
        self._granted  # noqa: B018  # raises before the slot is entered
        return self._liveness.lost

    def check(self) -> None:
        """Do nothing while the slot has its place. Raises SlotLost. No round trip."""
        self._granted  # noqa: B018  # as above
        self._liveness.check()

    def _begin(self) -> float:
        if self._used:
            raise InvalidInput("this slot is used already: make one for every container", field="slot")
        return self._liveness.clock()

    def _enter(self, grant: Grant, began: float) -> None:
        self._grant, self._process, self._used = grant, process.generation, True
        self._liveness.begin(grant, began)


class Slot(_SlotState[QuotaBackend, Heartbeat]):
    """A container's place, kept until the end of the `with`. Make one with `atlas.quotas.slot`.

    ::

        with atlas.quotas.slot(user) as slot:              # raises QuotaExceeded: `holders` has the places
            container = start("web-1", fence=slot.epoch)
            while container.runs():
                slot.check()                               # raises SlotLost: stop the container
    """

    def __enter__(self) -> Self:
        began = self._begin()
        self._enter(self._backend.reserve(self._user, self._options), began)
        self._heartbeat = Heartbeat(self._backend, self._user, self._granted, self._liveness)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if process.generation != self._process or self._heartbeat is None:
            # In a forked child the place is the parent's.
            return
        self._heartbeat.stop()
        try:
            self._backend.settle(self._user, self._granted, RELEASED)
        except AtlasError as problem:
            _unreleased(self._granted, problem, error)
        self._heartbeat.join()


class AsyncSlot(_SlotState[AsyncQuotaBackend, AsyncHeartbeat]):
    """A container's place, kept until the end of the `async with`. Make one with `atlas.quotas.slot`.

    ::

        async with atlas.quotas.slot(user) as slot:        # raises QuotaExceeded: `holders` has the places
            container = await start("web-1", fence=slot.epoch)
            while await container.runs():
                slot.check()                               # raises SlotLost: stop the container

    A body that blocks the event loop for longer than `ttl` loses its place.
    """

    async def __aenter__(self) -> Self:
        began = self._begin()
        self._enter(await self._backend.reserve(self._user, self._options), began)
        self._heartbeat = AsyncHeartbeat(self._backend, self._user, self._granted, self._liveness)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if process.generation != self._process or self._heartbeat is None:
            # In a forked child the place is the parent's.
            return
        self._heartbeat.stop()
        try:
            await self._backend.settle(self._user, self._granted, RELEASED)
        except AtlasError as problem:
            _unreleased(self._granted, problem, error)
        await self._heartbeat.join()


def _unreleased(grant: Grant, problem: AtlasError, of_body: BaseException | None) -> None:
    """Raise the error of the release, unless the body raises an error of its own."""
    if of_body is None:
        raise problem
    logger.warning("slot %s comes free when it expires: %s", grant.id, problem)
