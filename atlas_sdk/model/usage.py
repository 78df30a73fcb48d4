"""Usage: entries of the ledger, and sums over it."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

__all__ = ["UsageEntry", "UsageTotal"]


@frozen(kw_only=True)
class UsageEntry:
    """A row of the ledger. Rows are never changed."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID | None = field(default=None, repr=False)
    #: "tokens", "container_minutes", or a kind of the platform's own.
    kind: str
    #: The amount; negative in a correction, where the cost may be negative too.
    amount: Decimal
    #: US dollars.
    cost: Decimal
    meta: Mapping[str, object] = field(factory=dict, repr=False)
    created_at: datetime = field(repr=str)


@frozen(kw_only=True)
class UsageTotal:
    """A sum over the ledger. `day`, `model` or `project` is None if the sum is not grouped by it."""

    #: The day in the user's time zone.
    day: date | None
    #: Always set, because amounts of two kinds cannot be added.
    kind: str
    #: The model that `meta` names; None if it names none.
    model: str | None
    #: The project's id, or the project that `meta` names; None if there is neither.
    project: str | None
    #: Number of rows.
    entries: int
    amount: Decimal
    #: US dollars, exact.
    cost: Decimal
