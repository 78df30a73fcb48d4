"""The backend that makes a reservation in the database for every call."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid5

from attrs import define, evolve

from atlas_sdk._namespaces import AsyncRunner, Runner
from atlas_sdk._plan import Plan, Script, context
from atlas_sdk._script import RETRIED, retry_once, run_script, run_script_async
from atlas_sdk.errors import AlreadyExists, InvalidInput, QuotaExceeded, TransactionConflict
from atlas_sdk.guards.backend import Grant
from atlas_sdk.guards.lease_manager import async_lease_manager, lease_manager
from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.guards.outbox import Outbox, PendingSettlement, may_have_reserved
from atlas_sdk.guards.usage_record import Outcome
from atlas_sdk.model.quotas import Reservation, Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncDatabaseBackend", "DatabaseBackend", "Tasks"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The most pending settlements that one guard writes at its exit, so that the first guard after an outage is not slow.
_BATCH = 8
#: Seconds that a closing client waits for its background tasks.
_CLOSE_S = 10.0


@define
class _Request:
    """A request for a reservation. All its tries have the same id, so that at most one reservation is made."""

    user: User
    options: GuardOptions
    id: UUID | None = None
    tries: int = 0

    @property
    def is_keyed(self) -> bool:
        """True if an earlier call may have made the reservation, so that this call must not release it."""
        return self.options.get("idempotency_key") is not None

    def plan(self) -> Plan[Reservation]:
        """Reserve, or return the reservation of an earlier try. Raises AlreadyExists if that reservation has ended."""
        self.tries += 1
        if self.id is None:
            key = self.options.get("idempotency_key")
            self.id = (yield from context()).new_id() if key is None else uuid5(self.user.id, str(key))
        held = yield from self._reserve(self.id)
        if held.state != "held":
            raise _ended(self.id, f"is {held.state}")
        # Without a key, only a second try of this same call can repeat the id, so do not report a repetition.
        return held if self.is_keyed else evolve(held, repeated=False)

    def _reserve(self, reservation_id: UUID) -> Plan[Reservation]:
        amounts: Any = {name: value for name, value in self.options.items() if name in _AMOUNTS}
        try:
            return (yield from quotas.reserve(self.user, **amounts, reservation_id=reservation_id))
        except InvalidInput as exc:
            if exc.field != "reservation_id":
                raise
            if self.is_keyed:
                raise _ended(reservation_id, "has expired or was released") from exc
        # The answer to a first try was lost, and the reservation expired before the second. Correct its charge to 0.
        yield from quotas.settle(self.user, reservation_id, tokens=0, cost=0)
        self.id = (yield from context()).new_id()
        return (yield from quotas.reserve(self.user, **amounts, reservation_id=self.id))

    def is_ours(self, problem: BaseException) -> bool:
        """Return True if this call may have made a reservation although it failed with this problem."""
        return not self.is_keyed and self.id is not None and may_have_reserved(problem, tries=self.tries)

    def release(self) -> PendingSettlement:
        """Return the release of the reservation that this call may have made."""
        assert self.id is not None  # noqa: S101  # a request without an id was never sent
        return PendingSettlement(user=self.user, reservation_id=self.id, releases=True)


#: Options that are arguments of `quotas.reserve`.
_AMOUNTS = frozenset({"tokens", "min_tokens", "cost", "slots", "requests", "builds", "ttl", "holder", "meta"})


def _ended(reservation_id: UUID, how: str) -> AlreadyExists:
    message = f"the call with this idempotency key {how} already: use another key for another call"
    return AlreadyExists(message, kind="reservation", name=str(reservation_id))


class _Scripts:
    """Scripts that both backends run."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.outbox = Outbox(clock)

    def _reserve(self, request: _Request) -> Script[Reservation]:
        return retry_once(request.plan, self._clock)

    def _extend(self, user: User, grant: Grant, tokens: int, cost: Money, ttl: timedelta | None) -> Script[Reservation]:
        # Repeat an extension of the amounts only if nothing was committed: a second try could add them twice.
        grows = ttl is None or bool(tokens) or bool(cost)
        return retry_once(
            lambda: quotas.extend(user, grant.id, tokens=tokens, cost=cost, ttl=ttl),
            self._clock,
            errors=(TransactionConflict,) if grows else RETRIED,
        )


def _pending(user: User, grant: Grant, outcome: Outcome) -> PendingSettlement:
    return PendingSettlement(
        user=user,
        reservation_id=grant.id,
        releases=outcome.releases,
        tokens=outcome.tokens,
        cost=outcome.cost,
        meta=outcome.meta,
    )


