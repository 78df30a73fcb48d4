"""The backend that makes a reservation in the database for every call."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid5

from attrs import define, evolve

from atlas_sdk._plan import Plan, Script, context
from atlas_sdk._script import RETRIED, retry_once, run_script, run_script_async
from atlas_sdk.errors import AlreadyExists, DatabaseUnreachable, InvalidInput, QuotaExceeded, TransactionConflict
from atlas_sdk.guards.backend import AsyncQuotaRunner, Grant, QuotaRunner
from atlas_sdk.guards.lease_manager import async_lease_manager, lease_manager
from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.guards.outbox import Outbox, PendingSettlement, may_have_reserved
from atlas_sdk.guards.usage_record import Outcome
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.quotas import Reservation, Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops import quota_waits, quotas
from atlas_sdk.ops.amounts import Money
from atlas_sdk.ops.quota_waits import Queued

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
    #: None for a call that does not wait.
    wait: WaitSchedule | None
    id: UUID | None = None
    tries: int = 0
    #: True once the call is in the queue of waiting calls.
    is_queued: bool = False

    @property
    def is_keyed(self) -> bool:
        """True if an earlier call may have made the reservation, so that this call must not release it."""
        return self.options.get("idempotency_key") is not None

    def plan(self) -> Plan[Reservation | Queued]:
        """Reserve, or return the reservation of an earlier try. Raises AlreadyExists if that reservation has ended."""
        self.tries += 1
        if self.id is None:
            key = self.options.get("idempotency_key")
            self.id = (yield from context()).new_id() if key is None else uuid5(self.user.id, str(key))
        held = yield from self._reserve(self.id)
        if isinstance(held, Queued):
            self.is_queued = True
            return held
        if held.state != "held":
            raise _ended(self.id, f"is {held.state}")
        # Without a key, only a second try of this same call can repeat the id, so do not report a repetition.
        return held if self.is_keyed else evolve(held, repeated=False)

    def _reserve(self, reservation_id: UUID) -> Plan[Reservation | Queued]:
        try:
            return (yield from self._try(reservation_id))
        except InvalidInput as exc:
            if exc.field != "reservation_id":
                raise
            if self.is_keyed:
                raise _ended(reservation_id, "has expired or was released") from exc
        # The answer to a first try was lost, and the reservation expired before the second. Correct its charge to 0.
        yield from quotas.settle(self.user, reservation_id, tokens=0, cost=0)
        self.id = (yield from context()).new_id()
        return (yield from self._try(self.id))

    def _try(self, reservation_id: UUID) -> Plan[Reservation | Queued]:
        amounts: Any = {name: value for name, value in self.options.items() if name in _AMOUNTS}
        if self.wait is None:
            return (yield from quotas.reserve(self.user, **amounts, reservation_id=reservation_id))
        left, waited = self.wait.ask()
        return (
            yield from quota_waits.take_turn(
                self.user, **amounts, reservation_id=reservation_id, wait=left, waited=waited
            )
        )

    def undo(self, problem: BaseException) -> PendingSettlement | None:
        """Return what undoes a call that failed with this problem; None if it surely left nothing in the database."""
        if self.id is None or isinstance(problem, QuotaExceeded):
            return None
        if not self.is_queued and not may_have_reserved(problem, tries=self.tries):
            return None
        if self.is_keyed:
            # Another try may have made the reservation, so that this call must not release it.
            return None if self.wait is None else evolve(self.release(), leaves=True)
        # A release also ends a wait.
        return self.release()

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

    def _reserve(self, request: _Request) -> Script[Reservation | Queued]:
        return retry_once(request.plan, self._clock)

    def _extend(self, user: User, grant: Grant, tokens: int, cost: Money, ttl: timedelta | None) -> Script[Reservation]:
        # Repeat an extension of the amounts only if nothing was committed: a second try could add them twice.
        grows = ttl is None or bool(tokens) or bool(cost)
        return retry_once(
            lambda: quotas.extend(user, grant.id, tokens=tokens, cost=cost, ttl=ttl),
            self._clock,
            errors=(TransactionConflict,) if grows else RETRIED,
        )


class DatabaseBackend(_Scripts):
    """A backend that reserves and settles every call in the database. A client has one."""

    def __init__(self, runner: QuotaRunner, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._runner = runner

    def reserve(self, user: User, options: GuardOptions, wait: WaitSchedule | None = None) -> Reservation:
        request = _Request(user, options, wait)
        try:
            answer = self._ask(user, lambda: run_script(self._runner, self._reserve(request)))
        except BaseException as problem:
            if (undo := request.undo(problem)) is not None:
                self.outbox.add(undo)
            raise
        return answer if isinstance(answer, Reservation) else self._wait(request, answer)

    def _wait(self, request: _Request, answer: Reservation | Queued) -> Reservation:
        """Wait for the turn of a call that is in the queue."""
        assert request.wait is not None  # noqa: S101  # else it would not be in the queue
        wakeups = self._runner.wakeups
        with wakeups.subscribe(quota_waits.wakeup_channel(request.user), str(request.id)) as subscription:
            try:
                while isinstance(answer, Queued):
                    subscription.event.wait(request.wait.pause_s(answer, is_listening=subscription.is_listening))
                    subscription.event.clear()
                    wakeups.check_open()
                    answer = self._ask(request.user, lambda: run_script(self._runner, self._reserve(request)))
            except BaseException as problem:
                if (undo := request.undo(problem)) is not None:
                    self.outbox.add(undo)
                    if not isinstance(problem, DatabaseUnreachable):
                        # Now, because others wait behind this call.
                        self.settle_pending(_BATCH)
                raise
        return answer

    def settle(self, user: User, grant: Grant, outcome: Outcome) -> Settlement | None:
        settlement = run_script(self._runner, self.outbox.write(PendingSettlement.of(user, grant.id, outcome)))
        if settlement is not None and self.outbox:
            self.settle_pending(_BATCH)
        return settlement

    def extend(self, user: User, grant: Grant, *, tokens: int, cost: Money, ttl: timedelta | None) -> Reservation:
        return self._ask(user, lambda: run_script(self._runner, self._extend(user, grant, tokens, cost, ttl)))

    def _ask(self, user: User, ask: Callable[[], T]) -> T:
        """Send a request, and once more if the client's leases make room for it."""
        try:
            answer = ask()
        except QuotaExceeded as refusal:
            lease_manager(self._runner).make_room(user, refusal)
        else:
            if not isinstance(answer, Queued) or answer.refusal is None:
                return answer
            try:
                lease_manager(self._runner).make_room(user, answer.refusal)
            except QuotaExceeded:
                return answer
        return ask()

    def settle_pending(self, most: int | None = None) -> int:
        """Write the pending settlements until the database fails; return the number left."""
        run_script(self._runner, self.outbox.flush(most=most))
        return len(self.outbox)

    def close(self) -> None:
        """End the waits, and write the pending settlements; leave those that fail to their expiry. Idempotent."""
        self._runner.wakeups.close()
        self.settle_pending()
        self.outbox.abandon()


