"""A block of a user's quota that this process may spend: counters only, no I/O, no locks, no clock.

When a call starts, the block subtracts the call's part from the amount left. When the call ends, the block adds the
unused rest again. So `granted - left` is always the amount spent plus the parts of running calls: nothing is counted
twice. The block also counts the amount spent alone, so that the pool can exchange the block for a reservation of the
size of its running calls.

Money is a whole number of billionths of a dollar here: exact, and ten times as fast as Decimal.
"""

from decimal import ROUND_CEILING, ROUND_HALF_UP, Context, Decimal
from math import inf
from uuid import UUID

from attrs import define, field, frozen

__all__ = ["NANO_MAX", "Block", "LeaseRequest", "dollars", "nano_reserved", "nano_used"]

#: A context with more digits than the largest amount (a billion dollars in billionths). The application's own decimal
#: context could round money.
_EXACT = Context(prec=60)
_NANO = Decimal(10**9)
#: A billion dollars: the largest amount of one call to the database.
NANO_MAX = 10**18


def nano_reserved(amount: Decimal) -> int:
    """Return an amount of dollars in billionths, rounded up, as every reservation is."""
    return int(_EXACT.multiply(amount, _NANO).to_integral_value(ROUND_CEILING, _EXACT))


def nano_used(amount: Decimal) -> int:
    """Return an amount of dollars in billionths, rounded as the database rounds charges."""
    return int(_EXACT.multiply(amount, _NANO).to_integral_value(ROUND_HALF_UP, _EXACT))


def dollars(nano: int) -> Decimal:
    """Return billionths of a dollar as dollars."""
    return Decimal(nano).scaleb(-9, _EXACT)


@frozen
class LeaseRequest:
    """The amounts that one call asks for, from `least` to `tokens` tokens; money is in billionths of a dollar."""

    tokens: int
    least: int
    nano: int
    requests: int

    def amount(self, dimension: str) -> int | None:
        """Return the amount that the call needs in a dimension; None for a dimension that leases do not have."""
        return {"tokens": self.least, "cost": self.nano, "requests": self.requests}.get(dimension)


@define(kw_only=True, eq=False)
class Block:
    """Counters of one block: amounts granted, left and spent, running calls, and a deadline for new calls."""

    id: UUID
    epoch: int
    #: Amounts that the database granted.
    tokens: int
    nano: int
    requests: int
    #: The block admits no calls after this time (in seconds of the lease's clock), because it soon expires in the
    #: database.
    deadline: float
    #: Time of the last call that the block admitted.
    used_at: float
    #: Time of the next heartbeat, or of the return of the unused part.
    look_at: float = inf
    left_tokens: int = field(init=False)
    left_nano: int = field(init=False)
    left_requests: int = field(init=False)
    #: Amounts that ended calls used.
    spent_tokens: int = field(init=False, default=0)
    spent_nano: int = field(init=False, default=0)
    #: Calls that have not ended.
    running: int = field(init=False, default=0)
    retired: bool = field(init=False, default=False)
    #: Extensions that the database has not answered yet.
    extending: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.left_tokens, self.left_nano, self.left_requests = self.tokens, self.nano, self.requests

    def take(self, tokens: int, nano: int, requests: int, now: float) -> bool:
        """Subtract a call's part. Change nothing and return False if too little is left or the deadline has passed."""
        if now >= self.deadline or tokens > self.left_tokens or nano > self.left_nano or requests > self.left_requests:
            return False
        self.left_tokens -= tokens
        self.left_nano -= nano
        self.left_requests -= requests
        self.running += 1
        self.used_at = now
        return True

    def take_up_to(self, tokens: int, least: int, nano: int, requests: int, now: float) -> int | None:
        """Take a part with as many tokens as are left, from `least` to `tokens`; return their number.

        Change nothing and return None if fewer than `least` are left, or too little cost or too few requests, and after
        the deadline.
        """
        granted = min(tokens, max(self.left_tokens, least))
        return granted if self.take(granted, nano, requests, now) else None

    def give(self, tokens: int, nano: int, used_tokens: int, used_nano: int) -> bool:
        """End a call, given its part and its usage; return True if the block can be settled now.

        Other calls may use the rest of the part. The call's requests stay counted, because requests limit attempts.
        """
        self.left_tokens += tokens - used_tokens
        self.left_nano += nano - used_nano
        self.spent_tokens += used_tokens
        self.spent_nano += used_nano
        self.running -= 1
        return self.retired and not self.running

    def take_more(self, tokens: int, nano: int, now: float) -> bool:
        """Subtract more for a running call, or return False if too little is left or the deadline has passed."""
        if now >= self.deadline or tokens > self.left_tokens or nano > self.left_nano:
            return False
        self.left_tokens -= tokens
        self.left_nano -= nano
        return True

    def grow(self, tokens: int, nano: int) -> None:
        """Add an amount that the database granted for one running call; other calls cannot use this amount."""
        self.tokens += tokens
        self.nano += nano

    def retire(self) -> bool:
        """Stop admitting calls; return True if the block can be settled now."""
        self.retired = True
        self.deadline = -inf
        return not self.running

    def can_move(self, tokens: int, nano: int) -> bool:
        """Return True if calls run on the block and a reservation of these amounts covers them."""
        tokens_in_use, nano_in_use = self.in_use
        return self.running > 0 and not self.extending and tokens_in_use <= tokens and nano_in_use <= nano

    def move(self, *, id: UUID, epoch: int, tokens: int, nano: int) -> None:  # noqa: A002  # as above
        """Move the running calls to a reservation of this size. The amount spent stays with the old block."""
        tokens_in_use, nano_in_use = self.in_use
        self.id, self.epoch = id, epoch
        self.tokens, self.left_tokens, self.spent_tokens = tokens, tokens - tokens_in_use, 0
        self.nano, self.left_nano, self.spent_nano = nano, nano - nano_in_use, 0
        # The old block counts the requests of the running calls.
        self.requests = self.left_requests = 0
        self.retire()

    @property
    def in_use(self) -> tuple[int, int]:
        """The parts of running calls: tokens and billionths of a dollar."""
        return self.tokens - self.left_tokens - self.spent_tokens, self.nano - self.left_nano - self.spent_nano

    @property
    def charge(self) -> tuple[int, int, int]:
        """The amounts spent, plus the parts of running calls: tokens, billionths of a dollar, requests."""
        return self.tokens - self.left_tokens, self.nano - self.left_nano, self.requests - self.left_requests

    @property
    def has_rest(self) -> bool:
        """True if settling the block gives something back."""
        return self.left_tokens > 0 or self.left_nano > 0 or self.left_requests > 0

    @property
    def is_mostly_rest(self) -> bool:
        """True if running calls need at most half of the block."""
        tokens, nano = self.in_use
        return self.left_requests > 0 or (self.has_rest and self.left_tokens >= tokens and self.left_nano >= nano)
