"""Previews: containers that serve a project at a host."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

__all__ = ["HEALTHS", "LIVE", "PREVIEW_STATUSES", "Preview"]

#: creating -> running | failed | stopped; running <-> sleeping; running | sleeping -> stopped | failed. The database
#: refuses any other change.
PREVIEW_STATUSES = ("creating", "running", "sleeping", "stopped", "failed")
#: Statuses in which a preview has a host and may have a port.
LIVE = ("creating", "running", "sleeping")
HEALTHS = ("unknown", "healthy", "unhealthy", "starting")


@frozen(kw_only=True)
class Preview:
    """A container that serves a project at a host."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID = field(repr=False)
    #: The host in lower case; unique in the database while the preview is live.
    host: str
    #: "creating", "running", "sleeping", "stopped" or "failed".
    status: str = field(validator=in_(PREVIEW_STATUSES))
    #: The port of the machine that receives the requests for the host.
    host_port: int | None = None
    #: The port inside the container.
    container_port: int | None = None
    #: The machine that runs the preview; "" where there is only one machine.
    machine: str = ""
    container_id: str | None = None
    network_id: str | None = None
    #: "unknown", "healthy", "unhealthy" or "starting".
    health: str = field(default="unknown", validator=in_(HEALTHS))
    resource_limits: Mapping[str, object] = field(factory=dict, repr=False)
    #: True: the preview may be put to sleep when no request came for `sleep_after`.
    auto_sleep: bool = field(default=True, repr=False)
    sleep_after: timedelta = field(default=timedelta(minutes=30), repr=False)
    #: The time of the last visit, exact to a second: see `previews.touch`.
    last_accessed_at: datetime = field(repr=False)
    stopped_at: datetime | None = field(default=None, repr=False)
    created_at: datetime = field(repr=str)
    updated_at: datetime = field(repr=False)

    @property
    def is_live(self) -> bool:
        """True while the preview has its host: while it is being created, runs or sleeps."""
        return self.status in LIVE
