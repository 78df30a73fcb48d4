"""Compare two states of a project, or a state with the folder."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from atlas_sdk._plan import Plan, local
from atlas_sdk.errors import ContentMissing, FileProblem
from atlas_sdk.files import FileState, Tracking, pin, read_file, relative_path
from atlas_sdk.model.diffs import compare
from atlas_sdk.model.memory import FileDiff, Snapshot, VersionSet
from atlas_sdk.model.projects import Project
from atlas_sdk.ops.references import content, resolve

__all__ = ["diff"]


def diff(
    project: Project,
    before: str = "latest",
    after: str | None = None,
    *,
    paths: Iterable[str | PathLike[str]] = (),
) -> Plan[list[FileDiff]]:
    """Return the files that differ between two references, in the order of their paths.

    Without `after` the call compares `before` with the present folder. If a reference names a single version, the
    call compares only that file. The difference has no text if a side is binary, or if only its hash was stored.
    """
    only = {relative_path(Path(project.path), path) for path in paths}
    old = yield from resolve(project, before)
    right = (yield from _folder(project, old, only)) if after is None else (yield from _stored(project, after))
    sides = old.by_path()
    if not old.whole:
        names = set(sides)
    elif right.whole:
        names = set(sides) | set(right.files)
    else:
        names = set(right.files)
    differences = []
    for path in sorted(names & only if only else names):
        if path in right.problems:
            differences.append(FileDiff(path=path, change="unreadable", problem=right.problems[path]))
            continue
        found = yield from _compare(path, sides.get(path), right.files.get(path))
        if found.change != "same":
            differences.append(found)
    return differences


class _Side:
    """The right side of a comparison: versions, or the files of the folder."""

    def __init__(
        self, files: dict[str, Snapshot | FileState], *, whole: bool, problems: dict[str, str] | None = None
    ) -> None:
        self.files = files
        self.whole = whole
        #: The reasons why files could not be read, by path.
        self.problems = problems or {}


def _stored(project: Project, reference: str) -> Plan[_Side]:
    found = yield from resolve(project, reference)
    return _Side(dict(found.by_path()), whole=found.whole)


def _folder(project: Project, old: VersionSet, only: set[str]) -> Plan[_Side]:
    root = yield from local(pin, Path(project.path))
    tracking = yield from local(Tracking.load, root)
    names = set(old.by_path())
    if old.whole:
        names |= set((yield from local(tracking.scan, root)).paths)
    files: dict[str, Snapshot | FileState] = {}
    problems: dict[str, str] = {}
    for path in sorted(names & only if only else names):
        try:
            state = yield from local(read_file, root, path, limit_bytes=tracking.limit_bytes)
        except FileProblem as problem:
            problems[path] = str(problem)
            continue
        if state is not None:
            files[path] = state
    return _Side(files, whole=old.whole, problems=problems)


def _hash_of(side: Snapshot | FileState | None) -> str | None:
    if isinstance(side, FileState):
        return side.sha256.hex()
    return None if side is None else side.sha256


def _content_of(side: Snapshot | FileState | None) -> Plan[bytes | None]:
    if side is None or isinstance(side, FileState):
        if side is not None and side.content is None:
            raise ContentMissing(f"{side.path} is over the size limit", path=side.path, size=side.size)
        return None if side is None else side.content
    return None if side.deleted else (yield from content(side))


def _compare(path: str, left: Snapshot | None, right: Snapshot | FileState | None) -> Plan[FileDiff]:
    before, after = _hash_of(left), _hash_of(right)
    if before == after:
        return FileDiff(path=path, change="same")
    try:
        return compare(path, (yield from _content_of(left)), (yield from _content_of(right)))
    except ContentMissing:
        return FileDiff(path=path, change="added" if before is None else "removed" if after is None else "changed")
