"""The objects of the journal, and their form in its file."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from attrs import asdict, field, fields, frozen
from attrs.validators import in_

from atlas_sdk.errors import InvalidInput
from atlas_sdk.files import Signature, to_text
from atlas_sdk.model.attribution import Attribution, attribution_of
from atlas_sdk.model.projects import Project

__all__ = ["FOLDER", "NAME", "JournalStatus", "KnownHead", "PendingFile", "Record"]

#: The journal's file, below the home folder.
FOLDER, NAME = "journal", "journal.db"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OPERATIONS = ("version", "deletion", "checkpoint")


def _aware(_instance: object, attribute: Any, value: datetime) -> None:
    if value.tzinfo is None:
        raise InvalidInput(f"{attribute.name} must have a time zone", field=attribute.name)


@frozen(kw_only=True)
class Record:
    """A version, deletion or checkpoint that was captured and is not in the database yet."""

    #: A uuid v7. It becomes the id of the version, so that a second delivery stores nothing.
    id: UUID
    user_id: UUID = field(repr=False)
    project_id: UUID
    op: Literal["version", "deletion", "checkpoint"] = field(validator=in_(_OPERATIONS))
    #: The path relative to the project, decoded by `os.fsdecode`; empty for a checkpoint.
    path: str
    #: The name of a checkpoint.
    name: str | None = None
    #: None for a deletion, a checkpoint, and a file over the size limit, of which only the hash is kept.
    content: bytes | None = field(default=None, repr=False)
    sha256: bytes | None = field(default=None, repr=False)
    size: int = 0
    #: Permission bits; -1 keeps the bits of the newest version.
    mode: int = field(default=-1, repr=False)
    link: str | None = field(default=None, repr=False)
    folder_modes: tuple[int, ...] = field(default=(), repr=False)
    kind: str
    reason: str | None = None
    #: A JSON object to store with the version; for a checkpoint its note, as `{"note": …}`.
    context: Mapping[str, object] | None = field(default=None, repr=False)
    #: The author, as the capturing process knew it.
    attribution: Attribution = field(repr=False)
    #: The time of the capture; it becomes the time of the version.
    captured_at: datetime = field(validator=_aware, repr=str)


@frozen(kw_only=True)
class KnownHead:
    """The newest version of a file that this machine knows, whether it is in the database or only in the journal."""

    path: str
    #: None for a deletion.
    sha256: bytes | None = field(repr=False)
    mode: int
    link: str | None
    #: False if only the hash is kept.
    kept: bool
    captured_at: datetime = field(validator=_aware, repr=str)
    #: The `stat` of the file with this content; None if it is unknown or proves nothing.
    signature: Signature | None = field(default=None, repr=False)


@frozen(kw_only=True)
class PendingFile:
    """A file with versions that are in the journal and not in the database yet."""

    path: str
    #: The hash of the newest record; None for a deletion.
    sha256: bytes | None = field(repr=False)
    #: Records of this file, and the bytes of their contents.
    records: int
    bytes: int
    oldest_at: datetime
    newest_at: datetime
    #: The reason why the database refused a record of this file, if it did.
    problem: str | None = None


@frozen(kw_only=True)
class JournalStatus:
    """The size and the state of a journal."""

    #: Records that are not in the database yet, and the bytes of their contents.
    records: int = 0
    bytes: int = 0
    #: The time of capture of the first of them.
    oldest_at: datetime | None = None
    #: Records that the database refused, and the reason of the first. They stay here and are tried again.
    held_back: int = 0
    #: Versions that were dropped because the journal was full, and the time of the last.
    dropped: int = 0
    dropped_at: datetime | None = None
    #: One sentence: the reason of the first record that is held back, or why the journal cannot be used.
    problem: str | None = None


def to_microseconds(moment: datetime) -> int:
    """Return a time as the journal stores it."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return a time that the journal stored."""
    return _EPOCH + timedelta(microseconds=value)


