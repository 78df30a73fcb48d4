"""Capture a project's folder into the journal, while the database is away."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from atlas_sdk.actor import new_id
from atlas_sdk.errors import AlreadyExists, AtlasError, FileProblem
from atlas_sdk.files import FileState, Root, Tracking, pin, read_file, relative_path, signature
from atlas_sdk.journal.records import KnownHead, Record
from atlas_sdk.journal.store import Journal
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.model.projects import Project
from atlas_sdk.names import checkpoint_name
from atlas_sdk.text import quoted

__all__ = ["LocalCapture", "capture"]


@frozen(kw_only=True)
class LocalCapture:
    """The result of a capture into the journal."""

    #: The records that were appended; a checkpoint is the last of them.
    records: tuple[Record, ...]
    #: Path and reason of every entry that could not be read or must not be followed.
    skipped: tuple[tuple[str, str], ...]
    #: The number of files that were looked at and exist.
    files: int


def capture(
    journal: Journal,
    project: Project,
    *,
    attribution: Attribution,
    paths: Iterable[str] = (),
    checkpoint: str | None = None,
    note: str | None = None,
) -> LocalCapture:
    """Append the present state of a project's folder to the journal, in one transaction, durable when it returns.

    `paths` captures these files alone, also untracked ones. A file whose newest version is in the journal is left out,
    but not one whose newest version may be in the database: another client may have written since. The delivery leaves
    out what is there. `checkpoint` names the state of all files. Raises AlreadyExists if a checkpoint in the journal
    has this name, FileProblem when the folder cannot be read, JournalProblem when the journal cannot take it.
    """
    if checkpoint is not None:
        _check_name(journal, project, checkpoint)
    found = _Folder(journal, project, attribution)
    chosen = [relative_path(found.root.path, path) for path in paths]
    for path in chosen:
        found.look(path, given=True)
    if not chosen:
        found.look_at_all()
    if checkpoint is not None:
        extra = None if note is None else {"note": note}
        found.add("checkpoint", "", kind="checkpoint", name=checkpoint, context=extra)
    if found.records:
        journal.append(found.records, {project.id: found.heads})
    return LocalCapture(records=tuple(found.records), skipped=tuple(found.skipped), files=found.files)


def _check_name(journal: Journal, project: Project, name: str) -> None:
    checkpoint_name(name)
    if name in journal.checkpoints(project.id):
        raise AlreadyExists(
            f"{project.name} has a checkpoint {quoted(name)} already, which is not in the database yet",
            kind="checkpoint",
            name=name,
        )


class _Folder:
    """One look at a project's folder."""

    def __init__(self, journal: Journal, project: Project, attribution: Attribution) -> None:
        self.project = project
        self.attribution = attribution
        self.root: Root = pin(Path(project.path))
        self.tracking = Tracking.load(self.root)
        self.known = {head.path: head for head in journal.heads(project.id).get(project.id, ())}
        self.pending = {one.path: one for one in journal.files(project.id)}
        self.records: list[Record] = []
        self.heads: list[KnownHead] = []
        self.skipped: list[tuple[str, str]] = []
        self.files = 0

    def look_at_all(self) -> None:
        scan = self.tracking.scan(self.root)
        self.skipped = [(entry.path, entry.reason) for entry in scan.skipped]
        for path in scan.paths:
            self.look(path)
        for path in self._unseen({*scan.paths, *(path for path, _ in self.skipped)}):
            try:
                there = signature(self.root, path)
            except FileProblem as problem:
                self.skipped.append((path, str(problem)))
                continue
            if there is None:
                self._deleted(path)

    def _unseen(self, seen: set[str]) -> Iterator[str]:
        yield from sorted(path for path, head in self.known.items() if head.sha256 is not None and path not in seen)

    def look(self, path: str, *, given: bool = False) -> None:
        """Add the version of a file, if it is new. A `given` file that is missing was deleted."""
        try:
            state = read_file(self.root, path, limit_bytes=self.tracking.limit_bytes)
        except AtlasError as problem:
            self.skipped.append((path, str(problem)))
            return
        if state is None:
            if given:
                self._deleted(path)
            return
        self.files += 1
        head, pending = self.known.get(path), self.pending.get(path)
        if head is None or pending is None or pending.sha256 != state.sha256 or not _is_known(state, head):
            self._version(path, state)

    def _version(self, path: str, state: FileState) -> None:
        made = self.add(
            "version",
            path,
            kind=self.tracking.kind(path),
            content=state.content,
            sha256=state.sha256,
            size=state.size,
            mode=state.mode,
            link=state.link,
            folder_modes=state.folder_modes,
            context={"torn": True} if state.torn else None,
        )
        self._know(made, kept=state.content is not None)

    def _deleted(self, path: str) -> None:
        pending = self.pending.get(path)
        if pending is None or pending.sha256 is not None:
            self._know(self.add("deletion", path, kind=self.tracking.kind(path)), kept=True)

    def add(self, op: Any, path: str, **fields: Any) -> Record:
        made = Record(
            id=new_id(),
            user_id=self.project.user_id,
            project_id=self.project.id,
            op=op,
            path=path,
            attribution=self.attribution,
            captured_at=datetime.now(UTC),
            **fields,
        )
        self.records.append(made)
        return made

    def _know(self, made: Record, *, kept: bool) -> None:
        # Without a signature: the file may have changed within one tick of its clock.
        self.heads.append(
            KnownHead(
                path=made.path,
                sha256=made.sha256,
                mode=made.mode,
                link=made.link,
                kept=kept,
                captured_at=made.captured_at,
            )
        )


def _is_known(state: FileState, head: KnownHead) -> bool:
    if state.content is not None and not head.kept:
        # Only the hash is kept, because the file was over the size limit. The content can be stored now.
        return False
    return (state.sha256, state.mode, state.link) == (head.sha256, head.mode, head.link)
