"""What a lease holds: the block that it spends, blocks that drain, and what is still to be settled. No I/O, no locks.

Talking to the database is a generator that yields plans and is sent what they returned, or has thrown in what they
raised: threads and asyncio run the same talk. It changes the purse only between two plans, and whoever runs it holds
the lease's lock then.

The life of a block::

    granted -> current -> retired: nothing fits any more, too old, idle, or the lease closes
                             |-- calls still run on it: it drains until the last one ends. Heartbeats keep it alive, and
                             |   when its rest lies idle, it is exchanged for a promise of what those calls need
                             '-- then owed: it is settled with the sum of what its calls used, and forgotten

A block that is owed is never spent from again, since its settlement may have reached the database although no answer
came back. That is why a new block is asked for *before* the old one is settled: while the database is gone, what is
left of the old one still serves the calls that fit. Only when the database refuses, the rest of the old block is given
back first and the database asked once more, so that near the limit nothing lies idle here.
"""

import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from math import inf

from attrs import evolve

from atlas_sdk.errors import AtlasError, DatabaseUnreachable, InvalidInput, NotFound, QuotaExceeded
from atlas_sdk.guards.block import Block, dollars
from atlas_sdk.guards.lender import BEATS, Lender
from atlas_sdk.guards.owed import Debts, Owed, Talk
from atlas_sdk.guards.want import Failure, Want
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas

__all__ = ["Purse"]