def row_of(record: Record) -> dict[str, object]:
    """Return a record as the parameters of the statement `append`."""
    return {
        "id": record.id.bytes,
        "user_id": record.user_id.bytes,
        "project_id": record.project_id.bytes,
        "op": record.op,
        "path": os.fsencode(record.path),
        "name": record.name,
        "sha256": record.sha256,
        "size": record.size,
        "mode": record.mode,
        "link": None if record.link is None else os.fsencode(record.link),
        "folder_modes": json.dumps(record.folder_modes),
        "kind": record.kind,
        "reason": record.reason,
        "context": None if record.context is None else json.dumps(dict(record.context)),
        "attribution": json.dumps(record.attribution.to_json()),
        "captured_at": to_microseconds(record.captured_at),
        "bytes": len(record.content or b""),
        "content": record.content,
    }


def record_of(row: Mapping[str, Any]) -> Record:
    """Return the record of a row."""
    return Record(
        id=UUID(bytes=row["id"]),
        user_id=UUID(bytes=row["user_id"]),
        project_id=UUID(bytes=row["project_id"]),
        op=row["op"],
        path=os.fsdecode(row["path"]),
        name=row["name"],
        content=row["content"],
        sha256=row["sha256"],
        size=row["size"],
        mode=row["mode"],
        link=None if row["link"] is None else os.fsdecode(row["link"]),
        folder_modes=tuple(json.loads(row["folder_modes"])),
        kind=row["kind"],
        reason=row["reason"],
        context=None if row["context"] is None else json.loads(row["context"]),
        attribution=attribution_of(json.loads(row["attribution"])),
        captured_at=from_microseconds(row["captured_at"]),
    )


def row_of_head(project: UUID, head: KnownHead) -> dict[str, object]:
    """Return a head as the parameters of the statement `know`."""
    found = head.signature
    if found is not None and max(abs(found.mtime_ns), abs(found.ctime_ns)) >= 2**63:
        # SQLite has no such number: it is a time after the year 2262. Without a signature, the file is hashed again.
        found = None
    return {
        "project_id": project.bytes,
        "path": os.fsencode(head.path),
        "sha256": head.sha256,
        "mode": head.mode,
        "link": None if head.link is None else os.fsencode(head.link),
        "kept": int(head.kept),
        "captured_at": to_microseconds(head.captured_at),
        "mtime_ns": None if found is None else found.mtime_ns,
        "ctime_ns": None if found is None else found.ctime_ns,
        "size": None if found is None else found.size,
        "ino": None if found is None else _signed(found.ino),
        "dev": None if found is None else _signed(found.dev),
    }


def head_of(row: Mapping[str, Any]) -> KnownHead:
    """Return the head of a row."""
    signature = None
    if row["mtime_ns"] is not None:
        signature = Signature(
            mtime_ns=row["mtime_ns"],
            ctime_ns=row["ctime_ns"],
            size=row["size"],
            ino=_unsigned(row["ino"]),
            dev=_unsigned(row["dev"]),
        )
    return KnownHead(
        path=os.fsdecode(row["path"]),
        sha256=row["sha256"],
        mode=row["mode"],
        link=None if row["link"] is None else os.fsdecode(row["link"]),
        kept=bool(row["kept"]),
        captured_at=from_microseconds(row["captured_at"]),
        signature=signature,
    )


def _signed(value: int) -> int:
    """Return a number of 64 bits as SQLite stores it: with a sign. Some file systems have inode numbers above 2^63."""
    return value - 2**64 if value >= 2**63 else value


def _unsigned(value: int) -> int:
    return value + 2**64 if value < 0 else value


def fields_of(project: Project) -> str:
    """Return a project as JSON."""
    found = asdict(project)
    found["path"] = to_text(project.path)
    return json.dumps(found, default=_plain)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def project_of(text: str) -> Project:
    """Return the project of a JSON text; ignore keys that this version of the code does not know."""
    known = {one.name for one in fields(Project)}
    found: dict[str, Any] = {name: value for name, value in json.loads(text).items() if name in known}
    for name in ("id", "user_id"):
        found[name] = UUID(found[name])
    for name in ("created_at", "updated_at"):
        found[name] = datetime.fromisoformat(found[name])
    return Project(**found)
