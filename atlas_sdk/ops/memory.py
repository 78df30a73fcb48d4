"""Record and list versions of memory files."""

import stat
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from attrs import define, field

from atlas_sdk._plan import Plan, local, many
from atlas_sdk._plan import context as client_context
from atlas_sdk._sql import statements
from atlas_sdk.errors import AtlasError, FileProblem, InvalidInput, QuotaExceeded
from atlas_sdk.files import (
    FileState,
    Root,
    Skipped,
    Tracking,
    entry,
    is_gone,
    named,
    pin,
    read_file,
    relative_path,
    to_text,
)
from atlas_sdk.files.problems import not_a_regular_file
from atlas_sdk.model.blobs import sha256_of
from atlas_sdk.model.memory import Capture, Snapshot
from atlas_sdk.model.projects import Project
from atlas_sdk.ops import memory_usage, projects
from atlas_sdk.ops.append import append, append_deletion
from atlas_sdk.ops.append_many import MOST_BYTES, MOST_VERSIONS, append_many
from atlas_sdk.ops.delivery import deliver_first
from atlas_sdk.ops.new_version import KINDS, PATH_BYTES, Incoming, NewVersion, Refused
from atlas_sdk.text import quoted

__all__ = ["BY_NAME", "capture", "delete", "files", "heads", "history", "incoming", "snapshot"]

sql = statements("memory")

#: The largest permission bits.
_MODES = 0o777
#: The default rules, for content that does not come from a folder: only the file's name decides the kind.
BY_NAME = Tracking()


def snapshot(
    project: Project,
    path: str | PathLike[str],
    content: bytes | FileState | None = None,
    *,
    kind: str | None = None,
    mode: int | None = None,
    context: Mapping[str, object] | None = None,
) -> Plan[Snapshot | None]:
    """Append a version of a memory file; return None when nothing changed.

    Without `content` the call reads the file from the project's folder, and records a missing file as deleted. Content
    equal to the newest version costs one small read from the server; on the embedded server it costs none if the last
    read was less than a second ago. `kind` defaults to `claude_md` or `scratch`, by the file's name; maintenance may
    prune versions of kind `auto`. Content given as bytes may have up to 8 MiB; `mode` is the file's permission bits.
    `context` is a JSON object to store with the version. Several writers may write one file at once: every version is
    stored, in the order of commit. Raises NotFound for a file that never existed, FileProblem for a file that cannot be
    read, QuotaExceeded for new content above a hard memory limit.
    """
    name = relative_path(Path(project.path), path)
    if mode is not None and (not isinstance(content, bytes) or not 0 <= mode <= _MODES):
        raise InvalidInput("mode must be 0 to 0o777, and needs content as bytes: a file has its own mode", field="mode")
    if len(to_text(name).encode()) > PATH_BYTES:
        raise InvalidInput(f"a path must have at most {PATH_BYTES:,} bytes", field="path")
    if kind is not None and kind not in KINDS:
        raise InvalidInput(f"kind must be one of {', '.join(KINDS)}, not {quoted(kind)}", field="kind")
    yield from deliver_first(project)
    if isinstance(content, FileState):
        return (yield from append(project, content, kind=kind or BY_NAME.kind(name), extra=context))
    if content is not None:
        given = incoming(name, content, mode=mode, limit_bytes=BY_NAME.limit_bytes)
        return (yield from append(project, given, kind=kind or BY_NAME.kind(name), extra=context))
    root = yield from local(pin, Path(project.path))
    tracking = yield from local(Tracking.load, root)
    state = yield from local(read_file, root, name, limit_bytes=tracking.limit_bytes)
    kind = kind or tracking.kind(name)
    if state is None:
        return (yield from append_deletion(project, name, kind=kind))
    return (yield from append(project, state, kind=kind, extra=context))


def incoming(path: str, content: bytes, *, mode: int | None, limit_bytes: int) -> Incoming:
    """Return content given as bytes; without the content itself if that is over the size limit."""
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InvalidInput(f"content must be bytes, not {type(content).__name__}: encode it first", field="content")
    raw = bytes(content)
    return Incoming(
        path=path,
        content=raw if len(raw) <= limit_bytes else None,
        sha256=sha256_of(raw),
        size=len(raw),
        mode=-1 if mode is None else mode,
    )


def delete(project: Project, path: str | PathLike[str], *, kind: str = "auto") -> Plan[Snapshot | None]:
    """Record that a file was deleted; return None when the deletion is recorded already. The file's versions stay.

    Raises NotFound for a file that never existed.
    """
    yield from deliver_first(project)
    return (yield from append_deletion(project, relative_path(Path(project.path), path), kind=kind))