logger = logging.getLogger(__name__)

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
        idle_s: float,
        clock: Callable[[], float],
    ) -> None:
        """Hold nothing yet; the amounts are the size of a block."""
        self.user = user
        self.tokens = tokens
        self.nano = nano
        self.requests = requests
        self.ttl = ttl
        self.idle_s = idle_s
        self._clock = clock
        self.debts = Debts(user, clock)
        self._lender = Lender(user, ttl=ttl, holder=holder, meta=meta, debts=self.debts, clock=clock)
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
        """Whether there is something that no call needs."""
        return self.debts.has_rest or any(block.has_rest for block in self._blocks)

    @property
    def _blocks(self) -> list[Block]:
        return [*self._draining] if self.current is None else [*self._draining, self.current]

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
            block.look_at = min(block.look_at, block.used_at + self.idle_s)

    def retire_if_done(self) -> float | None:
        """Retire the current block if it is idle or too old; return when to look again, in seconds from now."""
        if self.current is None:
            return None
        now, idle_s = self._clock(), self.idle_s
        if now >= self.current.deadline or (not self.current.running and now - self.current.used_at >= idle_s):
            self.retire()
            return None
        return min(self.current.deadline, max(self.current.used_at, now - idle_s / 2) + idle_s) - now

    def charge_running(self) -> None:
        """End what drains: calls that still run are charged what they were promised."""
        for block in list(self._draining):
            self.debts.owe(Owed.of(block))
        self._draining.clear()

    def due_in_s(self) -> float | None:
        """Return in how many seconds `look_after` has something to do; None: not before a call ends."""
        looks = min((block.look_at for block in self._blocks if block.running), default=inf)
        owed_in_s = self.debts.next_due_s()
        looks_in_s = None if looks == inf else max(looks - self._clock(), 0.0)
        return min((s for s in (looks_in_s, owed_in_s) if s is not None), default=None)

    # Talks.

    def look_after(self) -> Talk[None]:
        """Settle what is due, and see to the blocks that calls run on. Raises nothing."""
        yield from self.debts.settle(due_only=True)
        for block in self._blocks:
            if block.running and block.look_at <= self._clock():
                idle = self._clock() - block.used_at >= self.idle_s
                if not (idle and block.is_mostly_rest and (yield from self._shrink(block))):
                    yield from self._keep_alive(block)
        # What the smaller promises have freed.
        yield from self.debts.settle(due_only=True)

    def give_back(self) -> Talk[bool]:
        """Give back what no call needs, of every block; return whether that was anything. Raises nothing.

        A block that calls run on stays as it is when there is no room for a smaller promise beside it.
        """
        if self.current is not None and not self.current.running:
            self.retire()
        for block in self._blocks:
            if block.running and block.has_rest:
                yield from self._shrink(block)
        return (yield from self.debts.settle(due_only=False))

    def _keep_alive(self, block: Block) -> Talk[None]:
        asked_at = self._clock()
        pause_s = self.ttl.total_seconds() / BEATS
        try:
            yield quotas.extend(self.user, block.id, ttl=self.ttl)
        except NotFound as problem:
            # It was charged in full, since its time was over; or somebody ended it. Its settlement corrects the former.
            logger.debug("block %s has ended while calls run on it: %s", block.id, problem)
            if block is self.current:
                self.retire()
            block.look_at = inf
        except AtlasError:
            logger.debug("a heartbeat of block %s failed", block.id, exc_info=True)
            block.look_at = self._clock() + pause_s / BEATS
        else:
            block.look_at = asked_at + pause_s
            idle_at = block.used_at + self.idle_s
            if block.retired and idle_at > asked_at:
                block.look_at = min(block.look_at, idle_at)

    def _shrink(self, block: Block) -> Talk[bool]:
        """Exchange a block for a promise of what the calls that run on it need; return whether that was possible.

        The smaller promise comes first, so that nothing is spent that is not held.
        """
        tokens, nano = block.promised
        if not block.can_move(tokens, nano):
            return False
        try:
            small = yield from self._lender.promise(tokens, nano)
        except AtlasError:
            # Near the limit there may be no room for both.
            logger.debug("block %s could not be made smaller", block.id, exc_info=True)
            return False
        if not block.can_move(small.tokens, small.nano) or block not in self._blocks:
            # More was promised of it meanwhile, or its last call has ended.
            self.debts.owe(Owed(small.id, 0, 0, 0, has_rest=True))
            return False
        self.debts.owe(Owed(block.id, block.spent_tokens, block.spent_nano, block.charge[2], has_rest=True))
        block.move(id=small.id, epoch=small.epoch, tokens=small.tokens, nano=small.nano)
        block.look_at = small.look_at
        if block is self.current:
            self.current = None
            self._draining.add(block)
        return True

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
            if block.give(granted, want.nano, 0, 0):
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
                    if not (yield from self.give_back()) and least == want.least:
                        raise
                elif refusal.dimension == "tokens" and least > want.least:
                    # All that is left, unless somebody is quicker; a block of its minimum would be a share of that.
                    rest = int(refusal.remaining)
                    least = rest if want.least < rest < least else want.least
                else:
                    raise

    def _new_block(self, want: Want, without: AbstractSet[str]) -> Talk[Block]:
        size = Want(
            0 if "tokens" in without else max(self.tokens, want.tokens),
            want.least,
            0 if "cost" in without else max(self.nano, want.nano),
            0 if "requests" in without else max(self.requests, want.requests),
        )
        for _ in range(_LATE_MAX):
            try:
                block = yield from self._lender.block(size, want)
            except InvalidInput as exc:
                if exc.field != "reservation_id":
                    raise
                # A first try was granted, its answer was lost, and the second came after its expiry: owed by now.
                continue
            if self._clock() < block.deadline:
                self.shrunk = (
                    4 * block.tokens < self.tokens or 4 * block.nano < self.nano or 4 * block.requests < self.requests
                )
                return block
            self.debts.owe(Owed.of(block))
        message = f"the database answers so slowly that a block of {self.ttl} is over when it arrives"
        raise DatabaseUnreachable(message)

    def extend(self, block: Block, tokens: int, nano: int, ttl: timedelta | None) -> Talk[None]:
        """Promise a call more of its block, or more to its block, which then lasts `ttl` from now on."""
        if block is not self.current and block not in self._draining:
            # It was charged at the end of the lease, or it is the block of the process that this one was forked from.
            message = f"block {block.id} is not held by this lease any more"
            raise NotFound(message, kind="reservation", name=str(block.id))
        if ttl is None and block.take_more(tokens, nano, self._clock()):
            return
        block.extending += 1
        try:
            # All of it, since what is left here may be gone when the answer comes.
            yield quotas.extend(self.user, block.id, tokens=tokens, cost=dollars(nano), ttl=ttl)
        finally:
            block.extending -= 1
        block.grow(tokens, nano)
