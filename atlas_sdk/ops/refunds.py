"""Give back what was charged by mistake. The database books it (`quota_refund` in `0012_administration.sql`)."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, atomic, context, one
from atlas_sdk._sql import statements
from atlas_sdk.errors import IdempotencyConflict, InvalidInput, NotFound
from atlas_sdk.model.quotas import Refund
from atlas_sdk.model.users import User
from atlas_sdk.ops import events
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, count, money
from atlas_sdk.text import quoted

__all__ = ["refund"]

sql = statements("quotas")

#: The bound of the database.
_REASON_LENGTH = 500


@frozen(kw_only=True)
class _Booked:
    outcome: str
    reservation_id: UUID | None
    tokens: int
    cost: Decimal
    period_start: datetime | None


@atomic
def refund(
    user: User,
    charge_id: UUID,
    *,
    tokens: int | None = None,
    cost: Money | None = None,
    reason: str,
    refund_id: UUID | None = None,
) -> Plan[Refund]:
    """Give back a part of a charge: the ledger and the counter change in one step. Raises NotFound, InvalidInput.

    `charge_id` is the id of a reservation that has ended, the id of `add_tokens`, or a row of the ledger that charges
    one of them. Without `tokens` and `cost`, everything that is left of the charge is given back; if you give one of
    them, the other stays charged. All refunds of a charge together never exceed it. Requests and builds stay counted.

    The month that was charged gets the amount, and the top-ups that paid for it. If that month has ended, its row in
    `history` changes, and this month's allowance does not: use `grant` for that. A late settlement after a refund never
    charges less than was refunded.

    Raises InvalidInput for a reservation that is still held (settle or release it), and for more than is left of the
    charge. `refund_id` makes the call idempotent; the same id with other amounts raises IdempotencyConflict.
    """
    if not 0 < len(reason) <= _REASON_LENGTH:
        raise InvalidInput(f"a refund needs a reason of 1 to {_REASON_LENGTH} characters", field="reason")
    units = None if tokens is None else count("tokens", tokens, TOKENS_MAX)
    dollars = None if cost is None else money("cost", cost)
    if not (units or dollars) and (units, dollars) != (None, None):
        raise InvalidInput("nothing to refund: the amounts are 0", field="tokens")
    new_id = refund_id or (yield from context()).new_id()
    asked = {"refund_id": new_id, "charge_id": charge_id, "tokens": units, "cost": dollars, "reason": reason}
    booked = yield from one(sql["refund"], _Booked, user_id=user.id, **asked)
    if booked.outcome == "conflict":
        message = f"the refund id {new_id} was used for another refund: use another id"
        raise IdempotencyConflict(message, key=str(new_id))
    if booked.reservation_id is None or booked.period_start is None:
        raise NotFound(
            f"no charge of this user has the id {quoted(str(charge_id))}", kind="charge", name=str(charge_id)
        )
    if booked.outcome == "refunded":
        meta = {
            "refund": str(new_id),
            "reservation": str(booked.reservation_id),
            "tokens": booked.tokens,
            "cost": str(booked.cost),
            "reason": reason,
        }
        yield from events.record("quota.refunded", user_id=user.id, meta=meta)
    return Refund(
        id=new_id,
        reservation_id=booked.reservation_id,
        tokens=booked.tokens,
        cost=booked.cost,
        period_start=booked.period_start,
        repeated=booked.outcome == "repeated",
    )
