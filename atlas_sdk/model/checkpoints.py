"""Named checkpoints, restore plans, and what a restore did."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.files import from_text, to_text
from atlas_sdk.model.attribution import Attribution, attribution_of

__all__ = ["Change", "Checkpoint", "Restore", "RestorePlan", "RestoreStep"]


@frozen(kw_only=True)
class Checkpoint:
    """A name for the exact versions of all of a project's memory files at one instant."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID = field(repr=False)
    name: str
    #: `named` by somebody, or `safety`: made before a restore wrote anything.
    kind: str = field(validator=in_(("named", "safety")))
    note: str | None = None
    #: Number of files that exist in it.
    files: int
    #: Their sizes together, in bytes.
    size: int
    attribution: Attribution = field(converter=attribution_of, repr=False)
    created_at: datetime = field(repr=str)


@frozen(kw_only=True)
class RestoreStep:
    """One step of a restore: its effect on one file."""

    path: str
    #: "write" a version, "delete" the file, "same": nothing to do, "kept": a newer file that the target does not have,
    #: "unkept": the target's version was over the size limit, so there is nothing to write.
    action: str = field(validator=in_(("write", "delete", "same", "kept", "unkept")))
    #: What is there now: SHA-256 in hex, None when there is no file.
    present_sha256: str | None = field(default=None, repr=False)
    present_size: int | None = None
    #: What will be there: the version, its SHA-256 in hex and its size; None for a deletion.
    snapshot_id: UUID | None = None
    sha256: str | None = field(default=None, repr=False)
    size: int | None = None
    mode: int = field(default=0o644, repr=oct)
    link: str | None = field(default=None, repr=False)
    #: Permission bits for the folders above it that are missing, outermost first.
    folder_modes: tuple[int, ...] = field(default=(), repr=False)
    #: Lines that the restore brings and takes away; None when a side is binary or not kept.
    added_lines: int | None = None
    removed_lines: int | None = None


@frozen(kw_only=True)
class RestorePlan:
    """A plan of a restore: made by `plan_restore`, carried out by `restore`, refused when a file changed since."""

    project_id: UUID = field(repr=False)
    #: What was asked for.
    target: str
    #: "restore", "undo" or "redo".
    reason: str = field(default="restore", validator=in_(("restore", "undo", "redo")))
    #: The restore that an undo or redo walks over.
    of: UUID | None = field(default=None, repr=False)
    #: Device and inode of the project's folder: a restore refuses another folder that has its path by then.
    folder: tuple[int, int] | None = field(default=None, repr=False)
    steps: tuple[RestoreStep, ...]

    @property
    def changes(self) -> tuple[RestoreStep, ...]:
        """The steps that write or delete something."""
        return tuple(step for step in self.steps if step.action in {"write", "delete"})


@frozen(kw_only=True)
class Change:
    """One file that a restore changed: the version before and the version after; None: no such file."""

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


def _changes(value: Any) -> tuple[Change, ...]:
    return tuple(item if isinstance(item, Change) else Change.from_json(item) for item in value)


@frozen(kw_only=True)
class Restore:
    """A restore that was carried out."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID = field(repr=False)
    target: str
    #: The checkpoint made just before anything was written.
    safety: str
    changes: tuple[Change, ...] = field(converter=_changes)
    #: Set while the restore is undone.
    undone_at: datetime | None = None
    attribution: Attribution = field(converter=attribution_of, repr=False)
    created_at: datetime = field(repr=str)
