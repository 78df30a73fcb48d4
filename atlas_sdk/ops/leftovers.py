"""Remove the temporary files of killed restores."""

from collections.abc import Iterable
from pathlib import Path

from atlas_sdk._plan import Plan, local, many
from atlas_sdk._sql import statements
from atlas_sdk.files import Leftover, Root, Tracking, leftovers, pin, remove_leftover
from atlas_sdk.model.projects import Project

__all__ = ["remove_leftovers"]

sql = statements("memory")


def remove_leftovers(project: Project, *, folders: Iterable[str] | None = None) -> Plan[tuple[str, ...]]:
    """Remove the temporary files that killed restores left in a project; return their paths.

    A restore that is killed between two renames leaves a complete file under a temporary name. This call removes the
    file if its content is on record and no restore works in its folder. Otherwise the file stays, because it may be the
    only copy of an edit that was made during the restore. Every restore cleans the folders of its files; the watcher
    cleans all folders. `folders` are relative to the project, "" is the project's folder itself; the default is all
    tracked folders. Raises FileProblem when the project's folder cannot be reached.
    """
    root = yield from local(pin, Path(project.path))
    tracking = yield from local(Tracking.load, root)
    if folders is None:
        folders = (yield from local(tracking.scan, root)).directories
    found = yield from local(_found, root, sorted(folders), tracking.limit_bytes)
    if not found:
        return ()
    keys = {"user_id": project.user_id, "project_id": project.id}
    known = yield from many(sql["known_contents"], _sha256, hashes=[one.sha256 for one in found], **keys)
    known_found = [one for one in found if one.sha256 in known]
    removed = yield from local(_removed, root, known_found)
    return tuple(removed)


def _removed(root: Root, found: list[Leftover]) -> list[str]:
    return [one.path for one in found if remove_leftover(root, one)]


def _found(root: Root, folders: list[str], limit_bytes: int) -> list[Leftover]:
    return [one for folder in folders for one in leftovers(root, folder, limit_bytes=limit_bytes)]


def _sha256(*, sha256: bytes) -> bytes:
    return bytes(sha256)
