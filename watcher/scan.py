"""Find changes that no event reports: at the start, in a new project or folder, after an overflow, after a sweep."""

import logging
import os
import stat
import time
from collections.abc import Iterator

from atlas_sdk import AtlasError, FileProblem, InvalidInput, Tracking
from atlas_sdk.files import Root, Scan, entry, is_gone, trace
from watcher.backend import Backend, WatchedFolder, Watching
from watcher.debounce import ChangeKind
from watcher.folder import Folder, is_recent

_log = logging.getLogger(__name__)

#: When a scan finds new folders, it lists the project again, at most this many times. Later events and sweeps find the
#: other changes.
_ROUNDS = 10
#: The most folders to watch only because memory was in them once.
_MOST_FORMER = 100


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
    skipped = {one.path: one.reason for one in (*found.skipped, *found.dangling)}
    if problem is not None:
        skipped[""] = problem
    for path in found.paths:
        seen = found.seen[path]
        known = folder.known.get(path)
        if known is None and not first:
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
    folder.unwatched = {}


def watch_again(folder: Folder, backend: Backend) -> None:
    """Try again to watch the folders that are polled. One that is watched now differs from its stamp, so it is scanned.

    A network file system is watched and polled.
    """
    for name in folder.unwatched:
        if backend.watch(WatchedFolder(folder.id, name), folder.path_of(name)) is Watching.NEW:
            folder.folders[name] = None


def _watch_and_list(folder: Folder, root: Root, backend: Backend) -> Scan:
    """Watch the folders, then list them. Repeat until every listed folder was watched before the listing."""
    wanted = {"", *folder.folders}
    for _ in range(_ROUNDS):
        _watch(folder, backend, wanted)
        began_ns = time.time_ns()
        # Take the stamps before the listing, so that a change during the listing makes them differ.
        stamps = {name: folder.trusted_stamp(name) for name in wanted}
        found = folder.tracking.scan(root)
        wanted = {"", *found.directories}
        if not found.complete:
            # Keep the folders of the last scan: a folder that was not searched this time may still exist.
            wanted |= folder.folders.keys()
        awaited, folders = _former(folder, root, wanted)
        wanted |= folders
        if wanted <= stamps.keys():
            break
    for name in folder.folders.keys() - wanted:
        backend.unwatch(WatchedFolder(folder.id, name))
        folder.unwatched.pop(name, None)
    folder.awaited = found.awaited | awaited
    folder.awaits_more = found.awaits_more
    folder.aliases = _aliases(found)
    folder.imports = frozenset(path for path in found.paths if not folder.tracking.wants(path))
    folder.folders = {name: stamps.get(name) for name in wanted}
    folder.searched = {
        name: None if is_recent(stamp[2], began_ns) else stamp for name, stamp in found.unwatched.items()
    }
    return found


def _former(folder: Folder, root: Root, wanted: set[str]) -> tuple[set[str], set[str]]:
    """Return the paths to await, and the folders to watch, for the folders where memory was once."""
    held = {path.rpartition("/")[0] for path in (*folder.imports, *folder.aliases)}
    folder.former.update(dict.fromkeys(held - wanted))
    for name in [name for name in folder.former if name in wanted]:
        del folder.former[name]
    for name in list(folder.former)[:-_MOST_FORMER]:
        del folder.former[name]
    awaited: set[str] = set()
    folders: set[str] = set()
    for name in folder.former:
        way = trace(root, name, follow=False)
        if way.blocked is None and way.found is not None and stat.S_ISDIR(way.found.st_mode) and way.path == name:
            folders.add(name)
        else:
            awaited.add(way.path)
            folders.add(way.path.rpartition("/")[0])
    return awaited, folders


def _watch(folder: Folder, backend: Backend, names: set[str]) -> None:
    for name in sorted(names):
        place = WatchedFolder(folder.id, name)
        watching = backend.watch(place, folder.path_of(name))
        reason = None if watching is Watching.GONE else backend.polled(place)
        if reason is not None:
            folder.unwatched[name] = reason
        else:
            folder.unwatched.pop(name, None)
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


def _aliases(found: Scan) -> dict[str, tuple[str, ...]]:
    """Return the files to look at when another path changes, because no event names them.

    A write to the target of a symlink is no event in the symlink's folder, and a write to a file with several names is
    an event for one name only.
    """
    aliases: dict[str, tuple[str, ...]] = {}
    for path, target in found.targets.items():
        aliases[target] = (*aliases.get(target, ()), path)
    for names in found.hard_links:
        for name in names:
            others = (other for other in names if other != name and other not in aliases.get(name, ()))
            aliases[name] = (*aliases.get(name, ()), *others)
    return aliases


def _missing(folder: Folder, root: Root, found: Scan, skipped: dict[str, str]) -> Iterator[tuple[str, ChangeKind]]:
    folder.untracked.difference_update(found.seen)
    for path in [path for path in (*folder.known, *folder.untracked) if path not in found.seen]:
        try:
            gone = is_gone(root, path)
        except AtlasError as error:
            # The path leads out of the project, or its folder cannot be read. The file does not count as deleted.
            skipped.setdefault(path, str(error))
            continue
        if gone:
            if path in folder.untracked:
                # The entry is not in `known` any more, so let the worker record the end in any case.
                folder.untracked.discard(path)
                folder.stale.add(path)
            yield path, ChangeKind.VANISHED
        elif found.untracks(path):
            # The file exists but is not tracked any more: the settings or an import changed.
            folder.known.pop(path, None)
            folder.untracked.add(path)


def _note(folder: Folder, found: Scan, skipped: dict[str, str]) -> None:
    dangling = {one.path for one in found.dangling}
    for path, reason in skipped.items():
        if folder.note(path, reason, state="deleted" if path in dangling else "unreadable"):
            _log.warning("%s: %s", folder.root, reason)
    # Keep the problem of a listed file: the worker removes the problem when it reads the file.
    for path in folder.problems.keys() - skipped.keys() - set(found.paths):
        folder.note(path, None)