def capture(project: Project, *, kind: str | None = None) -> Plan[Capture]:
    """Record the present state of the project's folder: a version of every changed file, and every deletion.

    A file that cannot be read, or that a hard memory limit refuses, is reported in `skipped` and does not stop the
    others. A file whose place a folder or a special file took counts as deleted. Raises FileProblem when the folder
    itself is missing: a folder that is not mounted must not look like a deletion of all files.
    """
    yield from deliver_first(project)
    root = yield from local(pin, Path(project.path))
    tracking = yield from local(Tracking.load, root)
    scan = yield from local(tracking.scan, root)
    known = {version.path: version for version in (yield from files(project))}
    changes = _Changes(skipped=list(scan.skipped))
    for path in scan.paths:
        try:
            state = yield from local(read_file, root, path, limit_bytes=tracking.limit_bytes)
        except AtlasError as problem:
            changes.skipped.append(Skipped(path=path, reason=str(problem)))
            continue
        if state is not None and not _is_version(state, known.get(path)):
            new = NewVersion.of(project, state, kind=kind or tracking.kind(path))
            yield from changes.add(new)
    recorded = [path for path, version in known.items() if not version.deleted]
    untracked: list[str] = []
    for path in sorted(set(recorded) - set(scan.paths)):
        gone = yield from _look_for(root, path, changes.skipped)
        if gone:
            kind_of_file = kind or tracking.kind(path)
            deletion = NewVersion(user_id=project.user_id, project_id=project.id, path=path, kind=kind_of_file)
            yield from changes.add(deletion)
        elif gone is False and scan.untracks(path):
            untracked.append(path)
    yield from changes.append()
    if changes.taken:
        yield from projects.remember_memory(project)
        yield from memory_usage.tell(project.user_id)
    return Capture(
        taken=tuple(changes.taken),
        skipped=tuple((entry.path, entry.reason) for entry in changes.skipped),
        untracked=tuple(untracked),
        lookalikes=tuple((entry.path, entry.reason) for entry in scan.lookalikes),
    )


def _look_for(root: Root, path: str, skipped: list[Skipped]) -> Plan[bool | None]:
    """Return whether a recorded file is gone; None if the call cannot tell. `skipped` gets what is odd at its path."""
    reported = any(one.path == path for one in skipped)
    try:
        gone = yield from local(is_gone, root, path)
        there = (yield from local(entry, root, path)) if gone and not reported else None
    except FileProblem as problem:
        if not reported:
            skipped.append(Skipped(path=path, reason=str(problem)))
        return None
    if there is not None and not stat.S_ISDIR(there.st_mode) and not stat.S_ISLNK(there.st_mode):
        skipped.append(Skipped(path=path, reason=str(not_a_regular_file(path, there.st_mode))))
    return gone


@define(kw_only=True)
class _Changes:
    """The changes that `capture` finds, appended batch by batch, so that not all contents are in memory at once."""

    skipped: list[Skipped]
    taken: list[Snapshot] = field(factory=list)
    _news: list[NewVersion] = field(factory=list)
    _bytes: int = 0

    def add(self, new: NewVersion) -> Plan[None]:
        self._news.append(new)
        self._bytes += len(new.content or b"")
        if len(self._news) >= MOST_VERSIONS or self._bytes >= MOST_BYTES:
            yield from self.append()

    def append(self) -> Plan[None]:
        news, self._news, self._bytes = self._news, [], 0
        for new, made in zip(news, (yield from append_many(news)), strict=True):
            if isinstance(made, Snapshot):
                self.taken.append(made)
            elif isinstance(made, Refused):
                if not isinstance(made.problem, QuotaExceeded):
                    raise made.problem
                self.skipped.append(Skipped(path=new.path, reason=f"{named(new.path)}: {made.problem}"))


def _is_version(state: FileState, version: Snapshot | None) -> bool:
    if version is None or (version.kept is False and state.content is not None):
        return False
    return (version.sha256, version.mode, version.link) == (state.sha256.hex(), state.mode, state.link)


def files(project: Project) -> Plan[list[Snapshot]]:
    """Return the newest version of every file that a project ever had, in the order of their paths.

    Check `deleted`: the list includes deleted files.
    """
    return (yield from many(sql["files"], Snapshot, user_id=project.user_id, project_id=project.id))


def heads(projects: Sequence[Project]) -> Plan[list[Snapshot]]:
    """Return the newest version of every file of many projects, by one question to the database.

    The versions of one project are in the order of their paths, as `files` returns them, with deleted files.
    """
    ctx = yield from client_context()
    for user_id in {project.user_id for project in projects}:
        ctx.require_tenant(user_id)
    ids = [project.id for project in projects]
    return (
        yield from many(
            sql["files_of_projects"], Snapshot, user_ids=[project.user_id for project in projects], project_ids=ids
        )
    )


def history(
    project: Project, path: str | PathLike[str] | None = None, *, limit: int = 50, before: Snapshot | None = None
) -> Plan[list[Snapshot]]:
    """Return the versions of one file, or of the whole project, newest first.

    A version appears once more for each checkpoint that names it, with the checkpoint's name. Pass the last version of
    a page as `before` to get the next page.
    """
    keys = {"user_id": project.user_id, "project_id": project.id, "limit": limit}
    if limit < 1:
        raise InvalidInput(f"limit must be at least 1, not {limit}", field="limit")
    before_id = None if before is None else before.id
    if path is None:
        return (yield from many(sql["history_of_project"], Snapshot, before_id=before_id, **keys))
    name = to_text(relative_path(Path(project.path), path))
    below: dict[str, object] = {"before_seq": None, "before_kind": None}
    if before is not None:
        below = {"before_seq": before.seq, "before_kind": before.kind}
    return (yield from many(sql["history_of_file"], Snapshot, path=name, before_id=before_id, **below, **keys))
