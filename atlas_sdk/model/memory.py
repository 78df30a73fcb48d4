"""Versions of memory files."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.files import from_text
from atlas_sdk.model.attribution import Attribution, attribution_of
from atlas_sdk.model.blobs import Blob

__all__ = ["BrokenVersion", "Capture", "FileDiff", "Head", "Snapshot", "Verification", "VersionSet"]

#: `auto`: the watcher took the version, and maintenance may prune it. `claude_md`, `scratch`: a caller asked for it.
#: `checkpoint`: it belongs to a named checkpoint.
KINDS = ("claude_md", "scratch", "checkpoint", "auto")


def _hex(value: bytes | str | None) -> str | None:
    return value.hex() if isinstance(value, bytes) else value


def _modes(value: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(value or ())


@frozen(kw_only=True)
class Snapshot:
    """One version of one memory file."""

    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID = field(repr=False)
    #: The path relative to the project, decoded by `os.fsdecode`.
    path: str = field(converter=from_text)
    #: The number of this version among the versions of its file, from 1.
    seq: int
    kind: str = field(validator=in_(KINDS))
    #: 64 hex digits; None when the file was deleted at this point.
    sha256: str | None = field(converter=_hex, repr=lambda value: "deleted" if value is None else value[:12])
    #: Bytes.
    size: int
    #: Permission bits.
    mode: int = field(repr=oct)
    #: The target of the symlink, when the path was a symlink to a place inside the project.
    link: str | None = field(default=None, repr=False)
    #: Permission bits of the folders between the project's folder and the file, the topmost first; empty when all are
    #: 755 or unknown.
    folder_modes: tuple[int, ...] = field(default=(), converter=_modes, repr=False)
    #: The checkpoint's name, for versions of kind `checkpoint`.
    checkpoint: str | None = None
    #: True: the content is stored. False: only hash and size are. None: not looked up; `files` looks it up.
    kept: bool | None = field(default=None, repr=False)
    #: A JSON object that the caller stored with the version.
    context: Mapping[str, object] | None = field(default=None, repr=False)
    attribution: Attribution = field(converter=attribution_of, repr=False)
    created_at: datetime = field(repr=str)

    @property
    def deleted(self) -> bool:
        """True when the file did not exist at this point."""
        return self.sha256 is None

    @property
    def short_id(self) -> str:
        """The first 12 hex digits of the id; unique unless two versions are made in the same millisecond."""
        return self.id.hex[:12]


@frozen(kw_only=True)
class VersionSet:
    """The versions that a reference names, one per file."""

    reference: str
    #: Ordered by path, without deletions, unless the reference names the deletion itself.
    versions: tuple[Snapshot, ...]
    #: True when the reference names every file of the project: a file without a version did not exist then.
    whole: bool

    def by_path(self) -> dict[str, Snapshot]:
        """Return the versions by path."""
        return {version.path: version for version in self.versions}


@frozen(kw_only=True)
class Capture:
    """The result of capturing a project's folder."""

    #: New versions, deletions included; empty when nothing changed.
    taken: tuple[Snapshot, ...]
    #: Path and reason of every entry that could not be read or must not be followed.
    skipped: tuple[tuple[str, str], ...]
    #: The recorded files that exist but are not tracked any more; their history is kept.
    untracked: tuple[str, ...] = ()
    #: Path and reason of every file that looks like memory and is not tracked, at most 100.
    lookalikes: tuple[tuple[str, str], ...] = ()


@frozen(kw_only=True)
class Head:
    """The newest version of a file, with the data that a writer needs to append the next one."""

    snapshot_id: UUID
    seq: int
    #: The SHA-256 of the newest version; None when the newest version is a deletion.
    sha256: bytes | None
    mode: int
    link: str | None
    created_at: datetime
    #: The newest content, as a blob and as bytes: the base of the next delta. None when only hash and size were stored.
    blob: Blob | None = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)
    #: The monotonic time (seconds) of the last proof that this version is the newest, and the file's shared stamp just
    #: before.
    confirmed_at: float = field(default=0.0, eq=False)
    stamp: bytes | None = field(default=None, eq=False, repr=False)


@frozen(kw_only=True)
class FileDiff:
    """The difference of one file between two states of a project."""

    path: str
    #: "added", "removed", "changed", "same", or "unreadable": the folder's side could not be read.
    change: str = field(validator=in_(("added", "removed", "changed", "same", "unreadable")))
    added_lines: int = 0
    removed_lines: int = 0
    #: Unified diff; None when a side is binary or its content was not stored.
    text: str | None = field(default=None, repr=False)
    #: The reason in one sentence, when "unreadable".
    problem: str | None = None


@frozen(kw_only=True)
class BrokenVersion:
    """A version whose content does not match its SHA-256."""

    path: str = field(converter=from_text)
    snapshot_id: UUID
    sha256: str
    problem: str


@frozen(kw_only=True)
class Verification:
    """The result of `verify`: every version read back and hashed again."""

    #: Versions read and hashed, without deletions, which have no content.
    versions: int
    #: Distinct contents of these versions.
    contents: int
    #: Versions with hash and size only, because the file was over the size limit.
    unkept: int
    #: Bytes of content hashed, before compression.
    content_bytes: int
    #: Bytes of content stored.
    stored_bytes: int
    broken: tuple[BrokenVersion, ...] = ()

    @property
    def ok(self) -> bool:
        """True when every stored content is intact."""
        return not self.broken