class AsyncDatabaseBackend(_Scripts):
    """A backend that reserves and settles every call in the database, on asyncio. A client has one."""

    def __init__(self, runner: AsyncQuotaRunner, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._runner = runner
        self._tasks = Tasks()

    async def reserve(self, user: User, options: GuardOptions, wait: WaitSchedule | None = None) -> Reservation:
        request = _Request(user, options, wait)
        # Run the request in a task. Otherwise, after a second cancellation, nothing would wait for the statement, which
        # could still reserve after the release.
        reserving = self._tasks.start(self._take(request))
        try:
            return await asyncio.shield(reserving)
        except asyncio.CancelledError:
            reserving.cancel()
            self._tasks.start(self._abandon(request, reserving))
            raise

    async def _take(self, request: _Request) -> Reservation:
        try:
            answer = await self._ask(request.user, lambda: run_script_async(self._runner, self._reserve(request)))
            return answer if isinstance(answer, Reservation) else await self._wait(request, answer)
        except Exception as problem:
            if (undo := request.undo(problem)) is not None:
                self.outbox.add(undo)
                if request.is_queued and not isinstance(problem, DatabaseUnreachable):
                    # Now, because others wait behind this call.
                    await self.settle_pending(_BATCH)
            raise

    async def _wait(self, request: _Request, answer: Reservation | Queued) -> Reservation:
        """Wait for the turn of a call that is in the queue."""
        assert request.wait is not None  # noqa: S101  # else it would not be in the queue
        wakeups = self._runner.wakeups
        with wakeups.subscribe(quota_waits.wakeup_channel(request.user), str(request.id)) as subscription:
            while isinstance(answer, Queued):
                with suppress(TimeoutError):
                    async with asyncio.timeout(request.wait.pause_s(answer, is_listening=subscription.is_listening)):
                        await subscription.event.wait()
                subscription.event.clear()
                wakeups.check_open()
                answer = await self._ask(request.user, lambda: run_script_async(self._runner, self._reserve(request)))
        return answer

    async def _abandon(self, request: _Request, reserving: "asyncio.Task[Reservation]") -> None:
        """Wait for the statement of a cancelled call, then undo what it may have done."""
        await asyncio.wait([reserving])
        if reserving.cancelled():
            undo = request.undo(asyncio.CancelledError())
        elif reserving.exception() is not None or reserving.result().repeated:
            # The task itself has undone a failed call. A repeated reservation is another call's.
            return
        else:
            undo = request.release()
        if undo is not None:
            await self._write(undo)

    async def settle(self, user: User, grant: Grant, outcome: Outcome) -> Settlement | None:
        return await asyncio.shield(self._tasks.start(self._write(PendingSettlement.of(user, grant.id, outcome))))

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
            answer = await ask()
        except QuotaExceeded as refusal:
            await async_lease_manager(self._runner).make_room(user, refusal)
        else:
            if not isinstance(answer, Queued) or answer.refusal is None:
                return answer
            try:
                await async_lease_manager(self._runner).make_room(user, answer.refusal)
            except QuotaExceeded:
                return answer
        return await ask()

    async def settle_pending(self, most: int | None = None) -> int:
        """Write the pending settlements until the database fails; return the number left."""
        await run_script_async(self._runner, self.outbox.flush(most=most))
        return len(self.outbox)

    async def close(self) -> None:
        """End the waits, wait for the background tasks, and write the pending settlements. Idempotent."""
        await self._runner.wakeups.close()
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
