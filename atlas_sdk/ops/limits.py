"""Read and change the limits of plans and users, and add top-ups. Every change records an event."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from atlas_sdk._plan import Plan, atomic, context, execute, many, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput, NotFound
from atlas_sdk.model.limits import Limits, TopUp
from atlas_sdk.model.quota_accounting import Usage
from atlas_sdk.model.users import User
from atlas_sdk.ops import events, quota_accounting
from atlas_sdk.ops.amounts import INTEGER_MAX, LIMIT_MAX, TOKENS_MAX, UNCHANGED, Money, Unchanged, count, money
from atlas_sdk.ops.checks import bounded
from atlas_sdk.text import quoted

__all__ = [
    "add_plan",
    "grant",
    "grants",
    "plan_limits",
    "plans",
    "set_limits",
    "set_plan_limits",
    "set_time_zone",
    "use_plan_limits",
]

sql = statements("limits")

#: The number of users whose rows one statement locks.
_BATCH = 200
_NOBODY = UUID(int=0)
#: The rule `plans_name_shape` of the database.
_PLAN = re.compile(r"[a-z][a-z0-9_-]{0,39}")
#: The longest lifetime of a top-up that expires.
_GRANT_MAX = timedelta(days=36525)
_COLUMNS = (
    *("tokens", "cost", "containers", "requests", "builds", "memory", "memory_hard"),
    *("projects", "sessions", "previews"),
)


def _named(
    *,
    tokens: int | Unchanged | None,
    cost: Money | Unchanged | None,
    containers: int | Unchanged | None,
    requests_per_hour: int | Unchanged | None,
    builds_per_day: int | Unchanged | None,
    memory_bytes: int | Unchanged | None,
    memory_hard: bool | Unchanged,
    projects: int | Unchanged | None,
    sessions: int | Unchanged | None,
    previews: int | Unchanged | None,
) -> dict[str, int | Decimal | bool | None]:
    """Check the limits that the caller gave; return them by column."""
    named: dict[str, int | Decimal | bool | None] = {}
    for column, field, value, most in (
        ("tokens", "tokens", tokens, LIMIT_MAX),
        ("containers", "containers", containers, INTEGER_MAX),
        ("requests", "requests_per_hour", requests_per_hour, INTEGER_MAX),
        ("builds", "builds_per_day", builds_per_day, INTEGER_MAX),
        ("memory", "memory_bytes", memory_bytes, LIMIT_MAX),
        ("projects", "projects", projects, INTEGER_MAX),
        ("sessions", "sessions", sessions, INTEGER_MAX),
        ("previews", "previews", previews, INTEGER_MAX),
    ):
        if not isinstance(value, Unchanged):
            named[column] = None if value is None else count(field, value, most)
    if not isinstance(cost, Unchanged):
        named["cost"] = None if cost is None else money("cost", cost)
    if not isinstance(memory_hard, Unchanged):
        if not isinstance(memory_hard, bool):
            raise InvalidInput(f"memory_hard must be True or False, not {quoted(memory_hard)}", field="memory_hard")
        named["memory_hard"] = memory_hard
    return named


def _parameters(named: Mapping[str, object]) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for column in _COLUMNS:
        parameters |= {f"set_{column}": column in named, column: named.get(column)}
    return parameters


def _told(named: Mapping[str, object]) -> dict[str, object]:
    """Return the limits for an event, with decimals as text, since JSON has no exact numbers."""
    return {column: format(value, "f") if isinstance(value, Decimal) else value for column, value in named.items()}


@atomic
def set_limits(
    user: User,
    *,
    tokens: int | Unchanged | None = UNCHANGED,
    cost: Money | Unchanged | None = UNCHANGED,
    containers: int | Unchanged | None = UNCHANGED,
    requests_per_hour: int | Unchanged | None = UNCHANGED,
    builds_per_day: int | Unchanged | None = UNCHANGED,
    memory_bytes: int | Unchanged | None = UNCHANGED,
    memory_hard: bool | Unchanged = UNCHANGED,
    projects: int | Unchanged | None = UNCHANGED,
    sessions: int | Unchanged | None = UNCHANGED,
    previews: int | Unchanged | None = UNCHANGED,
) -> Plan[Usage]:
    """Set limits of a user; None is unlimited. Return the usage. Raises NotFound.

    Limits that you do not give stay as they are. The new limits stay when the plan changes, until `use_plan_limits`.
    The amounts used and held do not change: a limit below them refuses new calls until the period ends. Top-ups are
    added to the limit. `projects` limits the number of projects that are not deleted, `sessions` of valid sessions,
    and `previews` of live previews; creating one more raises QuotaExceeded.
    """
    named = _named(
        tokens=tokens,
        cost=cost,
        containers=containers,
        requests_per_hour=requests_per_hour,
        builds_per_day=builds_per_day,
        memory_bytes=memory_bytes,
        memory_hard=memory_hard,
        projects=projects,
        sessions=sessions,
        previews=previews,
    )
    overridden = sorted({column.removesuffix("_hard") for column in named})
    yield from execute(sql["open_period"], user_id=user.id)
    if named and (yield from execute(sql["set_limits"], user_id=user.id, named=overridden, **_parameters(named))):
        yield from events.record("quota.limits_changed", user_id=user.id, meta={"limits": _told(named)})
    return (yield from quota_accounting.usage(user))


@atomic
def use_plan_limits(user: User) -> Plan[Usage]:
    """Drop the limits that were set for this user by hand, so that the plan's limits apply. Raises NotFound."""
    found = yield from execute(sql["clear_overrides"], user_id=user.id)
    if found:
        yield from execute(sql["apply_plan_to_user"], user_id=user.id)
        yield from events.record("quota.limits_of_plan", user_id=user.id, meta={})
    return (yield from quota_accounting.usage(user))


