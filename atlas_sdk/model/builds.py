"""Builds: attempts to build an image of a project."""

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
    #: The builder's container.
    container_id: str | None = None
    image_id: str | None = None
    #: The reason of a failure.
    error_message: str | None = field(default=None, repr=False)
    #: The builder's measurements, such as {"cpu_seconds": 41.5}.
    resource_usage: Mapping[str, object] = field(factory=dict, repr=False)
    #: Bytes appended to the log in all; only the end of a long log is stored.
    log_bytes: int = 0
    #: The time of the start by the database's clock, like `finished_at`; None for a build that has not started.
    started_at: datetime | None = field(default=None, repr=False)
    finished_at: datetime | None = field(default=None, repr=False)
    created_at: datetime = field(repr=str)

    @property
    def duration(self) -> timedelta | None:
        """The run time; None until the build has run to its end."""
        return None if self.started_at is None or self.finished_at is None else self.finished_at - self.started_at


@frozen(kw_only=True)
class BuildStats:
    """Counts and durations of a project's builds."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    #: Succeeded builds as a share of the finished ones, 0 to 1; None while none has finished.
    success_rate: Decimal | None
    #: Percentiles of the run time of all finished builds, failed ones included.
    duration_p50: timedelta | None
    duration_p95: timedelta | None
