"""Summaries of a user and of a project, as the two views return them."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen

__all__ = ["ProjectHealth", "UsageSummary"]


@frozen(kw_only=True)
class UsageSummary:
    """A summary of a user: one row of the view `user_usage_summary`."""

    user_id: UUID = field(repr=False)
    email: str
    plan: str
    #: Tokens of the current month, without reservations of running calls.
    tokens_used: int
    #: None is unlimited.
    tokens_limit: int | None
    #: US dollars.
    cost_used: Decimal
    cost_limit: Decimal | None
    #: The number of projects, without deleted projects.
    project_count: int
    #: Previews that answer at their host: running or sleeping.
    active_previews: int
    builds_24h: int
    builds_7d: int
    last_activity_at: datetime = field(repr=str)


@frozen(kw_only=True)
class ProjectHealth:
    """A summary of a project: one row of the view `project_health`."""

    project_id: UUID = field(repr=False)
    user_id: UUID = field(repr=False)
    name: str
    status: str
    builds_total: int
    builds_succeeded: int
    builds_failed: int
    #: Shares of the finished builds, 0 to 1; None while none has finished.
    success_rate: Decimal | None
    failure_rate: Decimal | None
    last_build_at: datetime | None = field(repr=str)
    last_build_status: str | None
    #: Previews that answer at their host: running or sleeping.
    active_previews: int
    has_memory: bool
    #: The number of files that exist now, and the bytes of the newest versions of these files.
    memory_files: int
    memory_bytes: int
    last_snapshot_at: datetime | None = field(repr=str)
