"""A canary: a file that goes the whole way from the disk to the database, with the time of each step."""

import fcntl
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from attrs import frozen

from atlas_sdk import AtlasError, NotFound
from atlas_sdk.home import open_private_file, prepare_home, private_folder, replace_private_file

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project, User
    from atlas_sdk.journal import Journal
    from watcher.status import Status

#: The contents are always the same, so that all canaries together leave two contents of 20 bytes to the maintenance.
_CONTENTS: Final = (b"# Canary: the first\n", b"# Canary: the second\n")
_FILE: Final = "CLAUDE.md"
#: Seconds between two looks. A capture takes some milliseconds.
_LOOK_S: Final = 0.01
#: Seconds to wait until the watcher has dropped the project, before its folder is removed: else it logs a lost folder.
_DROP_S: Final = 5.0


@frozen(kw_only=True)
class CanaryStep:
    """A step of the canary."""

    name: str
    #: The duration in seconds; None if the step did not come in time.
    seconds: float | None
    detail: str
    fix: tuple[str, ...] = ()


class Busy(Exception):
    """The error when another canary of this home runs."""


class Canary:
    """The canary of one home. It removes its project and its folder, also those of a canary that was killed.

    What stays is the audit trail, which nothing removes but its own maintenance.
    """

    def __init__(
        self,
        atlas: "Atlas",
        user: "User",
        home: Path,
        *,
        status: "Callable[[], Status | None]",
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._atlas = atlas
        self._user = user
        self._home = prepare_home(home)
        self._status = status
        self._patience_s = patience_s
        self._clock = clock
        self._pause = threading.Event()
        self._folder = private_folder(self._home / "doctor")

    def run(self) -> Iterator[CanaryStep]:
        """Yield the steps, up to the first that does not come. Raises Busy, AtlasError."""
        with self._alone():
            self._clean_up()
            name = secrets.token_hex(4)
            folder = private_folder(self._folder / f"canary-{name}")
            note = self._folder / f"canary-{name}.project"
            try:
                yield from self._steps(folder, note)
            finally:
                # Also after ^C, and if the caller stops in the middle.
                began = self._clock()
                self._remove(folder, note)
            yield CanaryStep(
                name="remove", seconds=self._clock() - began, detail="project, versions and folder are gone"
            )

    def _steps(self, folder: Path, note: Path) -> Iterator[CanaryStep]:
        from atlas_sdk.journal import Journal

        began = self._clock()
        project = self._atlas.projects.create(self._user, path=folder, name=f"atlas-{folder.name}")
        # From now on, a canary that follows a kill finds the project.
        replace_private_file(note, str(project.id))
        yield CanaryStep(name="register", seconds=self._clock() - began, detail="the project is in the database")
        first, second = _CONTENTS
        began = self._clock()
        _write(folder / _FILE, first)
        took = self._until(lambda: self._is_stored(project, first), began)
        yield self._step("watch", took, "the watcher found the new project", "the watcher does not find a new project")
        if took is None:
            return
        began = self._clock()
        _write(folder / _FILE, second)
        journal = Journal.existing(self._home)
        if journal is not None:
            with journal:
                took = self._until(lambda: _is_saved(journal, project.id, second), began)
            yield self._step(
                "journal", took, "the change is in the journal of this machine", "the watcher does not see a change"
            )
            if took is None:
                return
        took = self._until(lambda: self._is_stored(project, second), began)
        yield self._step("database", took, "the change is in the database", "the change does not reach the database")
        if took is None:
            return
        began = self._clock()
        is_same = self._atlas.memory.read(project, _FILE) == second
        yield CanaryStep(
            name="read",
            seconds=self._clock() - began if is_same else None,
            detail="it reads back byte for byte" if is_same else "it reads back with another content",
            fix=() if is_same else ("atlasctl verify",),
        )

    def _is_stored(self, project: "Project", content: bytes) -> bool:
        found = self._atlas.memory.history(project, _FILE, limit=1)
        return bool(found) and found[0].sha256 == hashlib.sha256(content).hexdigest()

    def _until(self, condition: Callable[[], bool], began: float) -> float | None:
        while not condition():
            if self._clock() - began > self._patience_s:
                return None
            self._pause.wait(_LOOK_S)
        return self._clock() - began

    def _step(self, name: str, took: float | None, came: str, missing: str) -> CanaryStep:
        if took is not None:
            return CanaryStep(name=name, seconds=took, detail=came)
        status = self._status()
        fix = ["atlasctl service logs", "atlasctl service restart    # or stop and start atlasctl watch"]
        why = ""
        if status is None:
            why, fix = "; no watcher runs any more", ["atlasctl service start"]
        elif status.journal.problem is not None:
            why = f"; {status.journal.problem}"
        elif status.database.problem is not None:
            why, fix = f"; {status.database.problem}", ["atlasctl db doctor"]
        elif name == "watch":
            why = "; it may use another database: compare its --dsn or ATLAS_DATABASE_URL with yours"
        return CanaryStep(
            name=name, seconds=None, detail=f"{missing} within {self._patience_s:g} s{why}", fix=tuple(fix)
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = open_private_file(self._folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy from None
            yield
        finally:
            os.close(descriptor)

    def _clean_up(self) -> None:
        """Remove what canaries have left that were killed: nobody else works in this folder now."""
        for note in self._folder.glob("canary-*.project"):
            self._remove(note.with_suffix(""), note)
        for folder in self._folder.glob("canary-*"):
            # It was killed before it had written the note.
            self._remove(folder, folder.with_name(f"{folder.name}.project"))

    def _remove(self, folder: Path, note: Path) -> None:
        project = self._project(folder, note)
        if project is not None:
            self._atlas.projects.delete(project)
            began = self._clock()
            while self._is_watched(project.id) and self._clock() - began < _DROP_S:
                self._pause.wait(_LOOK_S * 10)
        if folder.is_dir():
            shutil.rmtree(folder)
        if project is not None:
            self._atlas.projects.purge(project)
            _forget(self._home, project.id)
        note.unlink(missing_ok=True)

    def _project(self, folder: Path, note: Path) -> "Project | None":
        with suppress(FileNotFoundError, ValueError, NotFound), os.fdopen(open_private_file(note, os.O_RDONLY)) as file:
            return self._atlas.projects.get(self._user, UUID(file.read()))
        return self._atlas.projects.at(folder, user=self._user)

    def _is_watched(self, project: UUID) -> bool:
        status = self._status()
        return status is not None and any(one.id == str(project) for one in status.projects)


def _write(path: Path, content: bytes) -> None:
    """Write a file as editors do: complete, under another name, and then renamed."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)


def _is_saved(journal: "Journal", project: UUID, content: bytes) -> bool:
    wanted = hashlib.sha256(content).digest()
    return any(head.path == _FILE and head.sha256 == wanted for head in journal.heads(project).get(project, ()))


def _forget(home: Path, project: UUID) -> None:
    from atlas_sdk.journal import Journal

    journal = Journal.existing(home)
    if journal is not None:
        with journal:
            journal.forget_project(project)


def release(
    atlas: "Atlas", user: "User", home: Path, *, status: "Callable[[], Status | None]", patience_s: float
) -> list[CanaryStep]:
    """Run a canary; return its steps. A failure is the last step."""
    steps: list[CanaryStep] = []
    try:
        steps.extend(Canary(atlas, user, home, status=status, patience_s=patience_s).run())
    except Busy:
        steps.append(CanaryStep(name="canary", seconds=None, detail="another `atlasctl doctor` runs now; wait for it"))
    except (AtlasError, OSError) as problem:
        steps.append(CanaryStep(name="canary", seconds=None, detail=str(problem)))
    return steps
