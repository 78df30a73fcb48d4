"""A lease for threads: blocks of a user's quota that this process spends by itself."""

import logging
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

from atlas_sdk._faces import Runner
from atlas_sdk.errors import AtlasError, QuotaExceeded
from atlas_sdk.guards.asking import Ask
from atlas_sdk.guards.block import nano_promised
from atlas_sdk.guards.call import Call, Leasing, amounts_of, call_of
from atlas_sdk.guards.guard import Guard
from atlas_sdk.guards.keeper import keeper_of
from atlas_sdk.guards.owed import Talk
from atlas_sdk.guards.source import Held
from atlas_sdk.guards.want import Want
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, count, money

__all__ = ["Lease", "LeaseSource"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: How long the end of a program may wait for a talk with the database that another thread has begun.
_END_S = 10.0


class Lease(Leasing):
    """Spends blocks of a user's quota: about a microsecond a call instead of two round trips.

    ::

        with atlas.quotas.lease(user, tokens=50_000, requests=100) as lease:
            held = lease.reserve(4096)
            reply = call(max_tokens=held.tokens)
            held.settle(reply.total_tokens)

    The limits hold as they do without it, because a block is held in the database before it is spent. A crash costs
    what the process held: one block, and what calls that still ran were promised. A call may take as long as it likes:
    heartbeats keep what it was promised, and the rest of its block is given back. Share a lease between threads; a
    forked child begins without a block. What a block does not tell the ledger is the single call: it is charged as one
    sum.

    An idle block is given back after `idle_s`, the rest by `close`, by the client's `close`, or at the end of the
    interpreter. A process that ends by `os._exit`, as the children of multiprocessing do, closes its leases itself.
    """

    def __init__(self, runner: Runner, user: User, **size: Any) -> None:
        """Use `atlas.quotas.lease`, which has the same arguments."""
        super().__init__(user, **size)
        self._runner = runner
        self._keeper = keeper_of(runner)
        self._keeper.know(self)

    def reserve(
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
        return self._reserve(self.want(tokens, min_tokens, cost, cost_nano, requests))

    def _reserve(self, want: Want) -> Call:
        try:
            return self._admitted(want)
        except QuotaExceeded:
            # Nobody is refused because of what lies idle in this process.
            if not self._keeper.give_back(self.user, but=self):
                raise
        return self._admitted(want)

    def _admitted(self, want: Want) -> Call:
        mine = False
        try:
            with self.changed:
                since = self.purse.begun
                while True:
                    admitted = self.purse.admit(want, since=since)
                    if admitted is not None:
                        return Call(self, *admitted, want.nano)
                    self.refuse_if_closed()
                    if not self.talking:
                        break
                    # One asks the database, for all who wait.
                    self.changed.wait()
                mine = self.talking = True
            return Call(self, *self._converse(self.purse.refill(want)), want.nano)
        finally:
            if mine:
                self._stop_talking()

    def guard(self, **ask: Unpack[Ask]) -> Guard:
        """Return a guard for one call that reserves from this lease.

        It takes `tokens`, `min_tokens`, `cost`, `requests` and `on_unknown`. A block has one entry in the ledger, with
        the lease's `meta`: what a single call tells as its own is not kept.
        """
        amounts_of(ask)
        return Guard(LeaseSource(self), self.user, ask)

    def extend(self, call: Call, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Promise a call that runs this much more. Raises QuotaExceeded, NotFound, DatabaseUnreachable.

        With `ttl` its block is held for so long from now on.
        """
        tokens, nano = count("tokens", tokens, TOKENS_MAX), nano_promised(money("cost", cost))
        self._converse(self.purse.extend(call.block, tokens, nano, ttl))
        with self.lock:
            call.tokens += tokens
            call.cost_nano += nano

    def _converse(self, talk: Talk[T]) -> T:
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
                    answer = self._runner.run(plan)
                except AtlasError as exc:
                    problem = exc
        finally:
            with self.lock:
                talk.close()

    def _stop_talking(self) -> None:
        with self.changed:
            self.talking = False
            self.changed.notify_all()
            if not self.empty:
                self.remind()

    def remind(self) -> None:
        """Have the keeper look after this lease now."""
        self._keeper.call(self)

    def tend(self) -> float | None:
        """Give back what is idle and settle what is owed; return in how many seconds to come again."""
        with self.lock:
            idle_in_s = self.purse.retire_if_done()
            if self.talking:
                # The end of the talk calls the keeper.
                return None
            due_in_s = self.purse.due_in_s()
        if due_in_s == 0:
            self._talk(self.purse.look_after())
            with self.lock:
                due_in_s = self.purse.due_in_s()
        return min((s for s in (idle_in_s, due_in_s) if s is not None), default=None)

    def _talk(self, talk: Talk[object]) -> None:
        mine = False
        try:
            with self.changed:
                while self.talking:
                    self.changed.wait()
                mine = self.talking = True
            self._converse(talk)
        finally:
            if mine:
                with self.changed:
                    self.talking = False
                    self.changed.notify_all()

    def give_back(self) -> None:
        """Give back what no call needs; what calls that run were promised, when the last one ends."""
        if not self.empty:
            self._talk(self.purse.give_back())

    def close(self) -> None:
        """Admit no more calls, and settle. Calls that still run are settled when the last one ends. Idempotent."""
        self.closed = True
        with self.changed:
            while self.talking:
                self.changed.wait()
            self.purse.retire()
        self.give_back()
        if not self.empty:
            # Calls still run, or the database did not answer.
            self.remind()

    def end(self) -> None:
        """Close; calls that still run are charged what they were promised, because nobody will tell any more."""
        self.closed = True
        with self.changed:
            if not self.changed.wait_for(lambda: not self.talking, _END_S):
                logger.warning("a lease is left to the expiry of its blocks: the database does not answer")
                return
            self.purse.retire()
            self.purse.charge_running()
        if not self.empty:
            self._talk(self.purse.debts.settle(due_only=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LeaseSource:
    """What a guard of one lease reserves from."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def reserve(self, user: User, ask: Ask) -> Call:  # noqa: ARG002  # the lease's
        """Take a part of the lease's block. Raises QuotaExceeded, DatabaseUnreachable, InvalidInput."""
        return self._lease.reserve(**amounts_of(ask))

    def settle(
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

    def release(self, user: User, held: Held) -> Settlement:  # noqa: ARG002  # the lease's
        """Give the promise back."""
        return call_of(held).released()

    def extend(
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
        self._lease.extend(call, tokens=tokens, cost=cost, ttl=ttl)
        return call
