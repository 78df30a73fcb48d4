"""Usage: the ledger of what was used, and its sums."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

__all__ = ["UsageEntry", "UsageTotal"]


@frozen(kw_only=True)
class UsageEntry:
    """A row of the ledger; it is never edited."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID | None = field(default=None, repr=False)
    #: "tokens", "container_minutes", or one of the platform's.
    kind: str
    #: Negative in a correction, like the cost.
    amount: Decimal
    #: US dollars.
    cost: Decimal
    meta: Mapping[str, object] = field(factory=dict, repr=False)
    created_at: datetime = field(repr=str)


@frozen(kw_only=True)
class UsageTotal:
    """A sum over the ledger; what it was not grouped by is None."""

    #: In the user's time zone.
    day: date | None
    #: Always: amounts of two kinds do not add up.
    kind: str
    #: As `meta` has it; None: it says nothing of one.
    model: str | None
    #: The project's id, or what `meta` says; None: of no project.
    project: str | None
    #: Rows.
    entries: int
    amount: Decimal
    #: US dollars, exact.
    cost: Decimal
