"""Quota accounting: usage, history, forecast, and a check of the counters against the ledger."""

from typing import Any

from atlas_sdk._plan import Plan, many, one, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import NotFound
from atlas_sdk.model.quota_accounting import (
    Forecast,
    LimitCheck,
    OpenReservation,
    QuotaAccounting,
    QuotaAudit,
    QuotaPeriod,
    Rates,
    Usage,
)
from atlas_sdk.model.users import User
from atlas_sdk.ops import purges
from atlas_sdk.ops.checks import page_size

__all__ = ["check", "forecast", "history", "reservations", "reset_monthly", "usage", "verify"]

sql = statements("quota_accounting")


def usage(user: User) -> Plan[Usage]:
    """Return the amounts used and held now, and the limits. Changes nothing. Raises NotFound."""
    found = yield from one_or_none(sql["usage"], Usage, user_id=user.id)
    if found is None:
        raise NotFound(f"no user has the id {user.id}", kind="user", name=str(user.id))
    return found


def check(user: User) -> Plan[LimitCheck]:
    """Check whether a limit is reached, and which one. Changes and reserves nothing. Raises NotFound."""
    return (yield from usage(user)).check()


def reservations(user: User) -> Plan[list[OpenReservation]]:
    """Return the reservations that are not settled; the one that expires next comes first."""
    return (yield from many(sql["reservations"], OpenReservation, user_id=user.id))


def history(user: User, *, limit: int = 24) -> Plan[list[QuotaPeriod]]:
    """Return the months that have ended, newest first. Raises InvalidInput."""
    return (yield from many(sql["history"], QuotaPeriod, user_id=user.id, limit=page_size(limit)))


def forecast(user: User) -> Plan[Forecast]:
    """Estimate when the month's tokens and dollars run out at the rate of the last seven days. Raises NotFound.

    The rate comes from the ledger. The rate covers the current month only, and at least an hour.
    """
    now = yield from usage(user)
    rates = yield from one(sql["rates"], Rates, user_id=user.id, period_start=now.period_start)
    return rates.forecast(now)


def reset_monthly() -> Plan[int]:
    """Close the periods that have ended, for all users; return how many. You may call it on any day, and repeat it.

    This runs the maintenance job `periods`, and records its event. Every quota operation does this for its own user, so
    none depends on the job; the job makes `quota_history` complete.
    """
    return (yield from purges.close_periods()).removed


def verify(user: User | None = None) -> Plan[QuotaAudit]:
    """Compare the counters with ledger and reservations, for one user or all, in all periods. Changes nothing."""

    def row(**columns: Any) -> tuple[int, QuotaAccounting | None]:
        periods = columns.pop("periods")
        return periods, None if columns["user_id"] is None else QuotaAccounting(**columns)

    rows = yield from many(sql["verify"], row, user_id=None if user is None else user.id)
    return QuotaAudit(periods=rows[0][0], unbalanced=tuple(found for _, found in rows if found is not None))
