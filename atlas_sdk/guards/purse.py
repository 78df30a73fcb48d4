"""What a lease holds: the block that it spends, blocks that drain, and what is still to be settled. No I/O, no locks.

Talking to the database is a generator that yields plans and is sent what they returned, or has thrown in what they
raised: threads and asyncio run the same talk. It changes the purse only between two plans, and whoever runs it holds
the lease's lock then.

The life of a block::

    granted -> current -> retired: nothing fits any more, too old, idle, or the lease closes
                             |-- calls still run on it: it drains until the last one ends
                             '-- then owed: it is settled with the sum of what its calls used, and forgotten

A block that is owed is never spent from again, since its settlement may have reached the database although no answer
came back. That is why a new block is asked for *before* the old one is settled: while the database is gone, what is
left of the old one still serves the calls that fit. Only when the database refuses, the rest of the old block is given
back first and the database asked once more, so that near the limit nothing lies idle here.
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from uuid import UUID

from attrs import evolve

from atlas_sdk._plan import Plan, context
from atlas_sdk.errors import (
    AtlasError,
    DatabaseUnreachable,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TransactionConflict,
)
from atlas_sdk.guards.block import Block, dollars, nano_promised
from atlas_sdk.guards.owed import Debts, Owed, Talk
from atlas_sdk.guards.want import Failure, Want
from atlas_sdk.model.quotas import Block as Granted
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas

__all__ = ["Purse"]

logger = logging.getLogger(__name__)

#: The part of a block's life in which it admits calls: the rest is for the difference of two clocks' speeds and for
#: settling it before it expires.
_LIFE = 0.9
#: What a second try may mend: a connection that broke, a server that is started again, a conflict.
_AGAIN = (DatabaseUnreachable, TransactionConflict)
#: A try that took this long has waited for a connection in vain; another would wait as long.
_PROMPT_S = 4.0
#: Blocks in a row that may arrive when their time is over already. Each of them ends no later than the one before, at
#: the end of a period, and took more than nine tenths of what was left to arrive: more than a few is no coincidence.
_LATE_MAX = 4


class Purse:
    """The blocks of one lease."""

    def __init__(
        self,
        user: User,
        *,
        tokens: int,
        nano: int,
        requests: int,
        ttl: timedelta,
        holder: str,
        meta: Mapping[str, object] | None,
        clock: Callable[[], float],
    ) -> None:
        """Hold nothing yet; the amounts are the size of a block."""
        self.user = user
        self.tokens = tokens
        self.nano = nano
        self.requests = requests
        self.ttl = ttl
        self._holder = holder
        self._meta = meta
        self._clock = clock
        self.debts = Debts(user, clock)
        self.forget()

    def forget(self) -> None:
        """Hold nothing: in a forked child everything is the parent's."""
        self.current: Block | None = None
        #: Retired blocks that calls still run on.
        self._draining: set[Block] = set()
        self.debts.forget()
        #: Talks for a new block: how many have begun, and the number of the latest that ended.
        self.begun = 0
        self._ended = 0
        self._failure: Failure | None = None
        #: The latest block is less than a quarter of what was asked for: the limit is near.
        self.shrunk = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to settle, now or later."""
        return self.current is None and not self.debts and not self._draining

    @property
    def can_give_back(self) -> bool:
        """Whether a settlement now would give something back."""
        idle = self.current is not None and not self.current.running and self.current.has_rest
        return idle or self.debts.has_rest

    # What a call takes.

    def admit(self, want: Want, *, since: int) -> tuple[Block, int] | None:
        """Return a block and the tokens that it promises; None: ask for a new block and come again.

        `since` is `begun` at the moment when the caller came. A talk that began after that has asked the database on
        behalf of everybody who waits, so its refusal holds for a caller who wants no less of what was refused: at that
        moment the database would have refused that caller too. That is all that is remembered of a refusal. A refusal
        remembered for some time would refuse callers whom the database would by then grant what another process has
        given back; and without it there is still no stampede, because one talk at a time asks for all.
        """
        now = self._clock()
        block = self.current
        if block is not None:
            if block.take(want.tokens, want.nano, want.requests, now):
                return block, want.tokens
            if self._ended > since and want.least < want.tokens:
                granted = block.take_up_to(want.tokens, want.least, want.nano, want.requests, now)
                if granted is not None:
                    return block, granted
        if self._failure is not None and self._failure.number > since:
            problem = self._failure.again(want)
            if problem is not None:
                raise problem from self._failure.problem
        return None

    def drained(self, block: Block) -> None:
        """Note that the last call on a retired block has ended."""
        # Not in a forked child, whose parent has it; nor after a close that charged it.
        if block in self._draining:
            self._draining.discard(block)
            self.debts.owe(Owed.of(block))

    # When a block ends.

    def retire(self) -> None:
        """Spend no more from the current block."""
        block, self.current = self.current, None
        if block is None:
            return
        if block.retire():
            self.debts.owe(Owed.of(block))
        else:
            self._draining.add(block)

    def retire_if_done(self, idle_s: float) -> float | None:
        """Retire the current block if it is idle or too old; return when to look again, in seconds from now."""
        if self.current is None:
            return None
        now = self._clock()
        if now >= self.current.deadline or (not self.current.running and now - self.current.used_at >= idle_s):
            self.retire()
            return None
        return min(self.current.deadline, max(self.current.used_at, now - idle_s / 2) + idle_s) - now

    def charge_running(self) -> None:
        """End what drains: calls that still run are charged what they were promised."""
        for block in list(self._draining):
            self.debts.owe(Owed.of(block))
        self._draining.clear()

    # Talks.

    def refill(self, want: Want) -> Talk[tuple[Block, int]]:
        """Get a block that this call fits in, and let it take its part. Raises what the database says."""
        self.begun += 1
        number = self.begun
        try:
            block = yield from self._granted_block(want)
        except (QuotaExceeded, DatabaseUnreachable) as problem:
            self._failure = Failure(number, want, problem)
            taken = self._take_from_old(want) if isinstance(problem, QuotaExceeded) else None
            if taken is None:
                raise
            return taken
        finally:
            self._ended = number
        self.retire()
        self.current = block
        # At the time when it was asked for: it is in time, and a clock that goes on now must not change that.
        granted = block.take_up_to(want.tokens, want.least, want.nano, want.requests, block.used_at)
        if granted is None:
            message = f"block {block.id} was granted with less than its minimum"
            raise AssertionError(message)
        try:
            # Here and not by the keeper, whose thread a busy one starves: a crash is to cost one block, not many.
            yield from self.debts.settle(due_only=True)
        except BaseException:
            if block.give(granted, want.nano):
                self.drained(block)
            raise
        return block, granted

    def _take_from_old(self, want: Want) -> tuple[Block, int] | None:
        """Serve a call that is content with less from what calls that still run have left of the old block."""
        if self.current is None:
            return None
        granted = self.current.take_up_to(want.tokens, want.least, want.nano, want.requests, self._clock())
        return None if granted is None else (self.current, granted)

    def _granted_block(self, want: Want) -> Talk[Block]:
        without: set[str] = set()
        least = want.tokens
        gave_back = False
        while True:
            try:
                return (yield from self._new_block(evolve(want, least=least), without))
            except QuotaExceeded as refusal:
                if want.of(refusal.dimension) == 0 and refusal.dimension not in without:
                    # This call needs none of it, so it must not be refused for it.
                    without.add(refusal.dimension)
                elif self.can_give_back and not gave_back:
                    gave_back = True
                    if self.current is not None and not self.current.running:
                        self.retire()
                    if not (yield from self.debts.settle(due_only=False)) and least == want.least:
                        raise
                elif refusal.dimension == "tokens" and least > want.least:
                    # All that is left, unless somebody is quicker; a block of its minimum would be a share of that.
                    rest = int(refusal.remaining)
                    least = rest if want.least < rest < least else want.least
                else:
                    raise

    def _new_block(self, want: Want, without: AbstractSet[str]) -> Talk[Block]:
        for _ in range(_LATE_MAX):
            try:
                block = yield from self._ask(want, without)
            except InvalidInput as exc:
                if exc.field != "reservation_id":
                    raise
                # A first try was granted, its answer was lost, and the second came after its expiry: owed by now.
                continue
            if self._clock() < block.deadline:
                return block
            self.debts.owe(Owed.of(block))
        message = f"the database answers so slowly that a block of {self.ttl} is over when it arrives"
        raise DatabaseUnreachable(message)

    def _ask(self, want: Want, without: AbstractSet[str]) -> Talk[Block]:
        new_id: UUID = (yield context()).new_id()
        doubtful = False
        try:
            for again in (True, False):
                # Measured from before the request, so that the block is never thought to last longer than it does.
                asked_at = self._clock()
                doubtful = True
                try:
                    granted: Granted = yield self._plan(want, without, new_id)
                except _AGAIN:
                    if not again or self._clock() - asked_at > _PROMPT_S:
                        raise
                    logger.debug("once more", exc_info=True)
                except QuotaExceeded:
                    doubtful = False
                    raise
                except AtlasError:
                    # After a first try without an answer anything but a refusal leaves it open what that did.
                    doubtful = not again
                    raise
                else:
                    doubtful = False
                    return self._block(granted, asked_at)
            raise AssertionError
        finally:
            # Also when the talk is cut off here.
            if doubtful:
                self.debts.owe(Owed(new_id, 0, 0, 0, has_rest=True, doubtful=True))

    def _plan(self, want: Want, without: AbstractSet[str], new_id: UUID) -> Plan[Granted]:
        return quotas.lease_block(
            self.user,
            tokens=0 if "tokens" in without else max(self.tokens, want.tokens),
            min_tokens=want.least,
            cost=0 if "cost" in without else dollars(max(self.nano, want.nano)),
            min_cost=dollars(want.nano),
            requests=0 if "requests" in without else max(self.requests, want.requests),
            min_requests=want.requests,
            ttl=self.ttl,
            holder=self._holder or _process(),
            meta=self._meta,
            reservation_id=new_id,
        )

    def _block(self, granted: Granted, asked_at: float) -> Block:
        nano = nano_promised(granted.cost)
        self.shrunk = 4 * granted.tokens < self.tokens or 4 * nano < self.nano or 4 * granted.requests < self.requests
        return Block(
            id=granted.id,
            epoch=granted.epoch,
            tokens=granted.tokens,
            nano=nano,
            requests=granted.requests,
            deadline=asked_at + _LIFE * granted.lasts.total_seconds(),
            now=asked_at,
        )

    def extend(self, block: Block, tokens: int, nano: int, ttl: timedelta | None) -> Talk[None]:
        """Promise a call more of its block, or more to its block, which then lasts `ttl` from now on."""
        if block is not self.current and block not in self._draining:
            # It was charged at the end of the lease, or it is the block of the process that this one was forked from.
            message = f"block {block.id} is not held by this lease any more"
            raise NotFound(message, kind="reservation", name=str(block.id))
        if ttl is None and block.take_more(tokens, nano, self._clock()):
            return
        # All of it, since what is left here may be gone when the answer comes.
        yield quotas.extend(self.user, block.id, tokens=tokens, cost=dollars(nano), ttl=ttl)
        block.grow(tokens, nano)


def _process() -> str:
    """Name this process: near a limit the database gives every holder a share, and this is one."""
    return f"{socket.gethostname()}:{os.getpid()}"
