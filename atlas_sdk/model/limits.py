"""Limits: what a plan allows, and what is granted on top."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

__all__ = ["Limits", "TopUp"]


@frozen(kw_only=True)
class Limits:
    """The limits of a plan; None is unlimited."""

    #: The plan's.
    name: str
    #: A month.
    tokens: int | None = field(alias="tokens_limit")
    #: US dollars a month.
    cost: Decimal | None = field(alias="cost_limit")
    #: At the same time.
    containers: int | None = field(alias="containers_limit")
    requests_per_hour: int | None = field(alias="requests_limit")
    builds_per_day: int | None = field(alias="builds_limit")
    #: What the contents of memory take in the database.
    memory_bytes: int | None = field(alias="memory_limit")
    #: Whether a capture above `memory_bytes` is refused; otherwise it is told.
    memory_hard: bool
    #: How many there may be at one time: projects that are not deleted, valid sessions, previews that live.
    projects: int | None = field(default=None, alias="projects_limit")
    sessions: int | None = field(default=None, alias="sessions_limit")
    previews: int | None = field(default=None, alias="previews_limit")


@frozen(kw_only=True)
class TopUp:
    """A top-up of the monthly limits: used after the plan's own allowance; the rest goes over into the next month."""

    id: UUID
    tokens: int
    #: US dollars.
    cost: Decimal
    #: Used up for good: reckoned at the end of a period, and when a grant expires.
    tokens_burned: int
    cost_burned: Decimal
    reason: str
    created_at: datetime = field(repr=str)
    #: None: never.
    expires_at: datetime | None = field(repr=str)
    #: When it had expired or was used up; None while it is open.
    closed_at: datetime | None = field(repr=str)
