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
import time
from collections.abc import Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from attrs import define, evolve, frozen

from atlas_sdk._plan import Plan, context
from atlas_sdk.errors import (
    AtlasError,
    DatabaseUnreachable,
    NotFound,
    QuotaExceeded,
    StorageFull,
    TransactionConflict,
)
from atlas_sdk.guards.block import Block, dollars, nano_promised
from atlas_sdk.model.quotas import Block as Granted
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas
from atlas_sdk.ops.amounts import TOKENS_MAX

__all__ = ["Owed", "Purse", "Talk", "Want", "seconds"]

T = TypeVar("T")
#: A conversation with the database: yields plans, is sent their results.
Talk = Generator[Plan[Any], Any, T]

logger = logging.getLogger(__name__)

#: Seconds that only go forward, and go on while the machine is suspended where the system can tell: the server's do.
seconds: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)

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
#: A settlement is tried this often: at once, then after 1, 2, 4, … and at most 60 seconds; about five minutes in all.
_SETTLE_TRIES = 10
_SETTLE_PAUSE_MAX_S = 60.0
#: Settlements that wait for the database at most, of one lease.
_OWED_MAX = 100


@frozen
class Want:
    """What one call asks for; `least` is how many tokens it is content with, billionths of a dollar are exact."""

    tokens: int
    least: int
    nano: int
    requests: int


@define(eq=False)
class Owed:
    """A settlement that the database has not confirmed."""

    id: UUID
    tokens: int
    nano: int
    requests: int
    #: Settling gives something back.
    has_rest: bool
    #: It is not known whether this block was ever granted: nobody spends it.
    doubtful: bool = False
    tries: int = 0
    due: float = 0.0


@frozen
class _Failure:
    number: int
    want: Want
    problem: QuotaExceeded | DatabaseUnreachable

    def again(self, want: Want) -> AtlasError | None:
        """Return what another call would have been told, if that can be said without asking."""
        if isinstance(self.problem, DatabaseUnreachable):
            return type(self.problem)(*self.problem.args)
        problem = self.problem
        mine, theirs = _amount(want, problem.dimension), _amount(self.want, problem.dimension)
        if theirs is None or mine is None or mine < theirs:
            return None
        never = problem.limit is not None and mine > _nano_if_cost(problem, problem.limit)
        return QuotaExceeded(
            dimension=problem.dimension,
            asked=dollars(mine) if problem.dimension == "cost" else mine,
            remaining=problem.remaining,
            limit=problem.limit,
            retry_after=None if never else problem.retry_after,
            resets_at=problem.resets_at,
            holders=problem.holders,
        )


def _amount(want: Want, dimension: str) -> int | None:
    return {"tokens": want.least, "cost": want.nano, "requests": want.requests}.get(dimension)


