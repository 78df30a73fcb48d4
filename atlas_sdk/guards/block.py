"""A block of a user's quota that this process may spend: counters only, no I/O, no locks, no clock.

What is left of a block goes down when a call is promised its part, and goes up by what the call did not use of it. So
at any time `granted - left` is what was spent plus what is promised to calls that still run, and once no call runs it
is what was spent. Nothing can be counted twice. What was spent is counted apart as well: a block of which only the
promises of long calls are left can so be exchanged for one of their size.

Money is in billionths of a dollar here, as whole numbers: exact, and ten times as fast as Decimal.
"""

from decimal import ROUND_CEILING, ROUND_HALF_UP, Context, Decimal
from math import inf
from uuid import UUID

from attrs import frozen

__all__ = ["NANO_MAX", "Block", "LeaseRequest", "dollars", "nano_promised", "nano_used"]

#: As many digits as the largest amount has (a billion dollars in billionths) and some to spare: the application's own
#: decimal context must not round money.
_EXACT = Context(prec=60)
_NANO = Decimal(10**9)
#: A billion dollars, which is what one call to the database may name.
NANO_MAX = 10**18


def nano_promised(amount: Decimal) -> int:
    """Return an amount of dollars in billionths, rounded up as every promise is."""
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


class Block:
    """One block: what was granted, what is left, how many calls run on it, and until when it admits more."""

    __slots__ = (
        "deadline",
        "epoch",
        "extending",
        "id",
        "left_nano",
        "left_requests",
        "left_tokens",
        "look_at",
        "nano",
        "requests",
        "retired",
        "running",
        "spent_nano",
        "spent_tokens",
        "tokens",
        "used_at",
    )

    def __init__(
        self,
        *,
        id: UUID,  # noqa: A002  # what it is everywhere
        epoch: int,
        tokens: int,
        nano: int,
        requests: int,
        deadline: float,
        now: float,
        look_at: float = inf,
    ) -> None:
        """Take what the database granted; the deadline, now and look_at are seconds of the same clock."""
        self.id = id
        self.epoch = epoch
        self.tokens = self.left_tokens = tokens
        self.nano = self.left_nano = nano
        self.requests = self.left_requests = requests
        #: From here on it admits no call: the database may count the block as spent.
        self.deadline = deadline
        #: Calls that were admitted and have not ended.
        self.running = 0
        #: When it last admitted a call.
        self.used_at = now
        self.retired = False
        #: By calls that have ended.
        self.spent_tokens = 0
        self.spent_nano = 0
        #: Extensions that the database is asked for.
        self.extending = 0
        #: When to keep it alive for calls that run, or to give back what they do not need.
        self.look_at = look_at

    def take(self, tokens: int, nano: int, requests: int, now: float) -> bool:
        """Promise a call its part. False, and nothing has changed: there is not enough left, or it is too late."""
        if now >= self.deadline or tokens > self.left_tokens or nano > self.left_nano or requests > self.left_requests:
            return False
        self.left_tokens -= tokens
        self.left_nano -= nano
        self.left_requests -= requests
        self.running += 1
        self.used_at = now
        return True

    def take_up_to(self, tokens: int, least: int, nano: int, requests: int, now: float) -> int | None:
        """Promise a call what is left of the tokens that it asks for, at least `least`; return how many, or None."""
        granted = min(tokens, max(self.left_tokens, least))
        return granted if self.take(granted, nano, requests, now) else None

    def give(self, tokens: int, nano: int, used_tokens: int, used_nano: int) -> bool:
        """End a call that was promised so much and used so much; return whether the block is to be settled now.

        What it did not use is left for others. Its requests stay counted, because they limit attempts.
        """
        self.left_tokens += tokens - used_tokens
        self.left_nano += nano - used_nano
        self.spent_tokens += used_tokens
        self.spent_nano += used_nano
        self.running -= 1
        return self.retired and not self.running

    def take_more(self, tokens: int, nano: int, now: float) -> bool:
        """Promise more to a call that runs. False, and nothing has changed: it needs to come from elsewhere."""
        if now >= self.deadline or tokens > self.left_tokens or nano > self.left_nano:
            return False
        self.left_tokens -= tokens
        self.left_nano -= nano
        return True

    def grow(self, tokens: int, nano: int) -> None:
        """Note what the database granted on top to a call that runs: it is promised already."""
        self.tokens += tokens
        self.nano += nano

    def retire(self) -> bool:
        """Admit no more calls; return whether the block is to be settled now."""
        self.retired = True
        self.deadline = -inf
        return not self.running

    def can_move(self, tokens: int, nano: int) -> bool:
        """Whether calls run on it, and a promise of this much would be enough for them."""
        promised_tokens, promised_nano = self.promised
        return self.running > 0 and not self.extending and promised_tokens <= tokens and promised_nano <= nano

    def move(self, *, id: UUID, epoch: int, tokens: int, nano: int) -> None:  # noqa: A002  # as above
        """Go on as a promise of just this much, for the calls that run: what was spent stays with the old one."""
        promised_tokens, promised_nano = self.promised
        self.id, self.epoch = id, epoch
        self.tokens, self.left_tokens, self.spent_tokens = tokens, tokens - promised_tokens, 0
        self.nano, self.left_nano, self.spent_nano = nano, nano - promised_nano, 0
        # Those of the calls that run are counted with the old one: they began under it.
        self.requests = self.left_requests = 0
        self.retire()

    @property
    def promised(self) -> tuple[int, int]:
        """Tokens and billionths of a dollar that are promised to calls that run."""
        return self.tokens - self.left_tokens - self.spent_tokens, self.nano - self.left_nano - self.spent_nano

    @property
    def charge(self) -> tuple[int, int, int]:
        """Tokens, billionths of a dollar and requests: spent, and promised to calls that still run."""
        return self.tokens - self.left_tokens, self.nano - self.left_nano, self.requests - self.left_requests

    @property
    def has_rest(self) -> bool:
        """Whether settling it gives something back."""
        return self.left_tokens > 0 or self.left_nano > 0 or self.left_requests > 0

    @property
    def is_mostly_rest(self) -> bool:
        """Whether at least half of it serves no call that runs."""
        tokens, nano = self.promised
        return self.left_requests > 0 or (self.has_rest and self.left_tokens >= tokens and self.left_nano >= nano)
