"""Limits of plans, and top-ups of limits."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

__all__ = ["Limits", "TopUp"]


@frozen(kw_only=True)
class Limits:
    """The limits of a plan; None is unlimited."""

    #: The name of the plan.
    name: str
    #: Tokens per month.
    tokens: int | None = field(alias="tokens_limit")
    #: US dollars per month.
    cost: Decimal | None = field(alias="cost_limit")
    #: Containers that run at the same time.
    containers: int | None = field(alias="containers_limit")
    requests_per_hour: int | None = field(alias="requests_limit")
    builds_per_day: int | None = field(alias="builds_limit")
    #: Stored bytes of memory contents.
    memory_bytes: int | None = field(alias="memory_limit")
    #: True: content above `memory_bytes` is refused. False: an event reports it.
    memory_hard: bool
    #: Projects that are not deleted, at the same time; below: valid sessions, and live previews.
    projects: int | None = field(default=None, alias="projects_limit")
    sessions: int | None = field(default=None, alias="sessions_limit")
    previews: int | None = field(default=None, alias="previews_limit")


@frozen(kw_only=True)
class TopUp:
    """A top-up of the monthly limits. It is used after the plan's allowance; the rest carries over to next month."""

    id: UUID
    tokens: int
    #: US dollars.
    cost: Decimal
    #: The part that has been used and does not come back. It changes only at the end of each period and when the top-up
    #: expires.
    tokens_burned: int
    cost_burned: Decimal
    reason: str
    created_at: datetime = field(repr=str)
    #: None when the top-up never expires.
    expires_at: datetime | None = field(repr=str)
    #: The time when the top-up expired or was used up; None while it is open.
    closed_at: datetime | None = field(repr=str)
