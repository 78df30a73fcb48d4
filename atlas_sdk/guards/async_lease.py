"""A lease for asyncio: the same as the one for threads, awaited where it may talk to the database."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

from atlas_sdk._faces import AsyncRunner
from atlas_sdk.errors import AtlasError, QuotaExceeded
from atlas_sdk.guards.asking import Ask
from atlas_sdk.guards.block import nano_promised
from atlas_sdk.guards.call import Call, Leasing, amounts_of, call_of
from atlas_sdk.guards.guard import AsyncGuard
from atlas_sdk.guards.keeper import keeper_on
from atlas_sdk.guards.owed import Talk
from atlas_sdk.guards.source import Held
from atlas_sdk.guards.want import Want
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, count, money

__all__ = ["AsyncLease", "AsyncLeaseSource"]

T = TypeVar("T")


class AsyncLease(Leasing):
    """Spends blocks of a user's quota: about a microsecond a call instead of two round trips.

    ::

        async with atlas.quotas.lease(user, tokens=50_000, requests=100) as lease:
            held = await lease.reserve(4096)
            reply = await call(max_tokens=held.tokens)
            held.settle(reply.total_tokens)

    Only `reserve` is awaited; `settle` and `release` of a call take no round trip. The rest is as for `Lease`. Share it
    between the tasks of one event loop.
    """

    def __init__(self, runner: AsyncRunner, user: User, **size: Any) -> None:
        """Use `atlas.quotas.lease`, which has the same arguments."""
        super().__init__(user, **size)
        self._runner = runner
        self._keeper = keeper_on(runner)
        self._keeper.know(self)
        #: The talk with the database, if there is one: in a task, so that it outlives a cancelled caller.
        self._talking: asyncio.Task[Any] | None = None

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        super().after_fork()
        self._talking = None

    async def reserve(
        self,
        tokens: int = 0,
        *,
        min_tokens: int | None = None,
        cost: Money = 0,
        cost_nano: int = 0,
        requests: int | None = None,
    ) -> Call:
        """Promise a call its part. Raises QuotaExceeded, DatabaseUnreachable, InvalidInput.

        With `min_tokens` less is granted when less is left. `cost_nano` is in billionths of a dollar, and cheaper to
        reckon with than `cost`. `requests` is 1 by default, and 0 for a lease that was opened with `requests=0`.
        """
        if (
            tokens.__class__ is int
            and tokens > 0
            and not cost
            and cost_nano.__class__ is int
            and cost_nano >= 0
            and requests is None
            and min_tokens is None
        ):
            call = self.take(tokens, cost_nano, self._requests_each)
            if call is not None:
                return call
        return await self._reserve(self.want(tokens, min_tokens, cost, cost_nano, requests))

    async def _reserve(self, want: Want) -> Call:
        try:
            return await self._admitted(want)
        except QuotaExceeded:
            # Nobody is refused because of what lies idle in this process.
            if not await self._keeper.give_back(self.user, but=self):
                raise
        return await self._admitted(want)

    async def _admitted(self, want: Want) -> Call:
        since = self.purse.begun
        while True:
            with self.lock:
                admitted = self.purse.admit(want, since=since)
            if admitted is not None:
                return Call(self, *admitted, want.nano)
            self.refuse_if_closed()
            if self._talking is None:
                break
            # One asks the database, for all who wait.
            await asyncio.wait([self._talking])
        refilling = self._start(self._refill(want))
        try:
            return await asyncio.shield(refilling)
        except asyncio.CancelledError:
            # The block is there for others; only this call's part of it goes back.
            refilling.add_done_callback(_release)
            raise

    async def _refill(self, want: Want) -> Call:
        return Call(self, *await self._converse(self.purse.refill(want)), want.nano)

    def _start(self, talk: Any) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(talk)
        self._talking = task
        task.add_done_callback(self._stopped)
        return task

    def _stopped(self, task: "asyncio.Task[Any]") -> None:
        if self._talking is task:
            self._talking = None
        if not self.empty:
            self.remind()

    def guard(self, **ask: Unpack[Ask]) -> AsyncGuard:
        """Return a guard for one call that reserves from this lease.

        It takes `tokens`, `min_tokens`, `cost`, `requests` and `on_unknown`. A block has one entry in the ledger, with
        the lease's `meta`: what a single call tells as its own is not kept.
        """
        amounts_of(ask)
        return AsyncGuard(AsyncLeaseSource(self), self.user, ask)

    async def extend(self, call: Call, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Promise a call that runs this much more. Raises QuotaExceeded, NotFound, DatabaseUnreachable.

        With `ttl` its block is held for so long from now on.
        """
        tokens, nano = count("tokens", tokens, TOKENS_MAX), nano_promised(money("cost", cost))
        await self._converse(self.purse.extend(call.block, tokens, nano, ttl))
        with self.lock:
            call.tokens += tokens
            call.cost_nano += nano

    async def _converse(self, talk: Talk[T]) -> T:
        answer: Any = None
        problem: AtlasError | None = None
        try:
            while True:
                with self.lock:
                    try:
                        plan = talk.send(answer) if problem is None else talk.throw(problem)
                    except StopIteration as stop:
                        return cast("T", stop.value)
                answer, problem = None, None
                try:
                    answer = await self._runner.run(plan)
                except AtlasError as exc:
                    problem = exc
        finally:
            with self.lock:
                talk.close()

    def remind(self) -> None:
        """Have the keeper look after this lease now."""
        self._keeper.call(self)

    async def tend(self) -> float | None:
        """Give back what is idle and settle what is owed; return in how many seconds to come again."""
        with self.lock:
            idle_in_s, due_in_s = self.purse.retire_if_done(), self.purse.due_in_s()
        if self._talking is not None:
            # The end of the talk calls the keeper.
            return None
        if due_in_s == 0:
            await self._talk(self.purse.look_after())
            with self.lock:
                due_in_s = self.purse.due_in_s()
        return min((s for s in (idle_in_s, due_in_s) if s is not None), default=None)

    async def _talk(self, talk: Talk[object]) -> None:
        await self._silence()
        await asyncio.shield(self._start(self._converse(talk)))

    async def _silence(self) -> None:
        while self._talking is not None:
            await asyncio.wait([self._talking])

    async def give_back(self) -> None:
        """Give back what no call needs; what calls that run were promised, when the last one ends."""
        if not self.empty:
            await self._talk(self.purse.give_back())

    async def close(self) -> None:
        """Admit no more calls, and settle. Calls that still run are settled when the last one ends. Idempotent."""
        self.closed = True
        await self._silence()
        with self.lock:
            self.purse.retire()
        await self.give_back()

    async def end(self) -> None:
        """Close; calls that still run are charged what they were promised, because nobody will tell any more."""
        self.closed = True
        await self._silence()
        with self.lock:
            self.purse.retire()
            self.purse.charge_running()
        if not self.empty:
            await self._talk(self.purse.debts.settle(due_only=False))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncLeaseSource:
    """What a guard of one lease reserves from."""

    def __init__(self, lease: AsyncLease) -> None:
        self._lease = lease

    async def reserve(self, user: User, ask: Ask) -> Call:  # noqa: ARG002  # the lease's
        """Take a part of the lease's block. Raises QuotaExceeded, DatabaseUnreachable, InvalidInput."""
        return await self._lease.reserve(**amounts_of(ask))

    async def settle(
        self,
        user: User,  # noqa: ARG002  # the lease's
        held: Held,
        *,
        tokens: int | None,
        cost: Decimal | None,
        meta: Mapping[str, object] | None,  # noqa: ARG002  # a block has one entry in the ledger
    ) -> Settlement:
        """Charge these amounts; None is unknown: all that was promised."""
        return call_of(held).settlement(tokens, cost)

    async def release(self, user: User, held: Held) -> Settlement:  # noqa: ARG002  # the lease's
        """Give the promise back."""
        return call_of(held).released()

    async def extend(
        self,
        user: User,  # noqa: ARG002  # the lease's
        held: Held,
        *,
        tokens: int,
        cost: Money,
        ttl: timedelta | None,
    ) -> Call:
        """Promise this much more; return the whole. Raises QuotaExceeded, NotFound."""
        call = call_of(held)
        await self._lease.extend(call, tokens=tokens, cost=cost, ttl=ttl)
        return call


def _release(refilling: "asyncio.Task[Call]") -> None:
    if not refilling.cancelled() and refilling.exception() is None:
        refilling.result().release()
