"""The blocks of one lease: the current one, and older ones that calls still run on. No I/O, no locks.

Requests to the database are scripts, which threads and asyncio share. A script changes the pool only between two plans,
while its runner holds the lease's lock.

The life of a block::

    granted -> current -> retired, because a call does not fit, the block is too old or idle, or the lease closes
                             |-- While calls run on it, it drains. Heartbeats keep it alive. If its rest is idle, the
                             |   pool exchanges it for a reservation of the size of those calls.
                             '-- After its last call it goes to the outbox, which settles it with the sum of its calls.

The pool never spends from a block in the outbox: its settlement may have reached the database, even without an answer.
So the pool asks for a new block *before* it settles the old one. While the database is down, the old block still serves
calls that fit. If the database refuses, the pool gives the rest of the old block back and asks once more, so that a
process near the limit holds nothing idle.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from math import inf

from attrs import evolve

from atlas_sdk._plan import Script
from atlas_sdk.errors import AtlasError, DatabaseUnreachable, NotFound, QuotaExceeded
from atlas_sdk.guards.block import Block, LeaseRequest, dollars
from atlas_sdk.guards.block_requests import BEATS, LOOK_S, BlockRequests, BlockSize, SharedFailure
from atlas_sdk.guards.outbox import Outbox
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas

__all__ = ["BlockPool"]

logger = logging.getLogger(__name__)


class BlockPool:
    """The blocks of one lease."""

    def __init__(
        self,
        user: User,
        *,
        size: LeaseRequest | None,
        ttl: timedelta,
        holder: str,
        meta: Mapping[str, object] | None,
        idle_s: float,
        clock: Callable[[], float],
    ) -> None:
        """Create an empty pool. Without a size, a block is for one call, or for several while calls come quickly."""
        self.user = user
        self.size = BlockSize(size)
        self._ttl = ttl
        self._idle_s = idle_s
        self._clock = clock
        self.outbox = Outbox(clock)
        self._requests = BlockRequests(user, ttl=ttl, holder=holder, meta=meta, outbox=self.outbox, clock=clock)
        self.forget()

    def forget(self) -> None:
        """Empty the pool in a forked child, because the parent owns the blocks."""
        self.current: Block | None = None
        #: Retired blocks that calls still run on.
        self._draining: set[Block] = set()
        #: The number of refills that have begun, and the number of the latest that has ended.
        self.begun = 0
        self._ended = 0
        self._failure: SharedFailure | None = None
        self.size.start_small()

    @property
    def empty(self) -> bool:
        """True if the pool has no block and no settlement to write."""
        return self.current is None and not self.outbox and not self._draining

    @property
    def can_give_back(self) -> bool:
        """True if the pool holds amounts that no call needs and that it can give back."""
        return self.outbox.frees or any(block.has_rest for block in self._blocks)

    @property
    def _blocks(self) -> list[Block]:
        return [*self._draining] if self.current is None else [*self._draining, self.current]

    def admit(self, request: LeaseRequest, *, since: int) -> tuple[Block, int] | None:
        """Return a block and the tokens that it grants, or None if the caller must refill the pool first.

        `since` is the value of `begun` when the caller arrived. A refill that began later asked for every waiting
        caller, so its refusal also applies to a waiting caller that wants at least as much of the refused dimension.
        Other callers ask the database themselves, because it may grant their requests. One refill runs at a time, so
        waiting callers do not flood the database.
        """
        block = self.current
        if block is not None:
            now = self._clock()
            if block.take(request.tokens, request.nano, request.requests, now):
                return block, request.tokens
            if self._ended > since and request.least < request.tokens:
                granted = block.take_up_to(request.tokens, request.least, request.nano, request.requests, now)
                if granted is not None:
                    return block, granted
        if self._failure is not None and self._failure.number > since:
            problem = self._failure.answer(request)
            if problem is not None:
                raise problem from self._failure.problem
        return None

    def drained(self, block: Block) -> None:
        """Settle a retired block whose last call has ended."""
        # Skip the block in a forked child, because the parent settles it, and after `charge_running`, which has settled
        # it.
        if block in self._draining:
            self._draining.discard(block)
            self.outbox.add(self._requests.settlement(block))

    def retire(self) -> None:
        """Stop spending from the current block."""
        block, self.current = self.current, None
        if block is None:
            return
        if block.retire():
            self.outbox.add(self._requests.settlement(block))
        else:
            self._draining.add(block)
            if block.has_rest or block.running > 1:
                block.look_at = min(block.look_at, block.used_at + self._idle_s)

    def retire_if_done(self) -> float | None:
        """Retire the current block if it is idle or too old; return the seconds until the next check."""
        block, now, idle_s = self.current, self._clock(), self._idle_s
        if block is None:
            return None
        if now >= block.deadline or (not block.running and now - block.used_at >= idle_s):
            self.retire()
            self.size.start_small()
            return None
        return min(block.deadline, max(block.used_at, now - idle_s / 2) + idle_s) - now

    def charge_running(self) -> None:
        """End every block. Charge the whole grant of each call that still runs."""
        self.retire()
        for block in list(self._draining):
            self.outbox.add(self._requests.settlement(block))
        self._draining.clear()

    def due_in_s(self) -> float | None:
        """Return the seconds until `maintain` has something to do; None if it has nothing to do before a call ends."""
        now, settles_in_s = self._clock(), self.outbox.next_due_s()
        looks = [block.look_at - now for block in self._blocks if self._is_looked_at(block)]
        due = looks if settles_in_s is None else [*looks, settles_in_s]
        return max(min(due), 0.0) if due else None

    def maintain(self) -> Script[None]:
        """Write due settlements, and keep alive or shrink the blocks with running calls. Raises nothing.

        A block that admits calls is looked at as well: a lease stops spending it soon after a limit was lowered, or the
        user was deleted.
        """
        yield from self.outbox.flush(due_only=True)
        for block in self._blocks:
            if self._is_looked_at(block) and block.look_at <= self._clock():
                idle = self._clock() - block.used_at >= self._idle_s
                if not (idle and block.is_mostly_rest and (yield from self._shrink(block))):
                    yield from self._keep_alive(block)
        # Settle the blocks that smaller reservations have replaced.
        yield from self.outbox.flush(due_only=True)

    def _is_looked_at(self, block: Block) -> bool:
        return (block.running > 0 or block is self.current) and block.look_at < inf

    def give_back(self) -> Script[bool]:
        """Give back the unused parts of all blocks; return True if that gave anything back. Raises nothing.

        A block with running calls stays unchanged if the limit leaves no room for a smaller reservation beside it.
        """
        if self.current is not None and not self.current.running:
            self.retire()
        for block in self._blocks:
            if block.running and block.has_rest:
                yield from self._shrink(block)
        return (yield from self.outbox.flush())

    def _keep_alive(self, block: Block) -> Script[None]:
        asked_at = self._clock()
        pause_s = self._ttl.total_seconds() / BEATS
        try:
            # Without running calls the block may expire on time.
            within = yield quotas.keep_block(self.user, block.id, ttl=self._ttl if block.running else None)
        except NotFound as problem:
            # The block expired and was charged in full, or another process ended it, or the user was deleted. A
            # settlement corrects a full charge.
            logger.debug("block %s has ended while calls run on it: %s", block.id, problem)
            if block is self.current:
                self.retire()
            block.look_at = inf
        except AtlasError:
            logger.debug("a heartbeat of block %s failed", block.id, exc_info=True)
            block.look_at = self._clock() + pause_s / BEATS
        else:
            block.look_at = asked_at + pause_s
            if block is self.current:
                block.look_at = asked_at + min(pause_s, LOOK_S)
                if not within:
                    self.retire()
                    self.size.start_small()
            idle_at = block.used_at + self._idle_s
            if block.retired and idle_at > asked_at:
                block.look_at = min(block.look_at, idle_at)

    def _shrink(self, block: Block) -> Script[bool]:
        """Exchange a block for a reservation of the size of its running calls; return True if that was possible.

        The smaller reservation is made first, so that running calls are always covered.
        """
        tokens, nano = block.in_use
        if not block.can_move(tokens, nano):
            return False
        try:
            small = yield from self._requests.reservation(tokens, nano)
        except AtlasError:
            # Near the limit there may be no room for both reservations.
            logger.debug("block %s could not be made smaller", block.id, exc_info=True)
            return False
        if not block.can_move(small.tokens, small.nano) or block not in self._blocks:
            # Meanwhile a call was extended, or the last call ended.
            self.outbox.add(self._requests.unused(small.id))
            return False
        self.outbox.add(self._requests.settlement(block, spent_only=True))
        block.move(id=small.id, epoch=small.epoch, tokens=small.tokens, nano=small.nano)
        block.look_at = small.look_at
        if block is self.current:
            self.current = None
            self._draining.add(block)
        return True

    def refill(self, request: LeaseRequest) -> Script[tuple[Block, int]]:
        """Get a new block; return it and the tokens that it grants to the call. Raises the error of the request."""
        self.begun += 1
        number = self.begun
        self.size.next(self._clock())
        try:
            block = yield from self._granted_block(request)
        except (QuotaExceeded, DatabaseUnreachable) as problem:
            self._failure = SharedFailure(number, request, problem)
            self.size.start_small()
            old, now = self.current, self._clock()
            if old is not None and isinstance(problem, QuotaExceeded):
                # Serve a call that accepts fewer tokens from the rest of the old block.
                left = old.take_up_to(request.tokens, request.least, request.nano, request.requests, now)
                if left is not None:
                    return old, left
            raise
        finally:
            self._ended = number
        self.retire()
        self.current = block
        # Use the time of the request: the deadline was checked just now, but it may have passed since then.
        granted = block.take_up_to(request.tokens, request.least, request.nano, request.requests, block.used_at)
        if granted is None:
            raise AssertionError(f"block {block.id} was granted with less than its minimum")
        if self.size.is_one_call:
            # A block for one call is a reservation, with no rest for later calls.
            self.retire()
        try:
            # Settle now; a busy process starves the background thread. A crash must cost at most one block.
            yield from self.outbox.flush(due_only=True)
        except BaseException:
            if block.give(granted, request.nano, 0, 0):
                self.drained(block)
            raise
        return block, granted

    def _granted_block(self, request: LeaseRequest) -> Script[Block]:
        without: set[str] = set()
        least = request.tokens
        gave_back = False
        while True:
            try:
                return (yield from self._requests.block(self.size, evolve(request, least=least), without))
            except QuotaExceeded as refusal:
                if request.amount(refusal.dimension) == 0 and refusal.dimension not in without:
                    # This call needs nothing in that dimension, so ask for a block without that dimension.
                    without.add(refusal.dimension)
                elif self.can_give_back and not gave_back:
                    gave_back = True
                    if not (yield from self.give_back()) and least == request.least:
                        raise
                elif refusal.dimension == "tokens" and least > request.least:
                    # Ask for everything that is left. With a lower minimum, the database would grant only a share of
                    # it.
                    rest = int(refusal.remaining)
                    least = rest if request.least < rest < least else request.least
                else:
                    raise

    def extend(self, block: Block, tokens: int, nano: int, ttl: timedelta | None) -> Script[None]:
        """Grant a call more: from its block, or from the database. With `ttl`, the block expires `ttl` from now."""
        if block is not self.current and block not in self._draining:
            # The end of the lease charged the block, or the block belongs to the parent of this forked process.
            message = f"this lease no longer holds block {block.id}"
            raise NotFound(message, kind="reservation", name=str(block.id))
        if ttl is None and block.take_more(tokens, nano, self._clock()):
            return
        block.extending += 1
        try:
            # Ask for the whole amount: other calls may take the rest of the block before the answer arrives.
            yield quotas.extend(self.user, block.id, tokens=tokens, cost=dollars(nano), ttl=ttl)
        finally:
            block.extending -= 1
        block.grow(tokens, nano)