class DatabaseBackend(_Scripts):
    """A backend that reserves and settles every call in the database. A client has one."""

    def __init__(self, runner: Runner, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._runner = runner

    def reserve(self, user: User, options: GuardOptions) -> Reservation:
        request = _Request(user, options)
        try:
            return self._ask(user, lambda: run_script(self._runner, self._reserve(request)))
        except BaseException as problem:
            if request.is_ours(problem):
                self.outbox.add(request.release())
            raise

    def settle(self, user: User, grant: Grant, outcome: Outcome) -> Settlement | None:
        settlement = run_script(self._runner, self.outbox.write(_pending(user, grant, outcome)))
        if settlement is not None and self.outbox:
            self.settle_pending(_BATCH)
        return settlement

    def extend(self, user: User, grant: Grant, *, tokens: int, cost: Money, ttl: timedelta | None) -> Reservation:
        return self._ask(user, lambda: run_script(self._runner, self._extend(user, grant, tokens, cost, ttl)))

    def _ask(self, user: User, ask: Callable[[], T]) -> T:
        """Send a request, and once more if the client's leases make room for it."""
        try:
            return ask()
        except QuotaExceeded as refusal:
            lease_manager(self._runner).make_room(user, refusal)
        return ask()

    def settle_pending(self, most: int | None = None) -> int:
        """Write the pending settlements until the database fails; return the number left."""
        run_script(self._runner, self.outbox.flush(most=most))
        return len(self.outbox)

    def close(self) -> None:
        """Write the pending settlements; leave those that fail to the expiry of their reservations. Idempotent."""
        self.settle_pending()
        self.outbox.abandon()


class AsyncDatabaseBackend(_Scripts):
    """A backend that reserves and settles every call in the database, on asyncio. A client has one."""

    def __init__(self, runner: AsyncRunner, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._runner = runner
        self._tasks = Tasks()

    async def reserve(self, user: User, options: GuardOptions) -> Reservation:
        request = _Request(user, options)
        # Run the request in a task. Otherwise, after a second cancellation, nothing would wait for the statement, which
        # could still reserve after the release.
        reserving = self._tasks.start(self._ask(user, lambda: run_script_async(self._runner, self._reserve(request))))
        try:
            return await asyncio.shield(reserving)
        except asyncio.CancelledError:
            reserving.cancel()
            self._tasks.start(self._abandon(request, reserving))
            raise
        except BaseException as problem:
            if request.is_ours(problem):
                self.outbox.add(request.release())
            raise

    async def _abandon(self, request: _Request, reserving: "asyncio.Task[Reservation]") -> None:
        """Wait for the statement of a cancelled call, then release the reservation that it may have made."""
        await asyncio.wait([reserving])
        if reserving.cancelled():
            ours = request.is_ours(asyncio.CancelledError())
        elif (problem := reserving.exception()) is not None:
            ours = request.is_ours(problem)
        else:
            ours = not reserving.result().repeated
        if ours:
            await self._write(request.release())

    async def settle(self, user: User, grant: Grant, outcome: Outcome) -> Settlement | None:
        return await asyncio.shield(self._tasks.start(self._write(_pending(user, grant, outcome))))

    async def _write(self, pending: PendingSettlement) -> Settlement | None:
        settlement = await run_script_async(self._runner, self.outbox.write(pending))
        if settlement is not None and self.outbox:
            self._tasks.start(self.settle_pending(_BATCH))
        return settlement

    async def extend(self, user: User, grant: Grant, *, tokens: int, cost: Money, ttl: timedelta | None) -> Reservation:
        return await self._ask(
            user, lambda: run_script_async(self._runner, self._extend(user, grant, tokens, cost, ttl))
        )

    async def _ask(self, user: User, ask: Callable[[], Awaitable[T]]) -> T:
        """Send a request, and once more if the client's leases make room for it."""
        try:
            return await ask()
        except QuotaExceeded as refusal:
            await async_lease_manager(self._runner).make_room(user, refusal)
        return await ask()

    async def settle_pending(self, most: int | None = None) -> int:
        """Write the pending settlements until the database fails; return the number left."""
        await run_script_async(self._runner, self.outbox.flush(most=most))
        return len(self.outbox)

    async def close(self) -> None:
        """Wait for the background tasks, and write the pending settlements. Idempotent."""
        await self._tasks.finish(_CLOSE_S)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.settle_pending()
        except TimeoutError:
            logger.debug("the database took too long", exc_info=True)
        self.outbox.abandon()


class Tasks:
    """Background tasks that outlive a cancelled caller. This object refers to the tasks; the event loop does not."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a background task."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self, timeout_s: float) -> None:
        """Wait for all tasks; cancel those that take longer than `timeout_s`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        # A task may start another.
        while running := set(self._running):
            _, late = await asyncio.wait(running, timeout=max(0.0, deadline - clock()))
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=timeout_s)
                return
