"""Quotas: reserve, use, settle. What decides is in the database (`sql/migrations/0007_quota_door.sql`).

Run these on a client, not inside a transaction of your own: the user's row stays locked until the transaction ends, and
a rollback would take the record of what was used with it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Final
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Json, Plan, atomic, context, execute, many, one, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput, NotFound, QuotaExceeded
from atlas_sdk.model.quotas import Audit, Books, Check, Hold, Reservation, Settlement, Usage
from atlas_sdk.model.users import User
from atlas_sdk.ops import events

__all__ = [
    "UNCHANGED",
    "Money",
    "add_tokens",
    "check",
    "extend",
    "holds",
    "progress",
    "release",
    "reserve",
    "reset_monthly",
    "set_limits",
    "settle",
    "usage",
    "verify",
]

sql = statements("quotas")

#: US dollars: exact, so no float.
Money = Decimal | int | str

#: The bounds of one call, as the functions in the database have them.
_TOKENS_MAX = 10**12
_COST_MAX = 10**9
_COUNT_MAX = 10**6
_TTL_MAX = timedelta(hours=24)
#: What a bigint and an integer column hold.
_BIGINT_MAX = 2**63 - 1
_INTEGER_MAX = 2**31 - 1
#: Users whose periods one statement closes: their rows are locked until it ends.
_ROLL_BATCH = 200


class _Unchanged(Enum):
    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


#: What is not named stays as it is; None is a value, "unlimited".
UNCHANGED: Final = _Unchanged.UNCHANGED


def _count(name: str, value: int, maximum: int = _COUNT_MAX, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{name} must be a whole number, not {value!r}", field=name)
    if not least <= value <= maximum:
        raise InvalidInput(f"{name} must be from {least} to {maximum}, not {value}", field=name)
    return value


def _money(name: str, value: Money, maximum: int = _COST_MAX) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(f"{name} must be a Decimal, a whole number or a text, not {value!r}", field=name)
    try:
        amount = Decimal(value)
    except InvalidOperation as exc:
        raise InvalidInput(f"{name} must be a number of dollars, not {value!r}", field=name) from exc
    # NaN cannot be compared.
    if not amount.is_finite() or not 0 <= amount <= maximum:
        raise InvalidInput(f"{name} must be from 0 to {maximum} dollars, not {value}", field=name)
    return amount


def _ttl(value: timedelta) -> timedelta:
    if not timedelta() < value <= _TTL_MAX:
        raise InvalidInput(f"ttl must be more than 0 and at most 24 hours, not {value}", field="ttl")
    return value


def _json(meta: Mapping[str, object] | None) -> Json | None:
    return None if meta is None else Json(dict(meta))


@frozen(kw_only=True)
class _Decision:
    granted: bool
    state: str
    tokens: int | None
    cost: Decimal | None
    dimension: str | None
    remaining: Decimal | None
    retry_after: timedelta | None
    resets_at: datetime | None
    expires_at: datetime | None
    epoch: int | None
    repeated: bool


def reserve(
    user: User,
    *,
    tokens: int = 0,
    min_tokens: int | None = None,
    cost: Money = 0,
    slots: int = 0,
    requests: int = 1,
    builds: int = 0,
    ttl: timedelta = timedelta(minutes=10),
    holder: str = "",
    meta: Mapping[str, object] | None = None,
    reservation_id: UUID | None = None,
) -> Plan[Reservation]:
    """Promise an amount in every dimension at once, or refuse all of it. Raises QuotaExceeded, NotFound.

    `tokens` is what the call may use at most; with `min_tokens` less is granted when less is left. Settle it within
    `ttl` (at most 24 hours): after that tokens and cost are charged in full and slots come free. `requests` and
    `builds` count attempts and are not given back. `cost` is rounded up to a billionth of a dollar.

    `reservation_id` makes the call idempotent: repeated, it returns the first answer. Raises InvalidInput for an id
    whose reservation expired or was released.
    """
    _count("tokens", tokens, _TOKENS_MAX)
    if min_tokens is not None:
        _count("min_tokens", min_tokens, tokens, least=min(tokens, 1))
    amounts = {
        "slots": _count("slots", slots),
        "requests": _count("requests", requests),
        "builds": _count("builds", builds),
    }
    dollars = _money("cost", cost)
    if not (tokens or dollars or any(amounts.values())):
        raise InvalidInput("nothing to reserve: every amount is 0", field="tokens")
    new_id = reservation_id or (yield from context()).new_id()
    decision = yield from one(
        sql["reserve"],
        _Decision,
        user_id=user.id,
        reservation_id=new_id,
        tokens=tokens,
        min_tokens=min_tokens,
        cost=dollars,
        ttl=_ttl(ttl),
        holder=holder,
        meta=_json(meta),
        **amounts,
    )
    if decision.granted:
        return _reservation(user, new_id, decision)
    if decision.dimension is None:
        message = f"reservation {new_id} is {decision.state} already: make a new id for a new reservation"
        raise InvalidInput(message, field="reservation_id")
    asked: dict[str, int | Decimal] = {
        "tokens": tokens if min_tokens is None else min_tokens,
        "cost": dollars,
        "containers": slots,
        "requests": requests,
        "builds": builds,
    }
    raise (yield from _refusal(user, decision, asked))


def _reservation(user: User, reservation_id: UUID, decision: _Decision) -> Reservation:
    return Reservation(
        id=reservation_id,
        user_id=user.id,
        tokens=decision.tokens or 0,
        cost=decision.cost or Decimal(),
        expires_at=decision.expires_at,
        epoch=decision.epoch,
        state=decision.state,
        repeated=decision.repeated,
    )


def _refusal(user: User, decision: _Decision, asked: Mapping[str, int | Decimal]) -> Plan[QuotaExceeded]:
    dimension = decision.dimension or ""
    holders: tuple[str, ...] = ()
    if dimension == "containers":
        found = yield from holds(user)
        holders = tuple(sorted({hold.holder for hold in found if hold.slots and hold.holder}))
    remaining = decision.remaining or Decimal()
    return QuotaExceeded(
        dimension=dimension,
        asked=asked[dimension],
        remaining=remaining if dimension == "cost" else int(remaining),
        retry_after=decision.retry_after,
        resets_at=decision.resets_at,
        holders=holders,
    )


def _known(settlement: Settlement, reservation_id: UUID) -> Settlement:
    if settlement.outcome == "unknown":
        raise NotFound(f"this user has no reservation {reservation_id}", kind="reservation", name=str(reservation_id))
    return settlement


def settle(
    user: User,
    reservation_id: UUID,
    *,
    tokens: int | None = None,
    cost: Money | None = None,
    meta: Mapping[str, object] | None = None,
) -> Plan[Settlement]:
    """Charge what was used in place of what was promised. Raises NotFound.

    None is not 0 but unknown: what had progressed is charged, and all that was promised when nothing was told. A second
    call changes nothing; one after the expiry corrects what the expiry charged, once. More than was promised is charged
    too, and marked as overrun.
    """
    settlement = yield from one(
        sql["settle"],
        Settlement,
        user_id=user.id,
        reservation_id=reservation_id,
        tokens=None if tokens is None else _count("tokens", tokens, _TOKENS_MAX),
        cost=None if cost is None else _money("cost", cost),
        meta=_json(meta),
    )
    return _known(settlement, reservation_id)


def release(user: User, reservation_id: UUID) -> Plan[Settlement]:
    """Give a promise back: the call did not happen. Raises NotFound.

    What a stream had already used is charged. Requests and builds stay counted. A second call changes nothing.
    """
    settlement = yield from one(sql["release"], Settlement, user_id=user.id, reservation_id=reservation_id)
    return _known(settlement, reservation_id)


def extend(
    user: User, reservation_id: UUID, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None
) -> Plan[Reservation]:
    """Promise more to a reservation, or keep it for `ttl` from now on (a heartbeat): all of it or nothing.

    Raises QuotaExceeded, and NotFound when the reservation has ended: then its slots may be somebody else's.
    """
    dollars = _money("cost", cost)
    decision = yield from one(
        sql["extend"],
        _Decision,
        user_id=user.id,
        reservation_id=reservation_id,
        tokens=_count("tokens", tokens, _TOKENS_MAX),
        cost=dollars,
        ttl=None if ttl is None else _ttl(ttl),
    )
    if decision.granted:
        return _reservation(user, reservation_id, decision)
    if decision.dimension is None:
        raise NotFound(
            f"reservation {reservation_id} is not held any more ({decision.state})",
            kind="reservation",
            name=str(reservation_id),
        )
    raise (yield from _refusal(user, decision, {"tokens": tokens, "cost": dollars}))


def progress(user: User, reservation_id: UUID, *, tokens: int = 0, cost: Money = 0) -> Plan[bool]:
    """Note how much of a promise is used so far, as totals; they never go down. False: it is not held any more."""
    return (
        yield from scalar(
            sql["progress"],
            bool,
            user_id=user.id,
            reservation_id=reservation_id,
            tokens=_count("tokens", tokens, _TOKENS_MAX),
            cost=_money("cost", cost),
        )
    )


def add_tokens(
    user: User,
    tokens: int,
    *,
    cost: Money = 0,
    meta: Mapping[str, object] | None = None,
    reservation_id: UUID | None = None,
) -> Plan[Settlement]:
    """Charge what was used without a reservation. It is never refused: the limit refuses afterwards.

    `reservation_id` makes the call idempotent.
    """
    return (
        yield from one(
            sql["add"],
            Settlement,
            user_id=user.id,
            reservation_id=reservation_id or (yield from context()).new_id(),
            tokens=_count("tokens", tokens, _TOKENS_MAX),
            cost=_money("cost", cost),
            meta=_json(meta),
        )
    )


def usage(user: User) -> Plan[Usage]:
    """Return what is used, promised and allowed now. Changes nothing. Raises NotFound."""
    found = yield from one_or_none(sql["usage"], Usage, user_id=user.id)
    if found is None:
        raise NotFound(f"no user has the id {user.id}", kind="user", name=str(user.id))
    return found


def check(user: User) -> Plan[Check]:
    """Tell whether a limit is reached, and which. Changes nothing, promises nothing. Raises NotFound."""
    return (yield from usage(user)).check()


def holds(user: User) -> Plan[list[Hold]]:
    """Return the reservations that are not settled, the soonest to expire first."""
    return (yield from many(sql["holds"], Hold, user_id=user.id))


@atomic
def set_limits(
    user: User,
    *,
    tokens: int | _Unchanged | None = UNCHANGED,
    cost: Money | _Unchanged | None = UNCHANGED,
    containers: int | _Unchanged | None = UNCHANGED,
    requests_per_hour: int | _Unchanged | None = UNCHANGED,
    builds_per_day: int | _Unchanged | None = UNCHANGED,
) -> Plan[Usage]:
    """Change the limits that are named; None is unlimited. Return the usage. Raises NotFound.

    What is used and promised stays; a limit below it refuses until the period ends. A change of plan sets all five.
    """
    named: dict[str, int | Decimal | None] = {}
    if not isinstance(tokens, _Unchanged):
        named["tokens"] = None if tokens is None else _count("tokens", tokens, _BIGINT_MAX)
    if not isinstance(cost, _Unchanged):
        named["cost"] = None if cost is None else _money("cost", cost)
    for column, name, value in (
        ("containers", "containers", containers),
        ("requests", "requests_per_hour", requests_per_hour),
        ("builds", "builds_per_day", builds_per_day),
    ):
        if not isinstance(value, _Unchanged):
            named[column] = None if value is None else _count(name, value, _INTEGER_MAX)
    parameters: dict[str, Any] = {}
    for column in ("tokens", "cost", "containers", "requests", "builds"):
        parameters |= {f"set_{column}": column in named, column: named.get(column)}
    if named and (yield from execute(sql["set_limits"], user_id=user.id, **parameters)):
        meta = {key: str(value) if isinstance(value, Decimal) else value for key, value in named.items()}
        yield from events.record("quota.limits_changed", user_id=user.id, meta={"limits": meta})
    return (yield from usage(user))


def reset_monthly() -> Plan[int]:
    """Close the periods that have ended, of all users; return how many. Safe on any day, and to repeat.

    Nothing depends on it, since every operation does this for its own user; it makes `quota_history` complete.
    """
    total = 0
    while rolled := (yield from scalar(sql["roll"], int, limit=_ROLL_BATCH)):
        total += rolled
    return total


def verify(user: User | None = None) -> Plan[Audit]:
    """Compare the counters with ledger and holds, of one user or of all, closed periods too. Changes nothing."""

    def row(**columns: Any) -> tuple[int, Books | None]:
        periods = columns.pop("periods")
        return periods, None if columns["user_id"] is None else Books(**columns)

    rows = yield from many(sql["verify"], row, user_id=None if user is None else user.id)
    return Audit(periods=rows[0][0], unbalanced=tuple(books for _, books in rows if books is not None))
