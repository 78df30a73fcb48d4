"""Projects: folders whose memory files have a history."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.files import from_text

__all__ = ["PROJECT_STATUSES", "MovedProject", "Project", "ProjectPurge"]

#: active <-> archived; both -> deleted. The database refuses any other change.
PROJECT_STATUSES = ("active", "archived", "deleted")


@frozen(kw_only=True)
class Project:
    """A folder whose memory files have a history."""

    id: UUID
    user_id: UUID = field(repr=False)
    #: The project's name for other systems; unique in the database.
    session_id: str = field(repr=False)
    name: str
    #: The absolute path with symlinks resolved, decoded by `os.fsdecode`.
    path: str = field(converter=from_text)
    #: True if the folder existed where the project was registered. A program may register a project without a folder.
    had_folder: bool = field(default=True, repr=False)
    #: "active", "archived" or "deleted", which is final.
    status: str = field(validator=in_(PROJECT_STATUSES))
    #: The state at the last capture, checkpoint or `projects.update_memory`; `projects.health` reads the memory itself.
    has_memory: bool = field(default=False, repr=False)
    #: Bytes of the newest versions, as of the same time.
    memory_size: int = field(default=0, repr=False)
    framework: str | None = field(default=None, repr=False)
    language: str | None = field(default=None, repr=False)
    created_at: datetime = field(repr=False)
    #: The time of the last change or `projects.touch`.
    updated_at: datetime = field(repr=False)


@frozen(kw_only=True)
class MovedProject:
    """A project whose folder is gone, and the reasons to believe that it is at another path now."""

    project: Project
    #: True if the folder there has the same device and inode, as a renamed folder has.
    same_folder: bool
    #: True if the git repository there has the same first commit.
    same_commit: bool
    #: The number of memory files there that the project's history has, with the same path and content.
    same_files: int


@frozen(kw_only=True)
class ProjectPurge:
    """Counts of the rows that were deleted with a project. The project's ledger entries and the audit trail stay."""

    user_id: UUID = field(repr=False)
    project_id: UUID
    #: Versions of memory files, including versions that checkpoints name.
    memory_snapshots: int
    checkpoints: int
    builds: int
    previews: int
