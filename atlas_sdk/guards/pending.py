"""What a guard could not write: kept for later, because the hold in the database is safe but charges in full."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Coroutine, Mapping
from decimal import Decimal
from threading import Lock
from typing import Any, TypeVar
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._plan import Plan
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas

__all__ = ["Ending", "Pending", "Tasks"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Endings kept at most, of each kind: some hundred kilobytes. Beyond it the oldest is left to its hold's expiry.
KEPT_MAX = 1000


@frozen(kw_only=True)
class Ending:
    """The settlement of one reservation, or its release: idempotent, so it may be tried as often as it takes."""

    user: User
    reservation_id: UUID
    releases: bool = False
    tokens: int | None = None
    cost: Decimal | None = None
    meta: Mapping[str, object] | None = None

    def plan(self) -> Plan[Settlement]:
        """Write it. Raises NotFound when there is no such reservation (any more): then there is nothing to end."""
        if self.releases:
            return quotas.release(self.user, self.reservation_id)
        return quotas.settle(self.user, self.reservation_id, tokens=self.tokens, cost=self.cost, meta=self.meta)

    def without_meta(self, refusal: BaseException) -> "Ending":
        """Return the same amounts without their `meta`, which was refused: it is worth less than they are."""
        logger.warning("the settlement of reservation %s is written without its meta: %s", self.reservation_id, refusal)
        return evolve(self, meta=None)

    def tell_kept(self, reason: BaseException) -> None:
        """Log that it is written later."""
        what = "release" if self.releases else "settlement"
        said = str(reason) or type(reason).__name__
        logger.warning("the %s of reservation %s is kept for later: %s", what, self.reservation_id, said)

    def tell_missing(self) -> None:
        """Log that there was nothing to end."""
        self._tell("reservation %s could not be ended: it does not exist")

    def tell_given_up(self) -> None:
        """Log that it will not be written."""
        self._tell("reservation %s is left to its expiry: its settlement could not be written")

    def _tell(self, message: str) -> None:
        # Most releases are of what may never have been reserved, and who asked for it has been told.
        logger.log(logging.DEBUG if self.releases else logging.WARNING, message, self.reservation_id)


class Pending:
    """Endings to write later, oldest first, bounded; for all threads of one client."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        # Two, so that releases of what may never have been reserved do not push out settlements.
        self._settlements: deque[Ending] = deque()
        self._releases: deque[Ending] = deque()

    def _own(self) -> None:
        if os.getpid() != self._pid:
            # A forked child: these are the parent's to write, and the lock may have been held at the fork.
            self._forget()

    def keep(self, ending: Ending) -> None:
        """Keep what could not be written."""
        self._own()
        with self._lock:
            queue = self._releases if ending.releases else self._settlements
            queue.append(ending)
            dropped = queue.popleft() if len(queue) > KEPT_MAX else None
        if dropped is not None:
            dropped.tell_given_up()

    def put_back(self, ending: Ending) -> None:
        """Keep what was taken and could not be written again, at its old place."""
        self._own()
        with self._lock:
            (self._releases if ending.releases else self._settlements).appendleft(ending)

    def take(self) -> Ending | None:
        """Remove and return the next to write."""
        if not self:
            return None
        with self._lock:
            for queue in (self._settlements, self._releases):
                if queue:
                    return queue.popleft()
        return None

    def give_up(self) -> None:
        """Forget what is left, and say so: the client closes."""
        while (ending := self.take()) is not None:
            ending.tell_given_up()

    def __len__(self) -> int:
        self._own()
        return len(self._settlements) + len(self._releases)


class Tasks:
    """Tasks that go on when the one that started them is cancelled; kept, since the event loop does not."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run this in a task of its own."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self, timeout_s: float) -> None:
        """Wait for all of them; cancel what takes longer."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        # One may start another.
        while running := set(self._running):
            _, late = await asyncio.wait(running, timeout=max(0.0, deadline - clock()))
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=timeout_s)
                return
