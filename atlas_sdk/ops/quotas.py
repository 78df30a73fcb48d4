"""Reserve, use and settle quotas. The database decides (`sql/migrations/0007_quota_reserve.sql`).

Do not run these operations inside a transaction of your own. The user's row would stay locked until its end, and a
rollback would undo the record of the usage.
"""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from atlas_sdk._plan import Json, Plan, context, one, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput, NotFound
from atlas_sdk.model.quotas import QuotaBlock, RequestRate, Reservation, Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, as_json, at_most, count, money, ttl_of
from atlas_sdk.ops.decisions import Decision, amounts_asked, refusal

__all__ = [
    "add_tokens",
    "charge",
    "extend",
    "hit",
    "lease_block",
    "progress",
    "release",
    "reservation_of",
    "reservation_parameters",
    "reserve",
    "settle",
]

sql = statements("quotas")


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
    """Reserve the amounts of all dimensions at once, or refuse all of them. Raises QuotaExceeded, NotFound.

    `tokens` is the most that the call may use; with `min_tokens`, fewer are granted when fewer are left. Settle the
    reservation within `ttl` (at most 24 hours). After that, tokens and cost are charged in full and slots become free.
    `requests` and `builds` count attempts and are not given back. `cost` is rounded up to a billionth of a dollar.

    `reservation_id` makes the call idempotent: a repeated call returns the first answer. Raises InvalidInput for an id
    whose reservation expired or was released.
    """
    ctx = yield from context()
    parameters = reservation_parameters(
        user,
        tokens=tokens,
        min_tokens=min_tokens,
        cost=cost,
        slots=slots,
        requests=requests,
        builds=builds,
        ttl=ttl,
        holder=holder,
        meta=meta,
        reservation_id=reservation_id or ctx.new_id(),
    )
    statement = sql["reserve"] if ctx.tenant is None else sql["reserve_in_transaction"]
    decision = yield from one(statement, Decision, **parameters)
    if decision.granted:
        return reservation_of(user, parameters["reservation_id"], decision)
    raise (yield from refusal(user, parameters["reservation_id"], decision, amounts_asked(parameters)))


