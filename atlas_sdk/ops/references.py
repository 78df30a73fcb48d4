"""Resolve references, the names that people use for versions.

- `latest`, or nothing: the newest version of every file
- a checkpoint's name: every file as it was at the checkpoint
- `@{2h ago}`, `@{yesterday}`, `@{2026-11-22 10:00}`: every file as it was at that moment
- the first characters of a version's id (at least 4): that version of its file
- `CLAUDE.md@before-refactor`: one file, at any of the references above
"""

import re
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from uuid import UUID

from atlas_sdk._plan import Plan, many, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import AmbiguousReference, InvalidInput, NotFound
from atlas_sdk.files import named, relative_path, to_text
from atlas_sdk.model.memory import Snapshot, VersionSet
from atlas_sdk.model.projects import Project
from atlas_sdk.names import is_checkpoint_name, is_reserved
from atlas_sdk.ops.contents import blob_content
from atlas_sdk.text import quoted

__all__ = ["content", "project_keys", "read", "resolve", "version"]

sql = statements("memory")

_AGO = re.compile(r"(?P<count>\d{1,6})\s*(?P<unit>[smhdw]|min|(?:second|minute|hour|day|week)s?)(?:\s+ago)?")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MOMENT = re.compile(r"@\{(?P<when>[^}]*)\}")
_HEX_DIGITS = 32
_SHORTEST_PREFIX = 4
#: The longest reference: a path of PATH_MAX bytes, "@", and the name of a checkpoint.
_LENGTH_MAX = 4_300
#: The most "@" in a reference. Each may end the path, so each costs a query.
_SIGNS_MAX = 32


def _moment(when: str, now: datetime) -> datetime:
    """Return the time for "2h ago", "yesterday" or an ISO date; a date without an offset is in the local time zone."""
    # Count in UTC: when the clocks of the session's time zone change, an hour by the clock can be two hours or none.
    now = now.astimezone(UTC)
    text = when.strip().lower()
    if text in {"now", "yesterday"}:
        return now - timedelta(days=text == "yesterday")
    if (ago := _AGO.fullmatch(text)) is not None:
        text = ""
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago["unit"][0]]: int(ago["count"])})
        return datetime.fromisoformat(when.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"@{{{named(when)}}} is not a time I understand: "
            "write @{2h ago}, @{yesterday} or @{2026-11-22 10:00}",
            field="reference",
        ) from None


def _id_range(prefix: str) -> tuple[UUID, UUID] | None:
    digits = prefix.replace("-", "").lower()
    if not _SHORTEST_PREFIX <= len(digits) <= _HEX_DIGITS or re.fullmatch("[0-9a-f]+", digits) is None:
        return None
    return UUID(digits.ljust(_HEX_DIGITS, "0")), UUID(digits.ljust(_HEX_DIGITS, "f"))


def _splits(reference: str) -> list[tuple[str, str]]:
    """Return every way to read a reference as `PATH@REF`, from the left: both parts may contain an "@"."""
    moment = _MOMENT.search(reference)
    if moment is not None and moment.end() != len(reference):
        raise InvalidInput(f"{quoted(reference)}: nothing may follow the moment in braces", field="reference")
    if moment is not None:
        return [(reference[: moment.start()], reference[moment.start() :])] if moment.start() else []
    signs = [at for at, character in enumerate(reference) if character == "@" and at]
    if len(signs) > _SIGNS_MAX:
        raise InvalidInput(f"{quoted(reference)} has more than {_SIGNS_MAX} times an @", field="reference")
    return [(reference[:at], reference[at + 1 :]) for at in signs]


