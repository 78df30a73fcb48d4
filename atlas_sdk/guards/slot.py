"""Slots, which limit the containers that run at once. Heartbeats keep a slot alive."""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Self, TypeVar

from atlas_sdk._forks import process
from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.backend import AsyncQuotaBackend, Grant, QuotaBackend
from atlas_sdk.guards.heartbeat import AsyncHeartbeat, Heartbeat, HeartbeatState, Held
from atlas_sdk.guards.options import GuardOptions, check_wait
from atlas_sdk.guards.usage_record import RELEASED
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.users import User

__all__ = ["TTL", "AsyncSlot", "Slot"]

logger = logging.getLogger(__name__)

B = TypeVar("B")
H = TypeVar("H")

#: The default time from the last heartbeat to the expiry of a slot.
TTL = timedelta(seconds=60)


class _SlotState(Held[B, H]):
    """Base class of both slots, with everything that needs no I/O."""

    _kind = "slot"
    _liveness: HeartbeatState

    def __init__(
        self,
        backend: B,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
        wait: timedelta | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `atlas.quotas.slot`."""
        check_wait(wait)
        super().__init__(backend, HeartbeatState(ttl, clock))
        self._user = user
        self._options: GuardOptions = {"slots": 1, "requests": 0, "ttl": ttl, "meta": meta, "wait": wait}
        self._options["holder"] = f"{socket.gethostname()}:{os.getpid()}" if holder is None else holder
        self._used = False

    def __repr__(self) -> str:
        state = "new" if self._grant is None else f"fencing number {self._grant.epoch}"
        return f"<{type(self).__name__} for {self._user.email}, held by {self._options['holder']}; {state}>"

    def _begin(self) -> tuple[float, WaitSchedule | None]:
        if self._used:
            raise InvalidInput("this slot is used already: create one for every container", field="slot")
        wait = self._options.get("wait")
        return self._liveness.clock(), WaitSchedule(wait) if wait else None

    def _enter(self, grant: Grant, began: float) -> None:
        self._grant, self._process, self._used = grant, process.generation, True
        self._liveness.begin(grant, began)


class Slot(_SlotState[QuotaBackend[Any], Heartbeat]):
    """A slot for a container, kept until the end of the `with`. Create it with `atlas.quotas.slot`.

    ::

        with atlas.quotas.slot(user) as slot:              # raises QuotaExceeded with the `holders` of the slots
            container = start("web-1", fence=slot.epoch)
            while container.runs():
                slot.check()                               # raises SlotLost: stop the container
    """

    def __enter__(self) -> Self:
        began, wait = self._begin()
        grant = self._backend.reserve(self._user, self._options, wait)
        self._enter(grant, began if wait is None else wait.asked_at)
        self._heartbeat = Heartbeat(self._backend, self._user, self._granted, self._liveness)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if process.generation != self._process or self._heartbeat is None:
            # This is a forked child, and the slot belongs to the parent.
            return
        self._heartbeat.stop()
        try:
            self._backend.settle(self._user, self._granted, RELEASED)
        except AtlasError as problem:
            _unreleased(self._granted, problem, error)
        self._heartbeat.join()


class AsyncSlot(_SlotState[AsyncQuotaBackend[Any], AsyncHeartbeat]):
    """A slot for a container, kept until the end of the `async with`. Create it with `atlas.quotas.slot`.

    ::

        async with atlas.quotas.slot(user) as slot:        # raises QuotaExceeded with the `holders` of the slots
            container = await start("web-1", fence=slot.epoch)
            while await container.runs():
                slot.check()                               # raises SlotLost: stop the container

    A body that blocks the event loop for longer than `ttl` loses the slot.
    """

    async def __aenter__(self) -> Self:
        began, wait = self._begin()
        grant = await self._backend.reserve(self._user, self._options, wait)
        self._enter(grant, began if wait is None else wait.asked_at)
        self._heartbeat = AsyncHeartbeat(self._backend, self._user, self._granted, self._liveness)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
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
