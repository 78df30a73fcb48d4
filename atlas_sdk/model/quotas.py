"""Quotas: what a user may use, what is promised and used, and the answer when it is too much."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

__all__ = ["Audit", "Books", "Check", "Hold", "Reservation", "Settlement", "Usage"]


@frozen(kw_only=True)
class Reservation:
    """A promise: this much may be used until it expires."""

    id: UUID
    user_id: UUID = field(repr=False)
    #: What was granted, from `min_tokens` to `tokens`: the `max_tokens` of the call.
    tokens: int
    #: US dollars.
    cost: Decimal
    #: None for a repeated call whose reservation is settled.
    expires_at: datetime | None = field(repr=str)
    #: Grows with every grant to the user: a driver obeys the highest that it has seen. None as above.
    epoch: int | None
    #: "held"; "settled" when a repeated call comes after the settlement.
    state: str = "held"
    #: This id was granted by an earlier call, and this is its answer.
    repeated: bool = False


@frozen(kw_only=True)
class Settlement:
    """What was charged for a reservation."""

    #: "settled"; "corrected": it had expired or been released before; "released"; "repeated": an earlier call did it.
    outcome: str
    tokens: int
    #: US dollars.
    cost: Decimal
    #: More was used than promised. It is charged all the same.
    overrun: bool


@frozen(kw_only=True)
class Hold:
    """A reservation that is not settled yet."""

    id: UUID
    tokens: int
    cost: Decimal
    slots: int
    tokens_progressed: int
    cost_progressed: Decimal
    holder: str
    meta: dict[str, object]
    epoch: int
    created_at: datetime = field(repr=str)
    expires_at: datetime = field(repr=str)


@frozen(kw_only=True)
class Usage:
    """What a user has used and promised, and the limits; a limit of None is unlimited."""

    tokens_used: int
    tokens_held: int
    tokens_limit: int | None
    #: US dollars, here and below.
    cost_used: Decimal
    cost_held: Decimal
    cost_limit: Decimal | None
    #: Containers that run now.
    slots_held: int
    slots_limit: int | None
    #: Up to a minute older than an hour: never fewer than there were.
    requests_last_hour: int
    requests_limit: int | None
    #: Today in the user's time zone.
    builds_today: int
    builds_limit: int | None
    #: The month that `tokens` and `cost` are counted in.
    period_start: datetime = field(repr=str)
    period_end: datetime = field(repr=str)
    time_zone: str

    def check(self) -> "Check":
        """Tell whether a limit is reached; of several, the one that takes longest to come back."""
        for dimension, taken, limit in (
            ("tokens", self.tokens_used + self.tokens_held, self.tokens_limit),
            ("cost", self.cost_used + self.cost_held, self.cost_limit),
            ("builds", self.builds_today, self.builds_limit),
            ("containers", self.slots_held, self.slots_limit),
            ("requests", self.requests_last_hour, self.requests_limit),
        ):
            if limit is not None and taken >= limit:
                return Check(exceeded=True, dimension=dimension, reason=f"{dimension}: {taken} of {limit} are taken")
        return Check(exceeded=False)


@frozen(kw_only=True)
class Check:
    """Whether a limit is reached. It reserves nothing: another caller may take what is left."""

    exceeded: bool
    dimension: str | None = None
    reason: str | None = None


@frozen(kw_only=True)
class Books:
    """One period of one user whose counters are not what ledger and holds add up to."""

    user_id: UUID
    period_start: datetime = field(repr=str)
    tokens_used: int
    tokens_charged: int
    cost_used: Decimal
    cost_charged: Decimal
    tokens_held: int
    tokens_promised: int
    cost_held: Decimal
    cost_promised: Decimal
    slots_held: int
    slots_promised: int


@frozen(kw_only=True)
class Audit:
    """The result of `verify`."""

    #: Periods looked at, those of closed months too.
    periods: int
    unbalanced: tuple[Books, ...] = ()

    @property
    def balanced(self) -> bool:
        """Whether used = SUM(ledger) and held = SUM(holds) everywhere."""
        return not self.unbalanced