@atomic
def set_time_zone(user: User, time_zone: str) -> Plan[Usage]:
    """Set the time zone ("Europe/Berlin") in which a user's days and months begin. The current period keeps its end.

    Case does not matter. Raises NotFound, and InvalidInput for a name that the server's `pg_timezone_names` does not
    have, such as "UTC+2".
    """
    zone = yield from scalar(sql["time_zone"], str, time_zone=bounded("time_zone", time_zone, 64))
    if not zone:
        message = f"{quoted(time_zone)} is not the name of a time zone: give one such as 'Europe/Berlin'"
        raise InvalidInput(message, field="time_zone")
    found = yield from execute(sql["set_time_zone"], user_id=user.id, time_zone=zone)
    if found:
        yield from events.record("quota.time_zone_changed", user_id=user.id, meta={"time_zone": zone})
    return (yield from quota_accounting.usage(user))


def plans() -> Plan[list[Limits]]:
    """Return the limits of all plans."""
    return (yield from many(sql["plans"], Limits))


def plan_limits(plan: str) -> Plan[Limits]:
    """Return the limits of a plan. Raises NotFound."""
    found = yield from one_or_none(sql["plan"], Limits, name=plan)
    if found is None:
        names = ", ".join(one.name for one in (yield from plans()))
        raise NotFound(f"no plan is called {quoted(plan)}; there are: {names}", kind="plan", name=plan)
    return found


@atomic
def add_plan(
    plan: str,
    *,
    tokens: int | None,
    cost: Money | None,
    containers: int | None,
    requests_per_hour: int | None,
    builds_per_day: int | None,
    memory_bytes: int | None = None,
    memory_hard: bool = False,
    projects: int | None = None,
    sessions: int | None = None,
    previews: int | None = None,
) -> Plan[Limits]:
    """Create a plan; None is unlimited. Raises AlreadyExists, InvalidInput.

    A name begins with a letter and has up to 40 characters: a-z, 0-9, "_" and "-".
    """
    if not _PLAN.fullmatch(plan):
        message = f"a plan's name must be a letter and up to 39 of a-z, 0-9, '_' and '-', not {quoted(plan)}"
        raise InvalidInput(message, field="plan")
    named = _named(
        tokens=tokens,
        cost=cost,
        containers=containers,
        requests_per_hour=requests_per_hour,
        builds_per_day=builds_per_day,
        memory_bytes=memory_bytes,
        memory_hard=memory_hard,
        projects=projects,
        sessions=sessions,
        previews=previews,
    )
    if not (yield from execute(sql["add_plan"], name=plan, **named)):
        raise AlreadyExists(f"a plan {quoted(plan)} exists already: use set_plan_limits", kind="plan", name=plan)
    yield from events.record("quota.plan_limits_changed", user_id=_NOBODY, meta={"plan": plan, "limits": _told(named)})
    return (yield from plan_limits(plan))


