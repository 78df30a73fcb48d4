"""Projects: folders whose memory files are kept."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.files import from_text

__all__ = ["PROJECT_STATUSES", "Project", "Purge"]

#: active <-> archived; both -> deleted. The database refuses any other change.
PROJECT_STATUSES = ("active", "archived", "deleted")


@frozen(kw_only=True)
class Project:
    """A folder whose memory files are kept."""

    id: UUID
    user_id: UUID = field(repr=False)
    #: Unique in the database: the name that the outside knows the project by.
    session_id: str = field(repr=False)
    name: str
    #: Absolute, symlinks resolved, as `os.fsdecode` gives it.
    path: str = field(converter=from_text)
    #: "active", "archived" or "deleted", which is final.
    status: str = field(validator=in_(PROJECT_STATUSES))
    #: As noted at the last checkpoint, look or `projects.update_memory`; `projects.health` asks the memory itself.
    has_memory: bool = field(default=False, repr=False)
    #: Bytes of the newest versions.
    memory_size: int = field(default=0, repr=False)
    framework: str | None = field(default=None, repr=False)
    language: str | None = field(default=None, repr=False)
    created_at: datetime = field(repr=False)
    #: When it was last changed or touched.
    updated_at: datetime = field(repr=False)


@frozen(kw_only=True)
class Purge:
    """The rows deleted with a project; its ledger and the audit trail stay."""

    user_id: UUID = field(repr=False)
    project_id: UUID
    #: Versions of memory files, with those that checkpoints name.
    memory_snapshots: int
    checkpoints: int
    builds: int
    previews: int
