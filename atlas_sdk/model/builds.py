"""Builds: attempts to make an image of a project."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

__all__ = ["BUILD_STATUSES", "Build", "BuildStats"]

#: queued -> running -> succeeded | failed; queued -> failed. The database refuses any other change.
BUILD_STATUSES = ("queued", "running", "succeeded", "failed")


@frozen(kw_only=True)
class Build:
    """An attempt to build a project."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID = field(repr=False)
    #: "queued", "running", "succeeded" or "failed".
    status: str = field(validator=in_(BUILD_STATUSES))
    #: Of the one that started it.
    container_id: str | None = None
    image_id: str | None = None
    #: Why it failed.
    error_message: str | None = field(default=None, repr=False)
    #: What the builder measured, such as {"cpu_seconds": 41.5}.
    resource_usage: Mapping[str, object] = field(factory=dict, repr=False)
    #: Bytes that were ever appended to the log; of a long one only the end is kept.
    log_bytes: int = 0
    #: By the database's clock, like the end; None: it failed while it was queued.
    started_at: datetime | None = field(default=None, repr=False)
    finished_at: datetime | None = field(default=None, repr=False)
    created_at: datetime = field(repr=str)

    @property
    def duration(self) -> timedelta | None:
        """The run time; None while it runs, and for a build that never ran."""
        return None if self.started_at is None or self.finished_at is None else self.finished_at - self.started_at


@frozen(kw_only=True)
class BuildStats:
    """The builds of a project in numbers."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    #: The share of the finished ones, 0 to 1; None while there are none.
    success_rate: Decimal | None
    #: Of those that ran to an end, good or bad: half of them took no longer.
    duration_p50: timedelta | None
    duration_p95: timedelta | None
