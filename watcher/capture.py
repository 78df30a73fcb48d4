"""Read one file, and decide what the journal must record."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk import Attribution, FileProblem
from atlas_sdk.files import FileState, Signature, is_gone, read_file, trace
from atlas_sdk.journal import KnownHead, Record
from watcher.debounce import ChangeKind
from watcher.folder import Folder, is_recent


@frozen(kw_only=True)
class Look:
    """The result of looking at a file. The worker applies it after the journal has the record."""

    path: str
    #: The record for the journal; None when there is nothing new.
    record: Record | None = None
    #: The new entry of the file in `folder.known`; None when the entry stays.
    head: KnownHead | None = None
    #: If set, the worker must look at the file again, after the waiting time for this kind of change.
    again: ChangeKind | None = None
    #: True when the new version may concern other files: imports, the target of a symlink, other names of the file.
    leads: bool = False
    #: True when an event was about this file, and the content is the known one. Another program may have stored another
    #: version and put the known content back, so the daemon must compare the file with the database.
    doubtful: bool = False

    @property
    def size(self) -> int:
        """Return the size of the content to append, in bytes."""
        content = None if self.record is None else self.record.content
        return 0 if content is None else len(content)


class Reader:
    """A reader of changed files. It makes the records, with the identity of this daemon."""

    def __init__(self, attribution: Attribution, new_id: Callable[[], UUID]) -> None:
        self._attribution = attribution
        self._new_id = new_id

    def look(self, folder: Folder, path: str, *, change: ChangeKind) -> Look:
        """Read a file, and compare it with `folder.known`, unless the entry may be wrong (`folder.stale`).

        Raises FileProblem for a file that cannot be read.
        """
        known = folder.known.get(path)
        stale = path in folder.stale
        try:
            state = read_file(folder.pinned, path, limit_bytes=folder.tracking.limit_bytes)
        except FileProblem:
            if (known is None and not stale) or not is_gone(folder.pinned, path):
                raise
            # A folder or a special file took the place of a recorded file. Record a deletion; a scan reports the rest.
            if change is not ChangeKind.VANISHED:
                return Look(path=path, again=ChangeKind.VANISHED)
            return evolve(self._deletion(folder, path, known), leads=True)
        if state is None:
            if change is not ChangeKind.VANISHED:
                # The file existed at the time of the change. Wait, because its writer may put it back.
                return Look(path=path, again=ChangeKind.VANISHED)
            # A file that was made and deleted before the daemon read it has no version.
            return self._deletion(folder, path, known) if known is not None or stale else Look(path=path)
        if state.link is not None and not _may_lead(folder, path):
            # The symlink was changed after the scan. The next scan reports it as a file that is not tracked.
            return Look(path=path)
        if known is not None and not stale and not state.torn and _is_known(state, known):
            found = trusted(state.signature, now_ns=time.time_ns())
            head = evolve(known, signature=found) if found != known.signature else None
            return Look(path=path, head=head, doubtful=change is not ChangeKind.FOUND)
        return self._version(folder, state, known)

    def _version(self, folder: Folder, state: FileState, known: KnownHead | None) -> Look:
        now = datetime.now(UTC)
        record = Record(
            id=self._new_id(),
            user_id=folder.project.user_id,
            project_id=folder.id,
            op="version",
            path=state.path,
            content=state.content,
            sha256=state.sha256,
            size=state.size,
            mode=state.mode,
            link=state.link,
            folder_modes=state.folder_modes,
            kind="auto",
            context={"torn": True} if state.torn else None,
            attribution=self._attribution,
            captured_at=now,
        )
        same = known is not None and _is_known(state, known)
        head = KnownHead(
            path=state.path,
            sha256=state.sha256,
            mode=state.mode,
            link=state.link,
            kept=state.content is not None,
            captured_at=known.captured_at if known is not None and same else now,
            signature=None if state.torn else trusted(state.signature, now_ns=time.time_ns()),
        )
        return Look(
            path=state.path,
            record=record,
            head=head,
            again=ChangeKind.CHANGED if state.torn else None,
            leads=not same and (state.link is not None or state.names > 1 or _may_import(folder, state)),
        )

    def _deletion(self, folder: Folder, path: str, known: KnownHead | None) -> Look:
        now = datetime.now(UTC)
        record = Record(
            id=self._new_id(),
            user_id=folder.project.user_id,
            project_id=folder.id,
            op="deletion",
            path=path,
            kind="auto",
            attribution=self._attribution,
            captured_at=now,
        )
        mode = -1 if known is None else known.mode
        head = KnownHead(path=path, sha256=None, mode=mode, link=None, kept=True, captured_at=now, signature=None)
        return Look(path=path, record=record, head=head)


def _may_lead(folder: Folder, path: str) -> bool:
    """Return whether the file that a symlink leads to now may be kept: an event can come before the next scan."""
    return folder.tracking.may_lead(path, trace(folder.pinned, path).path)


def _may_import(folder: Folder, state: FileState) -> bool:
    return b"@" in (state.content or b"") and folder.tracking.kind(state.path) == "claude_md"


def _is_known(state: FileState, known: KnownHead) -> bool:
    if state.content is not None and not known.kept:
        # The file was over the size limit, so only its hash is stored. Its content can be stored now.
        return False
    return (state.sha256, state.mode, state.link) == (known.sha256, known.mode, known.link)


def trusted(found: Signature, *, now_ns: int) -> Signature | None:
    """Return the signature of a file; None if the file has changed too recently to rely on it.

    Two writes within one tick of the file system's clock can leave the same signature. The time of the last change is
    `ctime`, because a program cannot set it.
    """
    return None if is_recent(found.ctime_ns, now_ns) else found