def _nano_if_cost(problem: QuotaExceeded, amount: Any) -> int:
    return nano_promised(amount) if problem.dimension == "cost" else int(amount)


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
        self.forget()

    def forget(self) -> None:
        """Hold nothing: in a forked child everything is the parent's."""
        self.current: Block | None = None
        #: Retired blocks that calls still run on.
        self._draining: set[Block] = set()
        self.owed: list[Owed] = []
        #: Talks for a new block: how many have begun, and the number of the latest that ended.
        self.begun = 0
        self._ended = 0
        self._failure: _Failure | None = None
        #: The latest block is less than a quarter of what was asked for: the limit is near.
        self.shrunk = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to settle, now or later."""
        return self.current is None and not self.owed and not self._draining

    @property
    def can_give_back(self) -> bool:
        """Whether a settlement now would give something back."""
        idle = self.current is not None and not self.current.running and self.current.has_rest
        return idle or any(owed.has_rest for owed in self.owed)

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
            self._owe(_bill(block))

    # When a block ends.

    def retire(self) -> None:
        """Spend no more from the current block."""
        block, self.current = self.current, None
        if block is None:
            return
        if block.retire():
            self._owe(_bill(block))
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
            self._owe(_bill(block))
        self._draining.clear()

    def _owe(self, owed: Owed) -> None:
        owed.due = self._clock()
        self.owed.append(owed)
        if len(self.owed) > _OWED_MAX:
            logger.warning("block %s is left to its expiry: too many wait to be settled", self.owed.pop(0).id)

    # Talks.

    def refill(self, want: Want) -> Talk[tuple[Block, int]]:
        """Get a block that this call fits in, and let it take its part. Raises what the database says."""
        self.begun += 1
        number = self.begun
        try:
            block = yield from self._granted_block(want)
        except (QuotaExceeded, DatabaseUnreachable) as problem:
            self._failure = _Failure(number, want, problem)
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
                if _amount(want, refusal.dimension) == 0 and refusal.dimension not in without:
                    # This call needs none of it, so it must not be refused for it.
                    without.add(refusal.dimension)
                elif self.can_give_back and not gave_back:
                    gave_back = True
                    if self.current is not None and not self.current.running:
                        self.retire()
                    if not (yield from self.settle(due_only=False)) and least == want.least:
                        raise
                elif refusal.dimension == "tokens" and least > want.least:
                    # All that is left, unless somebody is quicker; a block of its minimum would be a share of that.
                    rest = int(refusal.remaining)
                    least = rest if want.least < rest < least else want.least
                else:
                    raise

    def _new_block(self, want: Want, without: AbstractSet[str]) -> Talk[Block]:
        for _ in range(_LATE_MAX):
            block = yield from self._ask(want, without)
            if self._clock() < block.deadline:
                return block
            self._owe(_bill(block))
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
                self._owe(Owed(new_id, 0, 0, 0, has_rest=True, doubtful=True))

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

    def settle(self, *, due_only: bool) -> Talk[bool]:
        """Settle what is owed; return whether that gave something back. Raises nothing: what fails is tried later."""
        came_back = False
        now = self._clock()
        for owed in [owed for owed in self.owed if not due_only or owed.due <= now]:
            plan = quotas.settle(
                self.user,
                owed.id,
                tokens=min(owed.tokens, TOKENS_MAX),
                cost=dollars(owed.nano),
                requests=owed.requests,
            )
            try:
                yield plan
            except (DatabaseUnreachable, TransactionConflict, StorageFull) as problem:
                self._later(owed, problem)
                if isinstance(problem, DatabaseUnreachable):
                    break
            except NotFound as problem:
                # For a doubtful one that is the better case: it was never granted.
                self._drop(owed, None if owed.doubtful else problem)
            except AtlasError as problem:
                self._drop(owed, problem)
            else:
                self._drop(owed, None)
                came_back = came_back or owed.has_rest
        return came_back

    def _later(self, owed: Owed, problem: AtlasError) -> None:
        owed.tries += 1
        if owed.tries >= _SETTLE_TRIES:
            self._drop(owed, problem)
            return
        if owed.tries == 1:
            logger.warning("the settlement of block %s is tried again later: %s", owed.id, problem)
        owed.due = self._clock() + min(2.0 ** (owed.tries - 1), _SETTLE_PAUSE_MAX_S)

    def _drop(self, owed: Owed, problem: AtlasError | None) -> None:
        if owed in self.owed:
            self.owed.remove(owed)
        if problem is not None:
            logger.warning("block %s is left to its expiry, which charges all of it: %s", owed.id, problem)

    def next_due_s(self) -> float | None:
        """Return in how many seconds something owed is to be settled."""
        return max(min(owed.due for owed in self.owed) - self._clock(), 0.0) if self.owed else None


def _bill(block: Block) -> Owed:
    tokens, nano, requests = block.charge
    return Owed(block.id, tokens, nano, requests, has_rest=block.has_rest)


def _process() -> str:
    """Name this process: near a limit the database gives every holder a share, and this is one."""
    return f"{socket.gethostname()}:{os.getpid()}"