def set_plan_limits(
    plan: str,
    *,
    tokens: int | Unchanged | None = UNCHANGED,
    cost: Money | Unchanged | None = UNCHANGED,
    containers: int | Unchanged | None = UNCHANGED,
    requests_per_hour: int | Unchanged | None = UNCHANGED,
    builds_per_day: int | Unchanged | None = UNCHANGED,
    memory_bytes: int | Unchanged | None = UNCHANGED,
    memory_hard: bool | Unchanged = UNCHANGED,
    projects: int | Unchanged | None = UNCHANGED,
    sessions: int | Unchanged | None = UNCHANGED,
    previews: int | Unchanged | None = UNCHANGED,
) -> Plan[Limits]:
    """Set limits of a plan, for all its users; None is unlimited. Raises NotFound.

    Limits that were set for a user by hand stay. The call updates users in batches, which takes a while if there are
    many. Repeat the call if it was interrupted.
    """
    named = _named(
        tokens=tokens,
        cost=cost,
        containers=containers,
        requests_per_hour=requests_per_hour,
        builds_per_day=builds_per_day,
        memory_bytes=memory_bytes,
        memory_hard=memory_hard,
        projects=projects,
        sessions=sessions,
        previews=previews,
    )
    limits = yield from _change_plan(plan, named)
    last = _NOBODY
    while (last := (yield from scalar(sql["apply_plan"], UUID, name=plan, after=last, limit=_BATCH))) != _NOBODY:
        pass
    return limits


@atomic
def _change_plan(plan: str, named: Mapping[str, Any]) -> Plan[Limits]:
    yield from execute(sql["lock_plan"], name=plan)
    if named and (yield from execute(sql["set_plan"], name=plan, **_parameters(named))):
        meta = {"plan": plan, "limits": _told(named)}
        yield from events.record("quota.plan_limits_changed", user_id=_NOBODY, meta=meta)
    return (yield from plan_limits(plan))


@atomic
def grant(
    user: User,
    *,
    tokens: int = 0,
    cost: Money = 0,
    expires_in: timedelta | None = None,
    expires_at: datetime | None = None,
    reason: str = "",
    grant_id: UUID | None = None,
) -> Plan[TopUp]:
    """Add a top-up to the monthly limits of a user. Raises NotFound.

    Calls use the plan's allowance first, then the top-ups, beginning with the one that expires first. The rest of a
    top-up carries over to the next month. When a top-up expires, its unused part is lost; reservations of running calls
    count as used. `grant_id` makes the call idempotent.
    """
    if expires_in is not None and expires_at is not None:
        raise InvalidInput("give expires_in or expires_at, not both", field="expires_at")
    if expires_at is not None and expires_at.tzinfo is None:
        raise InvalidInput("expires_at needs a time zone", field="expires_at")
    if expires_in is not None:
        if not timedelta() < expires_in <= _GRANT_MAX:
            raise InvalidInput(
                f"expires_in must be more than 0 and at most 100 years, not {expires_in}", field="expires_in"
            )
        expires_at = (yield from scalar(sql["now"], datetime)) + expires_in
    dollars = money("cost", cost)
    if not (count("tokens", tokens, TOKENS_MAX) or dollars):
        raise InvalidInput("nothing to grant: tokens and cost are 0", field="tokens")
    new_id = grant_id or (yield from context()).new_id()
    is_new = yield from scalar(
        sql["grant"],
        bool,
        user_id=user.id,
        grant_id=new_id,
        tokens=tokens,
        cost=dollars,
        expires_at=expires_at,
        reason=reason,
    )
    if is_new:
        meta = {"grant": str(new_id), "tokens": tokens, "cost": format(dollars, "f"), "reason": reason}
        yield from events.record("quota.granted", user_id=user.id, meta=meta)
    return next(one for one in (yield from grants(user)) if one.id == new_id)


def grants(user: User) -> Plan[list[TopUp]]:
    """Return the top-ups of a user, open top-ups first."""
    return (yield from many(sql["grants"], TopUp, user_id=user.id))