def resolve(project: Project, reference: str = "latest") -> Plan[VersionSet]:
    """Return the versions that a reference names, one per file.

    Raises NotFound, AmbiguousReference, InvalidInput.
    """
    if len(reference) > _LENGTH_MAX:
        raise InvalidInput(f"{quoted(reference)} is longer than {_LENGTH_MAX:,} characters", field="reference")
    if (found := (yield from _checkpoint(project, reference))) is not None:
        return found
    splits = _splits(reference)
    for path, rest in splits:
        if (found := (yield from _checkpoint(project, rest))) is not None:
            return _of_file(found, _relative(project, path), reference)
    if not splits:
        return (yield from _resolve(project, reference, None))
    path, rest = splits[-1]
    name = _relative(project, path)
    return _of_file((yield from _resolve(project, rest, name)), name, reference)


def project_keys(project: Project) -> dict[str, UUID]:
    """Return the parameters that every statement about a project needs."""
    return {"user_id": project.user_id, "project_id": project.id}


def _relative(project: Project, path: str) -> str:
    return relative_path(Path(project.path), path)


def _of_file(found: VersionSet, path: str, reference: str) -> VersionSet:
    versions = tuple(version for version in found.versions if version.path == path)
    if not versions:
        raise NotFound(f"{named(path)} did not exist at {quoted(found.reference)}", kind="version", name=reference)
    return VersionSet(reference=reference, versions=versions, whole=False)


def _resolve(project: Project, reference: str, path: str | None) -> Plan[VersionSet]:
    """Resolve a reference that is not a checkpoint; `path` is the only file that the caller wants, None all files."""
    keys = project_keys(project)
    if reference in {"", "latest"}:
        return _living("latest", (yield from many(sql["files"], Snapshot, **keys)))
    if (moment := _MOMENT.fullmatch(reference)) is not None:
        now = yield from scalar(statements("schema")["now"], datetime)
        return _living(
            reference, (yield from many(sql["files_at"], Snapshot, moment=_moment(moment["when"], now), **keys))
        )
    if (ids := _id_range(reference)) is not None:
        wanted = None if path is None else to_text(path)
        rows = yield from many(sql["by_id_range"], Snapshot, low=ids[0], high=ids[1], path=wanted, **keys)
        if len(rows) > 1:
            raise AmbiguousReference(reference, tuple(f"{row.id} ({row.path})" for row in rows))
        if rows:
            return VersionSet(reference=reference, versions=tuple(rows), whole=False)
    raise NotFound(
        f"no checkpoint or version of {project.name} is called {quoted(reference)}", kind="version", name=reference
    )


def _living(reference: str, rows: list[Snapshot]) -> VersionSet:
    return VersionSet(reference=reference, versions=tuple(row for row in rows if not row.deleted), whole=True)


def _checkpoint(project: Project, name: str) -> Plan[VersionSet | None]:
    if is_reserved(name) or not is_checkpoint_name(name):
        return None
    keys = project_keys(project)
    if not (yield from scalar(statements("checkpoints")["exists"], bool, name=name, **keys)):
        return None
    rows = yield from many(sql["files_of_checkpoint"], Snapshot, name=name, **keys)
    return VersionSet(reference=name, versions=tuple(rows), whole=True)


def version(project: Project, path: str | PathLike[str], reference: str = "latest") -> Plan[Snapshot]:
    """Return the version of one file that a reference names. Raises NotFound, also when that version is a deletion."""
    name = relative_path(Path(project.path), path)
    found = (yield from resolve(project, reference)).by_path().get(name)
    if found is not None and not found.deleted:
        return found
    raise NotFound(f"{named(name)} did not exist at {quoted(reference)}", kind="version", name=reference)


def read(project: Project, path: str | PathLike[str], reference: str = "latest") -> Plan[bytes]:
    """Return the content of one file at a reference, after checking its SHA-256.

    Raises NotFound, ContentMissing (over the size limit: only its hash was stored), IntegrityFailure.
    """
    found = yield from version(project, path, reference)
    return (yield from content(found))


def content(found: Snapshot) -> Plan[bytes]:
    """Return the content of a version, after checking its SHA-256; b"" for a deletion."""
    if found.sha256 is None:
        return b""
    return (yield from blob_content(found.user_id, bytes.fromhex(found.sha256), path=found.path))
