"""A block of a user's quota that this process may spend: counters only, no I/O, no locks, no clock.

The rest of a block goes down when a call takes its part, and goes up by what the call did not use of its part. So
`granted - left` is always the sum of what was spent and of the parts of running calls; nothing can be counted twice.
What was spent is counted apart as well, so that a block can be exchanged for one of just the size of its running calls.

Money is in billionths of a dollar here, as whole numbers: exact, and ten times as fast as Decimal.
"""

from decimal import ROUND_CEILING, ROUND_HALF_UP, Context, Decimal
from math import inf
from uuid import UUID

from attrs import define, field, frozen

__all__ = ["NANO_MAX", "Block", "LeaseRequest", "dollars", "nano_reserved", "nano_used"]

#: More digits than the largest amount has (a billion dollars in billionths): the application's own decimal context must
#: not round money.
_EXACT = Context(prec=60)
_NANO = Decimal(10**9)
#: A billion dollars: the most that one call to the database may name.
NANO_MAX = 10**18


def nano_reserved(amount: Decimal) -> int:
    """Return an amount of dollars in billionths, rounded up as every reservation is."""
    return int(_EXACT.multiply(amount, _NANO).to_integral_value(ROUND_CEILING, _EXACT))


def nano_used(amount: Decimal) -> int:
    """Return an amount of dollars in billionths, rounded as the database rounds what was used."""
    return int(_EXACT.multiply(amount, _NANO).to_integral_value(ROUND_HALF_UP, _EXACT))


def dollars(nano: int) -> Decimal:
    """Return billionths of a dollar as dollars."""
    return Decimal(nano).scaleb(-9, _EXACT)


@frozen
class LeaseRequest:
    """Amounts that one call asks a lease for. It accepts `least` tokens; money is in billionths of a dollar."""

    tokens: int
    least: int
    nano: int
    requests: int

    def amount(self, dimension: str) -> int | None:
        """Return how much of a dimension the call needs; None for one that leases do not have."""
        return {"tokens": self.least, "cost": self.nano, "requests": self.requests}.get(dimension)


@define(kw_only=True, eq=False)
class Block:
    """Counters of one block: amounts granted, left and spent, running calls, and the time when it admits no more."""

    id: UUID
    epoch: int
    #: Amounts that the database granted; times are seconds of one clock.
    tokens: int
    nano: int
    requests: int
    #: The block admits no call after that: the database may count it as spent.
    deadline: float
    #: Time of the last call that it admitted.
    used_at: float
    #: Time of the next heartbeat, or of giving back what running calls do not need.
    look_at: float = inf
    left_tokens: int = field(init=False)
    left_nano: int = field(init=False)
    left_requests: int = field(init=False)
    #: Amounts that ended calls used.
    spent_tokens: int = field(init=False, default=0)
    spent_nano: int = field(init=False, default=0)
    #: Calls that were admitted and have not ended.
    running: int = field(init=False, default=0)
    retired: bool = field(init=False, default=False)
    #: Extensions that the database is asked for.
    extending: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.left_tokens, self.left_nano, self.left_requests = self.tokens, self.nano, self.requests

    def take(self, tokens: int, nano: int, requests: int, now: float) -> bool:
        """Give a call its part. Return False and change nothing when too little is left, or it is too late."""
        if now >= self.deadline or tokens > self.left_tokens or nano > self.left_nano or requests > self.left_requests:
            return False
        self.left_tokens -= tokens
        self.left_nano -= nano
        self.left_requests -= requests
        self.running += 1
        self.used_at = now
        return True

    def take_up_to(self, tokens: int, least: int, nano: int, requests: int, now: float) -> int | None:
        """Give a call as many tokens as are left, from `least` to `tokens`; return how many, or None."""
        granted = min(tokens, max(self.left_tokens, least))
        return granted if self.take(granted, nano, requests, now) else None

    def give(self, tokens: int, nano: int, used_tokens: int, used_nano: int) -> bool:
        """End a call that had this part and used so much of it; return whether the block is to be settled now.

        The rest of its part is left for others. Its requests stay counted, because they limit attempts.
        """
        self.left_tokens += tokens - used_tokens
        self.left_nano += nano - used_nano
        self.spent_tokens += used_tokens
        self.spent_nano += used_nano
        self.running -= 1
        return self.retired and not self.running

    def take_more(self, tokens: int, nano: int, now: float) -> bool:
        """Give more to a running call. Return False and change nothing when too little is left, or it is too late."""
        if now >= self.deadline or tokens > self.left_tokens or nano > self.left_nano:
            return False
        self.left_tokens -= tokens
        self.left_nano -= nano
        return True

    def grow(self, tokens: int, nano: int) -> None:
        """Add what the database granted to a running call: it is that call's, so nothing more is left."""
        self.tokens += tokens
        self.nano += nano

    def retire(self) -> bool:
        """Admit no more calls; return whether the block is to be settled now."""
        self.retired = True
        self.deadline = -inf
        return not self.running

    def can_move(self, tokens: int, nano: int) -> bool:
        """Return whether calls run on it, and this much is enough for them."""
        tokens_in_use, nano_in_use = self.in_use
        return self.running > 0 and not self.extending and tokens_in_use <= tokens and nano_in_use <= nano

    def move(self, *, id: UUID, epoch: int, tokens: int, nano: int) -> None:  # noqa: A002  # as above
        """Become a reservation of just this much for the running calls. What was spent stays with the old block."""
        tokens_in_use, nano_in_use = self.in_use
        self.id, self.epoch = id, epoch
        self.tokens, self.left_tokens, self.spent_tokens = tokens, tokens - tokens_in_use, 0
        self.nano, self.left_nano, self.spent_nano = nano, nano - nano_in_use, 0
        # Running calls began under the old block, and it counts their requests.
        self.requests = self.left_requests = 0
        self.retire()

    @property
    def in_use(self) -> tuple[int, int]:
        """Tokens and billionths of a dollar that running calls have."""
        return self.tokens - self.left_tokens - self.spent_tokens, self.nano - self.left_nano - self.spent_nano

    @property
    def charge(self) -> tuple[int, int, int]:
        """Tokens, billionths of a dollar and requests: spent, or a part of a running call."""
        return self.tokens - self.left_tokens, self.nano - self.left_nano, self.requests - self.left_requests

    @property
    def has_rest(self) -> bool:
        """True if settling it gives something back."""
        return self.left_tokens > 0 or self.left_nano > 0 or self.left_requests > 0

    @property
    def is_mostly_rest(self) -> bool:
        """True if at least half of it serves no running call."""
        tokens, nano = self.in_use
        return self.left_requests > 0 or (self.has_rest and self.left_tokens >= tokens and self.left_nano >= nano)
