"""Wait for quota: take a place in the queue of a user's calls, and leave it.

The database keeps the queue (`sql/migrations/0010_quota_waiters.sql`).
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, one, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.model.quotas import Reservation
from atlas_sdk.model.users import User
from atlas_sdk.ops.decisions import Decision, amounts_asked, refusal
from atlas_sdk.ops.notifications import channel_name
from atlas_sdk.ops.quotas import reservation_of, reservation_parameters

__all__ = ["Queued", "leave", "take_turn", "wakeup_channel"]

sql = statements("quotas")


@frozen(kw_only=True)
class Queued:
    """A place in the queue of a user's calls."""

    #: The time after which to ask again, if no notification comes before; None if only a notification can help.
    again_in: timedelta | None
    #: The limit that stands in the way. None behind other calls, and for containers, which no lease holds.
    refusal: QuotaExceeded | None


def wakeup_channel(user: User) -> str:
    """Return the channel of the notifications for a user's waiting calls; the payload is the reservation's id.

    Only who knows the user's id can listen to it.
    """
    return channel_name("atlas_quota", tenant=user.id)


def take_turn(
    user: User, *, reservation_id: UUID, wait: timedelta, waited: timedelta | None, **amounts: Any
) -> Plan[Reservation | Queued]:
    """Reserve if it is this call's turn, else wait in the queue, for `wait` more at most.

    The amounts are those of `quotas.reserve`. A call with the same id keeps its place, if it comes within 15 seconds.
    Raises QuotaExceeded if no wait can help, or if `wait` is 0: then the call has left the queue. The error says that
    the call has `waited`.
    """
    parameters = reservation_parameters(user, reservation_id=reservation_id, **amounts)
    decision = yield from one(sql["wait"], Decision, **parameters, wait=wait)
    if decision.granted:
        return reservation_of(user, reservation_id, decision)
    if decision.state == "queued" and decision.dimension in {None, "containers"}:
        return Queued(again_in=decision.lasts, refusal=None)
    problem = yield from refusal(user, reservation_id, decision, amounts_asked(parameters), waited=waited)
    if decision.state == "queued" and isinstance(problem, QuotaExceeded):
        return Queued(again_in=decision.lasts, refusal=problem)
    raise problem


def leave(user: User, reservation_id: UUID) -> Plan[bool]:
    """Leave the queue; return False if the call was not in it."""
    return (yield from scalar(sql["leave"], bool, user_id=user.id, reservation_id=reservation_id))
