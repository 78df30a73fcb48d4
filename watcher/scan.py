"""Find changes that no event reports: at the start, in a new project or folder, after an overflow, after a sweep."""

import logging
import os
from collections.abc import Iterator

from atlas_sdk import AtlasError, FileProblem, InvalidInput, Tracking
from atlas_sdk.files import Root, Scan, entry, link_target, signature
from watcher.backend import Backend, WatchedFolder, Watching
from watcher.debounce import ChangeKind
from watcher.folder import Folder

_log = logging.getLogger(__name__)

#: When a scan finds new folders, it lists the project again, at most this many times. Later events and sweeps find the
#: other changes.
_ROUNDS = 10


def scan(folder: Folder, root: Root, backend: Backend) -> Iterator[tuple[str, ChangeKind]]:
    """Watch the project's folders, list and compare them; yield the files to look at.

    No change is missed: because the watches come before the listing, every change after the listing causes an event.
    `root` is open, so settings and files come from the same folder. Raises FileProblem if the folder cannot be read;
    its files may still exist then.
    """
    first = folder.identity is None
    folder.identity, folder.owner = root.identity, os.fstat(root.folder).st_uid
    folder.tracking, problem = _tracking(folder, root)
    found = _watch_and_list(folder, root, backend)
    folder.leftovers = found.leftovers
    skipped = {one.path: one.reason for one in found.skipped}
    if problem is not None:
        skipped[""] = problem
    for path in found.paths:
        try:
            seen = signature(root, path)
        except AtlasError as error:
            skipped[path] = str(error)
            continue
        known = folder.known.get(path)
        if seen is None:
            yield path, ChangeKind.VANISHED
        elif known is None and not first:
            # The file is new, and its writer may not be done.
            yield path, ChangeKind.CHANGED
        elif known is None or known.signature is None or known.signature != seen or path in folder.problems:
            yield path, ChangeKind.FOUND
    yield from _missing(folder, root, found, skipped)
    _note(folder, found, skipped)


def unwatch(folder: Folder, backend: Backend) -> None:
    """Stop watching every folder of a project."""
    for name in folder.folders:
        backend.unwatch(WatchedFolder(folder.id, name))
    folder.folders = {}
    folder.unwatched = frozenset()


def _watch_and_list(folder: Folder, root: Root, backend: Backend) -> Scan:
    """Watch the folders, then list them. Repeat until every listed folder was watched before the listing."""
    wanted = {"", *folder.folders}
    for _ in range(_ROUNDS):
        _watch(folder, backend, wanted)
        # Take the stamps before the listing, so that a change during the listing makes them differ.
        stamps = {name: folder.stamp(name) for name in wanted}
        found = folder.tracking.scan(root)
        aliases = _aliases(root, found)
        wanted = {*found.directories, *(path.rpartition("/")[0] for path in aliases)}
        if not found.complete:
            # Keep the folders of the last scan: a folder that was not searched this time may still exist.
            wanted |= folder.folders.keys()
        if wanted <= stamps.keys():
            break
    for name in folder.folders.keys() - wanted:
        backend.unwatch(WatchedFolder(folder.id, name))
    folder.aliases = aliases
    folder.imports = frozenset(path for path in found.paths if not folder.tracking.wants(path))
    folder.unwatched &= wanted
    folder.folders = {name: stamps.get(name) for name in wanted}
    folder.searched = found.unwatched
    return found


def _watch(folder: Folder, backend: Backend, names: set[str]) -> None:
    for name in sorted(names):
        watching = backend.watch(WatchedFolder(folder.id, name), folder.path_of(name))
        if watching is Watching.REFUSED:
            folder.unwatched |= {name}
        else:
            folder.unwatched -= {name}
        # Add the folder at once, because its first events may come before the end of the scan.
        folder.folders.setdefault(name, None)


def is_replaced(folder: Folder, root: Root) -> bool:
    """Return whether another folder is in the place of the project's folder.

    A folder without any memory file may be the mount point of an unmounted disk. A folder of another owner is not the
    one that was registered, whatever files it has.
    """
    if folder.identity is None or not folder.known or root.identity == folder.identity:
        return False
    if os.fstat(root.folder).st_uid != folder.owner:
        return True
    if any(_is_present(root, path) for path in folder.known):
        return False
    # The user may have created the project again, with other memory files. The settings in the new folder say which
    # files are memory files.
    return not _tracking(folder, root)[0].scan(root).paths


def _is_present(root: Root, path: str) -> bool:
    try:
        return entry(root, path) is not None
    except AtlasError:
        return False


def _tracking(folder: Folder, root: Root) -> tuple[Tracking, str | None]:
    """Read the project's settings. If they are wrong, return the last good ones and the problem."""
    try:
        return Tracking.load(root), None
    except (InvalidInput, FileProblem) as error:
        return folder.tracking, str(error)


def _aliases(root: Root, found: Scan) -> dict[str, tuple[str, ...]]:
    """Return the tracked symlinks by target, because a write to the target is no event in the symlink's folder."""
    aliases: dict[str, tuple[str, ...]] = {}
    for path in found.paths:
        try:
            inside = link_target(root, path)
        except AtlasError:
            # The symlink changed since the listing. The worker reports the problem when it looks at the symlink.
            continue
        if inside is not None:
            aliases[inside] = (*aliases.get(inside, ()), path)
    return aliases


def _missing(folder: Folder, root: Root, found: Scan, skipped: dict[str, str]) -> Iterator[tuple[str, ChangeKind]]:
    present = set(found.paths)
    for path in [path for path in folder.known if path not in present and path not in skipped]:
        try:
            seen = signature(root, path)
        except AtlasError as error:
            # The path has another kind of file, or its folder cannot be read. The file does not count as deleted.
            skipped[path] = str(error)
            continue
        if seen is None:
            yield path, ChangeKind.VANISHED
        elif found.complete:
            # The file exists but is not tracked any more: the settings or an import changed.
            del folder.known[path]


def _note(folder: Folder, found: Scan, skipped: dict[str, str]) -> None:
    for path, reason in skipped.items():
        if folder.note(path, reason):
            _log.warning("%s: %s", folder.root, reason)
    # Keep the problem of a listed file: the worker removes the problem when it reads the file.
    for path in folder.problems.keys() - skipped.keys() - set(found.paths):
        folder.note(path, None)
