"""Checkpoints, restore plans, and records of restores."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.files import from_text, to_text
from atlas_sdk.model.attribution import Attribution, attribution_of

__all__ = ["Checkpoint", "Restore", "RestoreChange", "RestorePlan", "RestoreStep"]


@frozen(kw_only=True)
class Checkpoint:
    """A name for the exact versions of all of a project's memory files at one instant."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID = field(repr=False)
    name: str
    #: "named": a user made the checkpoint. "safety": a restore made the checkpoint before writing any file.
    kind: str = field(validator=in_(("named", "safety")))
    note: str | None = None
    #: The number of files in the checkpoint, without deleted ones.
    files: int
    #: The sum of the sizes of these files, in bytes.
    size: int
    attribution: Attribution = field(converter=attribution_of, repr=False)
    created_at: datetime = field(repr=str)


@frozen(kw_only=True)
class RestoreStep:
    """One step of a restore: its effect on one file."""

    path: str
    #: "write": write a version. "delete": delete the file. "same": nothing to do. "kept": the target does not have this
    #: newer file, so the file stays. "unkept": the target's version was over the size limit and is not stored.
    #: "blocked": something else is in the file's place, see `problem`; it stays, and the file is not restored.
    action: str = field(validator=in_(("write", "delete", "same", "kept", "unkept", "blocked")))
    #: The present content: SHA-256 in hex, None when there is no file.
    present_sha256: str | None = field(default=None, repr=False)
    present_size: int | None = None
    #: The content after the restore: id of the version, SHA-256 in hex and size; None for a deletion.
    snapshot_id: UUID | None = None
    sha256: str | None = field(default=None, repr=False)
    size: int | None = None
    mode: int = field(default=0o644, repr=oct)
    link: str | None = field(default=None, repr=False)
    #: Permission bits of the folders above the file, the topmost first, for folders that the restore has to create.
    folder_modes: tuple[int, ...] = field(default=(), repr=False)
    #: Lines that the restore adds and removes; None when a side is binary or not stored.
    added_lines: int | None = None
    removed_lines: int | None = None
    #: The reason why the file cannot be restored, and what to do; None unless the action is "blocked".
    problem: str | None = None


@frozen(kw_only=True)
class RestorePlan:
    """A plan of a restore. `plan_restore` makes it; `restore` carries it out, or refuses if a file has changed."""

    project_id: UUID = field(repr=False)
    #: The reference that the caller gave.
    target: str
    #: "restore", "undo" or "redo".
    reason: str = field(default="restore", validator=in_(("restore", "undo", "redo")))
    #: The restore that this plan undoes or redoes.
    of: UUID | None = field(default=None, repr=False)
    #: Device and inode of the project's folder. `restore` refuses the plan if the path then leads to another folder.
    folder: tuple[int, int] | None = field(default=None, repr=False)
    steps: tuple[RestoreStep, ...]

    @property
    def changes(self) -> tuple[RestoreStep, ...]:
        """The steps that write or delete something."""
        return tuple(step for step in self.steps if step.action in {"write", "delete"})


@frozen(kw_only=True)
class RestoreChange:
    """One file that a restore changed, with the versions before and after; None where there was no file."""

    path: str
    before: UUID | None
    after: UUID | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read one entry of the jsonb column."""
        before, after = (None if value[key] is None else UUID(value[key]) for key in ("before", "after"))
        return cls(path=from_text(value["path"]), before=before, after=after)

    def to_json(self) -> dict[str, str | None]:
        """Return the entry for the jsonb column."""
        before, after = (None if side is None else str(side) for side in (self.before, self.after))
        return {"path": to_text(self.path), "before": before, "after": after}


def _changes(value: Any) -> tuple[RestoreChange, ...]:
    return tuple(item if isinstance(item, RestoreChange) else RestoreChange.from_json(item) for item in value)


@frozen(kw_only=True)
class Restore:
    """A restore that was carried out."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID = field(repr=False)
    target: str
    #: The name of the checkpoint that was made before anything was written.
    safety: str
    changes: tuple[RestoreChange, ...] = field(converter=_changes)
    #: The time of the undo; None if the restore was never undone, or was redone.
    undone_at: datetime | None = None
    attribution: Attribution = field(converter=attribution_of, repr=False)
    created_at: datetime = field(repr=str)