def reservation_parameters(
    user: User,
    *,
    reservation_id: UUID,
    tokens: int = 0,
    min_tokens: int | None = None,
    cost: Money = 0,
    slots: int = 0,
    requests: int = 1,
    builds: int = 0,
    ttl: timedelta = timedelta(minutes=10),
    holder: str = "",
    meta: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Return the parameters of the statements that reserve. Raises InvalidInput."""
    if min_tokens is not None:
        at_most("min_tokens", min_tokens, "tokens", tokens, least=min(tokens, 1))
    parameters: dict[str, Any] = {
        "user_id": user.id,
        "reservation_id": reservation_id,
        "tokens": count("tokens", tokens, TOKENS_MAX),
        "min_tokens": min_tokens,
        "cost": money("cost", cost),
        "slots": count("slots", slots),
        "requests": count("requests", requests),
        "builds": count("builds", builds),
        "ttl": ttl_of(ttl),
        "holder": holder,
        "meta": as_json(meta),
    }
    if not any(parameters[name] for name in ("tokens", "cost", "slots", "requests", "builds")):
        raise InvalidInput("nothing to reserve: every amount is 0", field="tokens")
    return parameters


def reservation_of(user: User, reservation_id: UUID, decision: Decision) -> Reservation:
    """Return the reservation that the database granted."""
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
    requests: int | None = None,
    meta: Mapping[str, object] | None = None,
) -> Plan[Settlement]:
    """Charge the amounts used in place of the amounts reserved. Raises NotFound.

    None means unknown, not 0: the call charges the reported progress, or the whole reservation if there was none. A
    second call changes nothing. A call after the expiry corrects the charge of the expiry, once. An amount above the
    reservation is charged too, and marked as overrun. `requests` is the number of a block's requests that were used;
    other reservations count their requests at the grant.
    """
    return (
        yield from charge(
            user,
            reservation_id,
            tokens=None if tokens is None else count("tokens", tokens, TOKENS_MAX),
            cost=None if cost is None else money("cost", cost),
            requests=None if requests is None else count("requests", requests),
            meta=as_json(meta),
        )
    )


def charge(
    user: User,
    reservation_id: UUID,
    *,
    tokens: int | None,
    cost: Decimal | None,
    requests: int | None,
    meta: Json | None,
) -> Plan[Settlement]:
    """Settle with amounts that a guard or a lease has checked already. Raises NotFound."""
    settlement = yield from one(
        sql["settle"],
        Settlement,
        user_id=user.id,
        reservation_id=reservation_id,
        tokens=tokens,
        cost=cost,
        requests=requests,
        meta=meta,
    )
    return _known(settlement, reservation_id)


def release(user: User, reservation_id: UUID) -> Plan[Settlement]:
    """Release a reservation whose call did not happen. Raises NotFound.

    Reported progress is charged. Requests and builds stay counted. A second call changes nothing. A call after the
    expiry corrects the charge of the expiry, once.
    """
    settlement = yield from one(sql["release"], Settlement, user_id=user.id, reservation_id=reservation_id)
    return _known(settlement, reservation_id)


def extend(
    user: User, reservation_id: UUID, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None
) -> Plan[Reservation]:
    """Add amounts to a reservation, or make it expire `ttl` from now (a heartbeat): all of this or nothing.

    Raises QuotaExceeded, and NotFound when the reservation has ended: another caller may have its slots then.
    """
    dollars = money("cost", cost)
    decision = yield from one(
        sql["extend"],
        Decision,
        user_id=user.id,
        reservation_id=reservation_id,
        tokens=count("tokens", tokens, TOKENS_MAX),
        cost=dollars,
        ttl=None if ttl is None else ttl_of(ttl),
    )
    if decision.granted:
        return reservation_of(user, reservation_id, decision)
    if decision.dimension is None:
        raise NotFound(
            f"reservation {reservation_id} is not held any more ({decision.state})",
            kind="reservation",
            name=str(reservation_id),
        )
    raise (yield from refusal(user, reservation_id, decision, {"tokens": tokens, "cost": dollars}))


def progress(user: User, reservation_id: UUID, *, tokens: int = 0, cost: Money = 0) -> Plan[bool]:
    """Report the total that a reservation has used so far. Return False if the reservation has ended.

    A total never decreases.
    """
    return (
        yield from scalar(
            sql["progress"],
            bool,
            user_id=user.id,
            reservation_id=reservation_id,
            tokens=count("tokens", tokens, TOKENS_MAX),
            cost=money("cost", cost),
        )
    )


def lease_block(
    user: User,
    *,
    tokens: int = 0,
    min_tokens: int | None = None,
    cost: Money = 0,
    min_cost: Money | None = None,
    requests: int = 0,
    min_requests: int | None = None,
    ttl: timedelta = timedelta(minutes=1),
    holder: str = "",
    meta: Mapping[str, object] | None = None,
    reservation_id: UUID | None = None,
) -> Plan[QuotaBlock]:
    """Reserve a block that one process spends by itself. Raises QuotaExceeded, NotFound.

    In each dimension the block gets at least the minimum (default: the whole amount) and at most the amount asked. Near
    a limit it gets a share of the rest, so that every process gets some. A block ends with the period at the latest.
    Its requests are counted at the settlement, so pass the number used to `settle`. `holder` names the process; all
    blocks of a process take one share.
    """
    least_tokens = tokens if min_tokens is None else min_tokens
    least_cost = money("cost", cost) if min_cost is None else money("min_cost", min_cost)
    least_requests = requests if min_requests is None else min_requests
    new_id = reservation_id or (yield from context()).new_id()
    decision = yield from one(
        sql["lease"],
        Decision,
        user_id=user.id,
        reservation_id=new_id,
        tokens=count("tokens", tokens, TOKENS_MAX),
        min_tokens=at_most("min_tokens", least_tokens, "tokens", tokens),
        cost=money("cost", cost),
        min_cost=least_cost,
        requests=count("requests", requests),
        min_requests=at_most("min_requests", least_requests, "requests", requests),
        ttl=ttl_of(ttl),
        holder=holder,
        meta=as_json(meta),
    )
    if not decision.granted or decision.epoch is None:
        asked: dict[str, int | Decimal] = {"tokens": least_tokens, "cost": least_cost, "requests": least_requests}
        raise (yield from refusal(user, new_id, decision, asked))
    return QuotaBlock(
        id=new_id,
        user_id=user.id,
        tokens=decision.tokens or 0,
        cost=decision.cost or Decimal(),
        requests=decision.requests or 0,
        lasts=decision.lasts or timedelta(),
        epoch=decision.epoch,
        repeated=decision.repeated,
    )


def hit(user: User, *, requests: int = 1, durable: bool = True) -> Plan[RequestRate]:
    """Count requests in the sliding hour, and nothing else; return how many are left. Raises QuotaExceeded, NotFound.

    With `durable=False` the call does not wait for the disk, and is several times as fast. A crash of the server may
    then lose the counts of its last half second, which allows that many requests once more.
    """
    asked = count("requests", requests, least=1)
    if (yield from context()).tenant is None:
        decision = yield from one(sql["hit"], Decision, user_id=user.id, requests=asked, durable=durable)
    else:
        statement = sql["hit_in_transaction"] if durable else sql["hit_in_transaction_not_durable"]
        decision = yield from one(statement, Decision, user_id=user.id, requests=asked)
    if not decision.granted:
        raise (yield from refusal(user, user.id, decision, {"requests": requests}))
    return RequestRate(
        limit=None if decision.bound is None else int(decision.bound),
        remaining=None if decision.remaining is None else int(decision.remaining),
    )


def add_tokens(
    user: User,
    tokens: int,
    *,
    cost: Money = 0,
    meta: Mapping[str, object] | None = None,
    reservation_id: UUID | None = None,
) -> Plan[Settlement]:
    """Charge tokens and cost that were used without a reservation. The call is never refused; later calls may be.

    `reservation_id` makes the call idempotent. Raises InvalidInput for the id of a reservation that is still held.
    """
    return (
        yield from one(
            sql["add"],
            Settlement,
            user_id=user.id,
            reservation_id=reservation_id or (yield from context()).new_id(),
            tokens=count("tokens", tokens, TOKENS_MAX),
            cost=money("cost", cost),
            meta=as_json(meta),
        )
    )
