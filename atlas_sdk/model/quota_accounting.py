"""Quota accounting: amounts used, held and allowed, past periods, and the comparison of counters and ledger."""

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

from atlas_sdk.text import digits

__all__ = [
    "Forecast",
    "LimitCheck",
    "OpenReservation",
    "QuotaAccounting",
    "QuotaAudit",
    "QuotaPeriod",
    "Rates",
    "Usage",
]


@frozen(kw_only=True)
class OpenReservation:
    """A reservation that is not settled yet, as `quotas.reservations` lists it."""

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
    #: True for a block that a process spends by itself. Its `requests` are reserved; other reservations count requests
    #: at the grant.
    leased: bool = False
    requests: int = 0


@frozen(kw_only=True)
class Usage:
    """The usage, reservations and limits of a user; a limit of None is unlimited."""

    tokens_used: int
    tokens_held: int
    #: Limits include top-ups, here and below.
    tokens_limit: int | None
    #: The part of the limit that top-ups add.
    tokens_granted: int
    #: US dollars, here and below.
    cost_used: Decimal
    cost_held: Decimal
    cost_limit: Decimal | None
    cost_granted: Decimal
    #: Containers that run now.
    slots_held: int
    slots_limit: int | None
    #: Requests of the last 60 to 61 minutes, so never fewer than those of the last hour.
    requests_last_hour: int
    #: Requests reserved for blocks that processes spend by themselves.
    requests_held: int
    requests_limit: int | None
    #: Builds of today, in the user's time zone.
    builds_today: int
    builds_limit: int | None
    #: The month over which `tokens` and `cost` are counted.
    period_start: datetime = field(repr=str)
    period_end: datetime = field(repr=str)
    time_zone: str
    #: Limits that were set for this user by hand. A change of plan does not change them.
    overridden: tuple[str, ...] = field(converter=tuple)
    #: Calls that wait for their turn.
    waiting: int = 0

    def check(self) -> "LimitCheck":
        """Check whether a limit is reached; if several are, report the one that takes longest to recover."""
        for dimension, taken, limit in (
            ("tokens", self.tokens_used + self.tokens_held, self.tokens_limit),
            ("cost", self.cost_used + self.cost_held, self.cost_limit),
            ("builds", self.builds_today, self.builds_limit),
            ("containers", self.slots_held, self.slots_limit),
            ("requests", self.requests_last_hour + self.requests_held, self.requests_limit),
        ):
            if limit is not None and taken >= limit:
                return LimitCheck(
                    exceeded=True,
                    dimension=dimension,
                    reason=f"{dimension}: {digits(taken)} of {digits(limit)} are taken",
                )
        return LimitCheck(exceeded=False)


@frozen(kw_only=True)
class LimitCheck:
    """The result of a check of the limits. It reserves nothing, so another caller may use up the rest."""

    exceeded: bool
    dimension: str | None = None
    reason: str | None = None


@frozen(kw_only=True)
class QuotaAccounting:
    """A period of a user in which the counters differ from the sums over ledger and reservations."""

    user_id: UUID
    period_start: datetime = field(repr=str)
    tokens_used: int
    tokens_charged: int
    cost_used: Decimal
    cost_charged: Decimal
    tokens_held: int
    tokens_reserved: int
    cost_held: Decimal
    cost_reserved: Decimal
    slots_held: int
    slots_reserved: int
    requests_held: int
    requests_reserved: int


@frozen(kw_only=True)
class QuotaAudit:
    """The result of `verify`."""

    #: Number of periods checked, closed months included.
    periods: int
    unbalanced: tuple[QuotaAccounting, ...] = ()

    @property
    def balanced(self) -> bool:
        """True when used = SUM(ledger) and held = SUM(reservations) everywhere."""
        return not self.unbalanced


@frozen(kw_only=True)
class QuotaPeriod:
    """A month that has ended. A late settlement still changes the amounts used."""

    period_start: datetime = field(repr=str)
    period_end: datetime = field(repr=str)
    tokens_used: int
    #: The limit at the end of the month, with top-ups; None is unlimited.
    tokens_limit: int | None
    #: US dollars.
    cost_used: Decimal
    cost_limit: Decimal | None
    closed_at: datetime = field(repr=str)


#: Compute a rate over at least this time, because a rate over a few minutes says little.
_SHORTEST = timedelta(hours=1)


@frozen(kw_only=True)
class Rates:
    """The amounts charged in the time `observed` before `now`."""

    now: datetime
    observed: timedelta
    tokens: int
    cost: Decimal

    def forecast(self, usage: Usage) -> "Forecast":
        """Extrapolate the recent rate to the end of the period."""
        hours = Decimal(max(self.observed, _SHORTEST) // timedelta(seconds=1)) / 3600

        def runs_out_at(hourly: Decimal, left: Decimal | int | None) -> datetime | None:
            if left is None or (left > 0 and not hourly):
                return None
            if left <= 0:
                return self.now
            lasts = left / hourly
            # The rest lasts until a new month begins. A larger number could overflow a timedelta.
            if lasts >= Decimal((usage.period_end - self.now) // timedelta(seconds=1)) / 3600:
                return None
            return self.now + timedelta(hours=float(lasts))

        def left(limit: Decimal | int | None, used: Decimal | int) -> Decimal | int | None:
            return None if limit is None else limit - used

        return Forecast(
            tokens_per_day=int(self.tokens / hours * 24),
            cost_per_day=round(self.cost / hours * 24, 9),
            tokens_run_out_at=runs_out_at(self.tokens / hours, left(usage.tokens_limit, usage.tokens_used)),
            cost_runs_out_at=runs_out_at(self.cost / hours, left(usage.cost_limit, usage.cost_used)),
            period_end=usage.period_end,
        )


@frozen(kw_only=True)
class Forecast:
    """The times at which the month's tokens and dollars run out at the recent rate; None if the month ends first."""

    tokens_per_day: int
    #: US dollars.
    cost_per_day: Decimal
    tokens_run_out_at: datetime | None = field(repr=str)
    cost_runs_out_at: datetime | None = field(repr=str)
    period_end: datetime = field(repr=str)

    @property
    def runs_out_at(self) -> datetime | None:
        """The earlier of the two times."""
        return min((at for at in (self.tokens_run_out_at, self.cost_runs_out_at) if at is not None), default=None)
