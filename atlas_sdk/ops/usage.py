"""Write to the usage ledger, and return sums over it. Quotas write their charges into the same ledger."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Literal
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, atomic, context, many, one, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput
from atlas_sdk.model.maintenance import JobReport
from atlas_sdk.model.projects import Project
from atlas_sdk.model.usage import UsageEntry, UsageTotal
from atlas_sdk.model.users import NOBODY, User
from atlas_sdk.ops.amounts import Money
from atlas_sdk.ops.batches import BATCH, BatchStep, Cursor, JobOptions, Progress, in_batches
from atlas_sdk.ops.checks import json_map, moment
from atlas_sdk.text import digits, quoted

__all__ = ["By", "log", "sum_usage", "totals"]

sql = statements("usage")

#: The groupings of a sum. Every sum is also grouped by kind.
By = Literal["day", "kind", "model", "project"]
_BY = frozenset({"day", "kind", "model", "project"})

#: The rule of the domain usage_kind in the database.
_KIND = re.compile(r"[a-z][a-z0-9_.]{0,63}")
#: The smallest unit and the bound of the columns: numeric(20, 6) and numeric(20, 9).
_AMOUNT = (Decimal("1e-6"), Decimal("1e14"))
_COST = (Decimal("1e-9"), Decimal("1e11"))
#: A context with more digits than either column has.
_EXACT = Context(prec=40, rounding=ROUND_HALF_UP, traps=[])
#: The number of users whose sums one transaction brings forward.
_USERS = 100


def _exact(name: str, value: Money, bounds: tuple[Decimal, Decimal]) -> Decimal:
    """Return a number, positive or negative, rounded to the precision of the ledger. Raises InvalidInput."""
    smallest, limit = bounds
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(f"{name} must be a Decimal, an int or a str, not {quoted(value)}", field=name)
    try:
        number = Decimal(value)
    except InvalidOperation as exc:
        raise InvalidInput(f"{name} must be a number, not {quoted(value)}", field=name) from exc
    # Do not use the caller's decimal context: abs() would round by it, and could overflow.
    if number.is_finite() and number.copy_abs() < limit:
        # Round half up, as the database does.
        kept = number.quantize(smallest, context=_EXACT)
        # Rounding may have reached the limit.
        if kept.copy_abs() < limit:
            return kept
    raise InvalidInput(f"{name} must be less than {limit:f}, not {digits(value)}", field=name)


@atomic
def log(
    user: User,
    *,
    kind: str,
    amount: Money,
    cost: Money = 0,
    project: Project | None = None,
    meta: Mapping[str, object] | None = None,
    usage_id: UUID | None = None,
) -> Plan[UsageEntry]:
    """Add an entry to the ledger for usage that no guard metered, such as minutes of a container. Raises InvalidInput.

    The entry counts against no limit. There is no event, because the entry is a record itself. The settlement of a
    guarded call writes its tokens to the ledger; if you log them too, `totals` counts them twice. `amount` is stored to
    a millionth (tokens must be whole), `cost` to a billionth of a dollar. A correction is a new entry with negative
    values. `usage_id` makes the call idempotent. Raises AlreadyExists when another entry has that id, and NotFound when
    the user does not exist.
    """
    if not _KIND.fullmatch(kind):
        raise InvalidInput(f"kind must be up to 64 of a-z, 0-9, '_' and '.', not {quoted(kind)}", field="kind")
    if project is not None and project.user_id != user.id:
        raise InvalidInput("the project belongs to another user", field="project")
    units, dollars = _exact("amount", amount, _AMOUNT), _exact("cost", cost, _COST)
    if kind == "tokens" and units != units.to_integral_value():
        raise InvalidInput(f"amount must be a whole number of tokens, not {digits(amount)}", field="amount")
    keys = {"user_id": user.id, "usage_id": usage_id or (yield from context()).new_id()}
    row = {"project_id": None if project is None else project.id, "kind": kind, "amount": units, "cost": dollars}
    entry = yield from one_or_none(sql["log"], UsageEntry, **keys, **row, meta=json_map("meta", meta or {}))
    if entry is not None:
        return entry
    entry = yield from one(sql["get"], UsageEntry, **keys)
    if any(getattr(entry, name) != value for name, value in row.items()):
        raise AlreadyExists(f"another entry has the usage id {entry.id}", kind="usage", name=str(entry.id))
    return entry


def totals(
    user: User,
    *,
    by: By | Collection[By] = "kind",
    since: datetime | None = None,
    until: datetime | None = None,
) -> Plan[list[UsageTotal]]:
    """Return sums over the ledger by day, kind, model and project, sorted in this order. Raises InvalidInput.

    `by` is one or more of these; kind is always among them. Days are those of the user's time zone; days without usage
    are left out. The range includes `since` but not `until`. Tokens include the charges of `quotas.usage` and logged
    entries. Charges of expired reservations and their corrections count too, so the sum of a day may be negative.

    The time grows with the number of entries in the range: 0.7 s for a million. The sum of everything by kind alone
    reads only the entries of the last days, because maintenance keeps the sums of the older ones.
    """
    groups = {by} if isinstance(by, str) else set(by)
    if not groups <= _BY:
        raise InvalidInput(f"by must be from {', '.join(sorted(_BY))}, not {quoted(by)}", field="by")
    return (
        yield from many(
            sql["totals"],
            UsageTotal,
            user_id=user.id,
            by_day="day" in groups,
            by_model="model" in groups,
            by_project="project" in groups,
            since=moment("since", since),
            until=moment("until", until),
        )
    )


@frozen(kw_only=True)
class _SummedUp:
    examined: int
    at: UUID
    finished: bool


def sum_usage(*, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None) -> Plan[JobReport]:
    """Add entries that are older than two days to the stored sums of all users, which `usage.totals` reads."""
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)

    def step(after: Cursor) -> Plan[BatchStep]:
        if options.dry_run:
            return BatchStep(examined=0, removed=0, after=None)
        done = yield from one(sql["sum_up"], _SummedUp, users=_USERS, limit=options.batch, **after)
        return BatchStep(examined=done.examined, removed=0, after=None if done.finished else {"after": done.at})

    return (yield from in_batches("usage", step, {"after": NOBODY}, options))
