"""Quotas: reservations, and the settlements that charge them."""

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

__all__ = ["QuotaBlock", "Refund", "RequestRate", "Reservation", "Settlement"]


@frozen(kw_only=True)
class Reservation:
    """An amount that may be used until it expires."""

    id: UUID
    user_id: UUID = field(repr=False)
    #: The granted tokens, from `min_tokens` to `tokens`. Send them as the call's `max_tokens`.
    tokens: int
    #: US dollars.
    cost: Decimal
    #: None when the call was repeated after the settlement.
    expires_at: datetime | None = field(repr=str)
    #: A fencing number: it grows with every reservation of the user. The driver of a container must obey only the
    #: highest number that it has seen for the container. None when the call was repeated after the settlement.
    epoch: int | None
    #: "held", or "settled" when the call was repeated after the settlement.
    state: str = "held"
    #: True when an earlier call made the reservation with this id.
    repeated: bool = False


@frozen(kw_only=True)
class Settlement:
    """The amounts charged for a reservation."""

    #: "settled", "released", "corrected" (it had expired or been released before), "repeated" (an earlier call did it).
    outcome: str
    tokens: int
    #: US dollars.
    cost: Decimal
    #: True when more was used than reserved. The excess is charged too.
    overrun: bool


@frozen(kw_only=True)
class Refund:
    """An amount given back of a charge."""

    #: The id of the refund, and of its row in the ledger.
    id: UUID
    #: The reservation whose charge was too high, or the id of `add_tokens`.
    reservation_id: UUID
    tokens: int
    #: US dollars.
    cost: Decimal
    #: The start of the month that was charged, and that the refund corrects.
    period_start: datetime
    #: True when an earlier call made the refund with this id.
    repeated: bool = False


@frozen(kw_only=True)
class QuotaBlock:
    """A reservation that one process spends by itself, call by call."""

    id: UUID
    user_id: UUID = field(repr=False)
    tokens: int
    #: US dollars.
    cost: Decimal
    requests: int
    #: The time from the grant to the expiry, by the server's clock.
    lasts: timedelta
    #: The fencing number: see `Reservation.epoch`.
    epoch: int
    repeated: bool = False


@frozen(kw_only=True)
class RequestRate:
    """The limit and the remaining requests of the sliding hour; None is unlimited."""

    limit: int | None
    remaining: int | None
