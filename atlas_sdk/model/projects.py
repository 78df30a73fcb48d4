"""Projects: folders whose memory files are kept."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.files import from_text

__all__ = ["PROJECT_STATUSES", "Project", "ProjectPurge"]

#: active <-> archived; both -> deleted. The database refuses any other change.
PROJECT_STATUSES = ("active", "archived", "deleted")


@frozen(kw_only=True)
class Project:
    """A folder whose memory files are kept."""

    id: UUID
    user_id: UUID = field(repr=False)
    #: The project's name for other systems; unique in the database.
    session_id: str = field(repr=False)
    name: str
    #: Absolute, symlinks resolved, decoded by `os.fsdecode`.
    path: str = field(converter=from_text)
    #: "active", "archived" or "deleted", which is final.
    status: str = field(validator=in_(PROJECT_STATUSES))
    #: As of the last capture, checkpoint or `projects.update_memory`; `projects.health` reads the memory itself.
    has_memory: bool = field(default=False, repr=False)
    #: Bytes of the newest versions, as of the same time.
    memory_size: int = field(default=0, repr=False)
    framework: str | None = field(default=None, repr=False)
    language: str | None = field(default=None, repr=False)
    created_at: datetime = field(repr=False)
    #: When the project was last changed or touched.
    updated_at: datetime = field(repr=False)


@frozen(kw_only=True)
class ProjectPurge:
    """Counts of the rows that were deleted with a project. Its ledger and the audit trail stay."""

    user_id: UUID = field(repr=False)
    project_id: UUID
    #: Versions of memory files, with those that checkpoints name.
    memory_snapshots: int
    checkpoints: int
    builds: int
    previews: int
