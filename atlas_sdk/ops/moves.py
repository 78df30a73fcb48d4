"""Move a project to another folder, and recognise a project whose folder was moved."""

import os
from os import PathLike
from pathlib import Path
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, atomic, local, many, one, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, AtlasError, InvalidInput
from atlas_sdk.files import Tracking, from_text, named, read_file, to_text
from atlas_sdk.model.projects import MovedProject, Project
from atlas_sdk.model.users import User
from atlas_sdk.ops import events
from atlas_sdk.ops.projects import delete, gone_project, keys, marks, resolved

__all__ = ["find_moved", "move"]

sql = statements("projects")


@atomic
def move(project: Project, path: str | PathLike[str], *, force: bool = False) -> Plan[Project]:
    """Give a project another folder, with its whole history; return it. The files are not moved. Idempotent.

    The status stays, and the name follows if it is that of the folder. The watcher looks at the new folder from now on.
    Raises AlreadyExists when another project has the new folder, and InvalidInput when the old folder still has files.
    With `force`, the other project is deleted as `delete` does, and the old folder may stay. Raises NotFound when the
    project is deleted.
    """
    folder = yield from local(resolved, path)
    locked = yield from one_or_none(sql["lock"], Project, **keys(project))
    if locked is None or locked.status == "deleted":
        raise gone_project(project)
    if locked.path == folder:
        return locked
    if not force and (yield from local(_is_another, locked.path, folder)):
        raise InvalidInput(
            f"{named(locked.path)} still has files: they would not be a project's any more. Move or remove the folder "
            "first, or force the move",
            field="path",
        )
    there = yield from one_or_none(sql["at"], Project, user_id=project.user_id, path=to_text(folder))
    if there is not None:
        if not force:
            raise AlreadyExists(f"{named(folder)} is a project already", kind="project", name=folder)
        yield from delete(there)
    found = yield from local(marks, folder)
    has_default_name = locked.name == to_text(Path(locked.path).name or locked.path)
    name = to_text(Path(folder).name or folder) if has_default_name else locked.name
    moved = yield from one(sql["move"], Project, path=to_text(folder), name=name, **found, **keys(project))
    meta = {"path": to_text(folder), "from": to_text(locked.path)}
    yield from events.record("project.moved", meta=meta, **keys(project))
    return moved


def _is_another(old: str, new: str) -> bool:
    """Return whether the old folder has files, and is not the new one under another name."""
    try:
        with os.scandir(old) as entries:
            return any(True for _ in entries) and not _is_same(old, new)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # The folder exists and cannot be read.
        return not _is_same(old, new)


def _is_same(old: str, new: str) -> bool:
    try:
        return Path(old).samefile(new)
    except OSError:
        return False


@frozen(kw_only=True)
class _Registered:
    """A registered folder, with its marks."""

    id: UUID
    path: str
    root_device: int | None
    root_inode: int | None
    first_commit: str | None


@frozen(kw_only=True)
class _Same:
    """A comparison of a project's history with the files of a folder."""

    id: UUID
    #: The number of files that the project has now.
    files: int
    #: The number of given files that the history has.
    same_files: int


def find_moved(user: User, path: str | PathLike[str]) -> Plan[list[MovedProject]]:
    """Return the projects whose folder is gone and that this folder may be now; the most likely one first.

    A project fits if the git repository has the same first commit, or if its history has at least half as many files of
    this folder as the project has files; for a renamed folder, which keeps its inode, one file suffices. A new folder
    can have the inode of a removed one, so ask a person before `move`.
    """
    folder = yield from local(resolved, path)
    registered = yield from many(sql["registered"], _Registered, user_id=user.id, path=to_text(folder))
    gone = yield from local(_gone, registered)
    if not gone:
        return []
    here = yield from local(marks, folder)
    files = yield from local(_hashes, folder)
    compared = yield from many(
        sql["same_files"],
        _Same,
        user_id=user.id,
        project_ids=[one.id for one in gone],
        paths=[to_text(name) for name, _ in files],
        hashes=[sha256 for _, sha256 in files],
    )
    same = {one.id: one for one in compared}
    found = []
    for candidate in gone:
        same_folder, same_commit, fits = _reasons(candidate, here, same[candidate.id])
        if fits:
            project = yield from one(sql["get"], Project, user_id=user.id, project_id=candidate.id)
            same_files = same[candidate.id].same_files
            found.append(
                MovedProject(project=project, same_folder=same_folder, same_commit=same_commit, same_files=same_files)
            )
    return sorted(found, key=lambda moved: (moved.same_folder + moved.same_commit, moved.same_files), reverse=True)


def _gone(registered: list[_Registered]) -> list[_Registered]:
    """Return the projects that had a folder on some machine and have none here."""
    return [one for one in registered if one.root_inode is not None and not os.path.isdir(from_text(one.path))]  # noqa: PTH112 - called for every project


def _hashes(folder: str) -> list[tuple[str, bytes]]:
    """Return path and hash of each memory file of a folder, without those that cannot be read."""
    root = Path(folder)
    found = []
    try:
        tracking = Tracking.load(root)
        names = tracking.scan(root).paths
    except AtlasError:
        return []
    for name in names:
        try:
            state = read_file(root, name, limit_bytes=tracking.limit_bytes)
        except AtlasError:
            continue
        if state is not None:
            found.append((name, state.sha256))
    return found


def _reasons(gone: _Registered, here: dict[str, object], same: _Same) -> tuple[bool, bool, bool]:
    """Return whether the folder and the first commit are the same, and whether all reasons together suffice."""
    same_folder = (gone.root_device, gone.root_inode) == (here["root_device"], here["root_inode"])
    same_commit = gone.first_commit is not None and gone.first_commit == here["first_commit"]
    enough = 1 if same_folder else max(1, (same.files + 1) // 2)
    return same_folder, same_commit, same_commit or same.same_files >= enough or (same_folder and same.files == 0)
