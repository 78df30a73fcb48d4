"""Read one file and store its content."""

import time
from datetime import UTC, datetime

from attrs import frozen

from atlas_sdk import Atlas, NotFound, Snapshot
from atlas_sdk.files import FileState, Signature, read_file
from watcher.captures import CaptureLog
from watcher.debounce import ChangeKind
from watcher.folder import Folder, Known

#: If a program writes a file twice within one tick of the file system's clock, `stat` is the same after both writes.
#: FAT has the coarsest clock, two seconds. If a file was younger than this when the daemon read it, a later scan reads
#: the file once more (git calls such a file "racy").
_COARSEST_NS = 2_000_000_000


@frozen(kw_only=True)
class Captured:
    """The result of looking at a file, for the worker."""

    #: True when there is a new version.
    stored: bool = False
    deleted: bool = False
    #: If set, the worker must look at the file again, after the waiting time for this kind of change.
    again: ChangeKind | None = None
    #: True when the new version may name other files: imports, or the target of a symlink.
    leads: bool = False


def capture(folder: Folder, path: str, atlas: Atlas, *, change: ChangeKind, log: CaptureLog) -> Captured:
    """Store the file as it is now, and update `folder.known` after the database has answered.

    After an event, the database compares the hash. After a scan, the function first compares the file with its entry in
    `folder.known`, unless the entry may be wrong (`folder.stale`), and if they are equal, it does not ask the database.
    Raises FileProblem for a file that cannot be read, and the errors of the database.
    """
    state = read_file(folder.pinned, path, limit_bytes=folder.tracking.limit_bytes)
    if state is None:
        return _vanished(folder, path, atlas, change=change, log=log)
    known = folder.known.get(path)
    comparable = change is ChangeKind.FOUND and path not in folder.stale and not state.torn
    if comparable and known is not None and _is_known(state, known):
        folder.known[path] = _known(state, known.protected_since)
        return Captured()
    context = {"torn": True} if state.torn else None
    made = atlas.memory.snapshot(folder.project, path, state, kind="auto", context=context)
    if made is not None:
        since = made.created_at
        _tell(log, folder, made, known, size=made.size)
    else:
        since = known.protected_since if known is not None and _is_known(state, known) else datetime.now(UTC)
    folder.known[path] = _known(state, since)
    folder.stale.discard(path)
    return Captured(
        stored=made is not None,
        again=ChangeKind.CHANGED if state.torn else None,
        leads=made is not None and (state.link is not None or _may_import(folder, state)),
    )


def _tell(log: CaptureLog, folder: Folder, made: Snapshot, known: Known | None, *, size: int | None) -> None:
    log.tell(
        folder.project,
        made.path,
        at=made.created_at,
        kind=folder.tracking.kind(made.path),
        size=size,
        is_new=known is None,
        known_size=None if known is None or known.signature is None else known.signature.size,
        version=made.id,
    )


def _vanished(folder: Folder, path: str, atlas: Atlas, *, change: ChangeKind, log: CaptureLog) -> Captured:
    if change is not ChangeKind.VANISHED:
        # The file existed at the time of the change. Wait, because its writer may put it back.
        return Captured(again=ChangeKind.VANISHED)
    try:
        made = atlas.memory.delete(folder.project, path, kind="auto")
    except NotFound:
        # The file was made and deleted before the daemon read it, so it has no version.
        made = None
    known = folder.known.pop(path, None)
    if made is not None:
        _tell(log, folder, made, known, size=None)
    folder.stale.discard(path)
    return Captured(deleted=made is not None)


def _may_import(folder: Folder, state: FileState) -> bool:
    return b"@" in (state.content or b"") and folder.tracking.kind(state.path) == "claude_md"


def _is_known(state: FileState, known: Known) -> bool:
    return (state.sha256.hex(), state.mode, state.link) == (known.sha256, known.mode, known.link)


def _known(state: FileState, since: datetime) -> Known:
    return Known(
        signature=None if state.torn else trusted(state.signature, now_ns=time.time_ns()),
        sha256=state.sha256.hex(),
        mode=state.mode,
        link=state.link,
        protected_since=since,
    )


def trusted(found: Signature, *, now_ns: int) -> Signature | None:
    """Return the signature of a file; None if the file has changed too recently to rely on it.

    Two writes within one tick of the file system's clock can leave the same signature. The time of the last change is
    `ctime`, because a program cannot set it.
    """
    return found if now_ns - found.ctime_ns > _COARSEST_NS else None
