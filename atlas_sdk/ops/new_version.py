"""The versions to append: what `append` and `append_many` get from their callers."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from attrs import evolve, field, frozen

from atlas_sdk._context import Context
from atlas_sdk._heads import Key
from atlas_sdk.errors import AtlasError, InvalidInput, NotFound
from atlas_sdk.files import named, to_text
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.model.memory import Head, Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops.contents import Content
from atlas_sdk.text import quoted

__all__ = ["KINDS", "PATH_BYTES", "Incoming", "NewVersion", "Refused", "no_file", "odd_modes"]

#: The kinds that a caller may give; checkpoints add versions of kind `checkpoint`.
KINDS = ("claude_md", "scratch", "auto")
#: The longest path (bytes) that fits into an index entry, and the largest permission bits.
PATH_BYTES = 2048
_MODES = 0o7777
#: A NUL in a JSON text, but not the escaped backslash before the letters u0000.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
#: Permission bits of most folders, and of a file whose bits nobody knows.
_USUAL_MODE = 0o755
_USUAL_FILE_MODE = 0o644


@frozen(kw_only=True)
class Incoming:
    """The content of a new version, if the content does not come from the disk."""

    path: str
    content: bytes | None
    sha256: bytes
    size: int
    #: Permission bits; -1 keeps the bits of the newest version.
    mode: int = -1
    link: str | None = None
    #: Permission bits of the folders above the file, the topmost folder first.
    folder_modes: tuple[int, ...] = ()


def _aware(_: object, __: object, value: datetime | None) -> None:
    if value is not None and value.tzinfo is None:
        raise InvalidInput("captured_at needs a time zone", field="captured_at")


@frozen(kw_only=True)
class NewVersion:
    """A version to append."""

    user_id: UUID
    project_id: UUID
    #: The path relative to the project, decoded by `os.fsdecode`.
    path: str
    #: None for a deletion, and for a file over the size limit, of which only the hash is kept.
    content: bytes | None = field(default=None, repr=False)
    #: The SHA-256 of the file, 32 bytes; None for a deletion.
    sha256: bytes | None = field(default=None, repr=False)
    size: int = 0
    #: Permission bits; -1 keeps the bits of the newest version.
    mode: int = -1
    link: str | None = None
    #: Permission bits of the folders above the file, the topmost folder first.
    folder_modes: tuple[int, ...] = ()
    kind: str
    context: Mapping[str, object] | None = None
    #: The operation that makes the version; None for a plain snapshot.
    reason: str | None = None
    #: The author; None for the client's own.
    attribution: Attribution | None = None
    #: The id of the version, a uuid v7 that the caller chose: a version whose id is stored already is not appended
    #: again, so a caller that does not know whether a version was stored may append it again.
    snapshot_id: UUID | None = None
    #: The time of the capture; None for the time at which the database stores the version. The version's time is never
    #: before that of the file's newest version, and never in the server's future.
    captured_at: datetime | None = field(default=None, validator=_aware)

    @classmethod
    def of(
        cls,
        project: Project,
        state: Content,
        *,
        kind: str,
        context: Mapping[str, object] | None = None,
        reason: str | None = None,
    ) -> "NewVersion":
        """Return the version of a file of a project that has this content."""
        return cls(
            user_id=project.user_id,
            project_id=project.id,
            path=state.path,
            content=state.content,
            sha256=state.sha256,
            size=state.size,
            mode=state.mode,
            link=state.link,
            folder_modes=state.folder_modes,
            kind=kind,
            context=context,
            reason=reason,
        )

    @property
    def key(self) -> Key:
        """The file of the version."""
        return self.user_id, self.project_id, self.path

    def author(self, ctx: Context) -> Attribution:
        """Return the attribution to store."""
        found = self.attribution or ctx.attribution
        return found if self.reason is None else evolve(found, reason=self.reason)

    def mode_after(self, head: Head | None) -> int:
        """Return the permission bits to store for a version that follows `head`."""
        if self.mode >= 0 and self.sha256 is not None:
            return self.mode
        return _USUAL_FILE_MODE if head is None else head.mode

    def stored(self, ctx: Context, new_id: UUID, head: Head | None, *, seq: int, created_at: datetime) -> Snapshot:
        """Return the version as it was stored after `head`."""
        return Snapshot(
            id=new_id,
            user_id=self.user_id,
            project_id=self.project_id,
            path=to_text(self.path),
            seq=seq,
            kind=self.kind,
            sha256=None if self.sha256 is None else self.sha256.hex(),
            size=self.size,
            mode=self.mode_after(head),
            link=self.link,
            folder_modes=odd_modes(self.folder_modes),
            context=self.context,
            attribution=self.author(ctx),
            created_at=created_at,
        )

    def repeats(self, head: Head) -> bool:
        """Return whether the version is equal to the newest version, so that there is nothing to append."""
        if self.sha256 is None or head.sha256 is None:
            return self.sha256 == head.sha256
        if self.content is not None and head.blob is None:
            # The file was over the size limit, so only its hash is stored. Its content can be stored now.
            return False
        # A mode of -1 means that the caller gave none.
        return head.sha256 == self.sha256 and self.mode in {-1, head.mode} and head.link == self.link

    def check(self) -> None:
        """Raise InvalidInput for values that PostgreSQL cannot hold: one such row would stop a whole batch."""
        if self.kind not in KINDS:
            raise InvalidInput(f"kind must be one of {', '.join(KINDS)}, not {quoted(self.kind)}", field="kind")
        if not self.path or len(to_text(self.path).encode()) > PATH_BYTES:
            raise InvalidInput(f"a path must have 1 to {PATH_BYTES:,} bytes", field="path")
        if not -1 <= self.mode <= _MODES or not all(0 <= mode <= _MODES for mode in self.folder_modes):
            raise InvalidInput("modes must be 0 to 0o7777", field="mode")
        if self.link is not None and not _is_text(self.link):
            raise InvalidInput(f"{named(self.path)} is a link whose text is not UTF-8", field="link")
        if self.context is not None:
            _check_json(self.context)


def _is_text(value: str) -> bool:
    """Return whether a column of type text can hold the value."""
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _check_json(context: Mapping[str, object]) -> None:
    """Raise InvalidInput for a context that jsonb cannot hold: not JSON, NaN, a NUL, half of a surrogate pair."""
    try:
        text = json.dumps(dict(context), ensure_ascii=False, allow_nan=False)
        # Two halves beside each other are one character for PostgreSQL.
        text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeError as exc:
        raise InvalidInput("context has half of a surrogate pair", field="context") from exc
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidInput(f"not JSON: {exc}", field="context") from exc
    if _NUL.search(text):
        raise InvalidInput("context has a NUL", field="context")


@frozen(kw_only=True)
class Refused:
    """A version that the database did not take, although it took others."""

    #: QuotaExceeded: a hard memory limit. NotFound: the project is gone, or a file without versions is to be deleted.
    #: InvalidInput: a value that PostgreSQL cannot hold.
    problem: AtlasError


def no_file(new: NewVersion, *, project: str | None = None) -> NotFound:
    """Return the error for the deletion of a file without versions."""
    where = "its project" if project is None else named(project)
    return NotFound(f"{named(new.path)}: no such file, and no version of it in {where}", kind="file", name=new.path)


def odd_modes(modes: tuple[int, ...]) -> list[int] | None:
    """Return the folder modes to store, or None if all of them are 755: None takes no space."""
    return list(modes) if any(mode != _USUAL_MODE for mode in modes) else None
