"""Quotas: what was promised, and what was charged for it."""

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

__all__ = ["Block", "Rate", "Reservation", "Settlement"]


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
    #: Grows with every grant to the user; of one container, a driver obeys the highest number that came with it.
    #: None as above.
    epoch: int | None
    #: "held"; "settled" when a repeated call comes after the settlement.
    state: str = "held"
    #: This id was granted by an earlier call, and this is its answer.
    repeated: bool = False


@frozen(kw_only=True)
class Settlement:
    """The amounts charged for a reservation."""

    #: "settled"; "corrected": it had expired or been released before; "released"; "repeated": an earlier call did it.
    outcome: str
    tokens: int
    #: US dollars.
    cost: Decimal
    #: More was used than promised. It is charged all the same.
    overrun: bool


@frozen(kw_only=True)
class Block:
    """A promise that one process spends by itself, call by call."""

    id: UUID
    user_id: UUID = field(repr=False)
    tokens: int
    #: US dollars.
    cost: Decimal
    requests: int
    #: Until it expires, when it was granted, by the server's clock.
    lasts: timedelta
    #: As a reservation's.
    epoch: int
    repeated: bool = False


@frozen(kw_only=True)
class Rate:
    """The remaining requests of the hour; None is unlimited."""

    limit: int | None
    remaining: int | None
