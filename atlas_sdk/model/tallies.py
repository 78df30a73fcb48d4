"""Tallies: where the kept counts of builds are wrong."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import frozen

__all__ = ["TallyMismatch"]


@frozen(kw_only=True)
class TallyMismatch:
    """A count that is not what it should be."""

    #: None: all builds of the user.
    project_id: UUID | None
    #: The hour that begins then; None: whenever the builds were made.
    hour: datetime | None
    #: What the summaries say: builds, running, succeeded, failed, and the id of the newest.
    tallied: Mapping[str, object]
    #: What there is.
    counted: Mapping[str, object]
