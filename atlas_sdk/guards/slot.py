"""Slots, which limit the containers that run at once. Heartbeats keep a slot alive."""

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

#: The default time from the last heartbeat to the expiry of a slot.
TTL = timedelta(seconds=60)


class _SlotState(Generic[B, H]):
    """Base class of both slots, with everything that needs no I/O."""

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

    def __repr__(self) -> str:
        state = "new" if self._grant is None else f"fencing number {self._grant.epoch}"
        return f"<{type(self).__name__} for {self._user.email}, held by {self._options['holder']}; {state}>"

    @property
    def _granted(self) -> Grant:
        if self._grant is None:
            raise InvalidInput("enter the slot first: `with slot as s:`", field="slot")
        return self._grant

    @property
    def id(self) -> UUID:
        """The id of the reservation."""
        return self._granted.id

    @property
    def epoch(self) -> int | None:
        """The fencing number: a later slot of this user has a higher one.

        For each container, a driver obeys the highest number that it has seen for that container. Two slots that a user
        holds at the same time have different numbers, and both are valid.
        """
        return self._granted.epoch

    @property
    def lost(self) -> bool:
        """True if another container may run in this slot: the slot has ended, or no heartbeat succeeded for `ttl`.

        A lost slot stays lost.
        """
        self._granted  # noqa: B018  # raises before the slot is entered
        return self._liveness.lost

    def check(self) -> None:
        """Raise SlotLost if the slot is lost, else do nothing. No round trip."""
        self._granted  # noqa: B018  # as above
        self._liveness.check()

    def _begin(self) -> float:
        if self._used:
            raise InvalidInput("this slot is used already: create one for every container", field="slot")
        return self._liveness.clock()

    def _enter(self, grant: Grant, began: float) -> None:
        self._grant, self._process, self._used = grant, process.generation, True
        self._liveness.begin(grant, began)


class Slot(_SlotState[QuotaBackend, Heartbeat]):
    """A slot for a container, kept until the end of the `with`. Create it with `atlas.quotas.slot`.

    ::

        with atlas.quotas.slot(user) as slot:              # raises QuotaExceeded with the `holders` of the slots
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
            # This is a forked child, and the slot belongs to the parent.
            return
        self._heartbeat.stop()
        try:
            self._backend.settle(self._user, self._granted, RELEASED)
        except AtlasError as problem:
            _unreleased(self._granted, problem, error)
        self._heartbeat.join()


class AsyncSlot(_SlotState[AsyncQuotaBackend, AsyncHeartbeat]):
    """A slot for a container, kept until the end of the `async with`. Create it with `atlas.quotas.slot`.

    ::

        async with atlas.quotas.slot(user) as slot:        # raises QuotaExceeded with the `holders` of the slots
            container = await start("web-1", fence=slot.epoch)
            while await container.runs():
                slot.check()                               # raises SlotLost: stop the container

    A body that blocks the event loop for longer than `ttl` loses the slot.
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
            # This is a forked child, and the slot belongs to the parent.
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
    logger.warning("slot %s becomes free when it expires: %s", grant.id, problem)
