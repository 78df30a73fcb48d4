"""Find out what events do not tell: the one way for the start, a new project or folder, an overflow, the sweep."""

import logging
import os
from collections.abc import Iterator

from atlas_sdk import Atlas, AtlasError, FileProblem, InvalidInput, Scan, Tracking
from atlas_sdk.files import Root, entry, link_target, signature
from watcher.backend import Backend, Place, Watching
from watcher.debounce import ChangeKind
from watcher.folder import Folder, Known

__all__ = ["is_replaced", "load", "scan", "stale_paths", "unwatch"]

_log = logging.getLogger(__name__)

#: Somebody who makes folders faster than they can be listed has his own events to blame; the sweep sees the rest.
_ROUNDS = 10


def load(folder: Folder, atlas: Atlas) -> None:
    """Learn what is stored, once. Signatures are not: every file is read and hashed at the first scan."""
    if folder.loaded:
        return
    for version in atlas.memory.files(folder.project):
        if version.sha256 is not None:
            folder.known[version.path] = Known(
                signature=None,
                sha256=version.sha256,
                mode=version.mode,
                link=version.link,
                protected_since=version.created_at,
            )
    folder.loaded = True


def stale_paths(folder: Folder, atlas: Atlas) -> Iterator[str]:
    """Compare what is known with what is stored; yield the files that the database has to be asked about.

    A restore that failed half way, or another client, leaves a newest version that is not what is on the disk, without
    any event. Content that was over the limit of its day is asked for again when it is within today's.
    """
    stored = {version.path: version for version in atlas.memory.files(folder.project)}
    for path, known in folder.known.items():
        version = stored.pop(path, None)
        if (
            version is None
            or (version.sha256, version.mode, version.link) != (known.sha256, known.mode, known.link)
            or (version.kept is False and version.size <= folder.tracking.limit_bytes)
        ):
            yield path
    for path, version in stored.items():
        # What is not on the disk may never have been: a client may store content of its own.
        if not version.deleted and _is_tracked(folder, path) and entry(folder.pinned, path) is not None:
            yield path


def _is_tracked(folder: Folder, path: str) -> bool:
    return path in folder.imports or folder.tracking.wants(path)


def scan(folder: Folder, root: Root, backend: Backend) -> Iterator[tuple[str, ChangeKind]]:
    """Watch what there is, then list it, then compare; yield the files to look at.

    In this order nothing falls into the gap: what changes after the listing has its event. `root` is held open, so
    settings and files are those of one folder. Raises FileProblem when that cannot be read, which says nothing about
    its files.
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
            # Somebody makes it at this moment, in a folder that is new itself.
            yield path, ChangeKind.CHANGED
        elif known is None or known.signature is None or known.signature != seen or path in folder.problems:
            yield path, ChangeKind.FOUND
    yield from _missing(folder, root, found, skipped)
    _note(folder, found, skipped)


def unwatch(folder: Folder, backend: Backend) -> None:
    """Watch nothing of a project any more."""
    for name in folder.folders:
        backend.unwatch(Place(folder.id, name))
    folder.folders = {}
    folder.unwatched = frozenset()


def _watch_and_list(folder: Folder, root: Root, backend: Backend) -> Scan:
    """Repeat until every folder of the listing was watched before it was listed."""
    wanted = {"", *folder.folders}
    for _ in range(_ROUNDS):
        _watch(folder, backend, wanted)
        # Before the listing: what changes after it shows.
        stamps = {name: folder.stamp(name) for name in wanted}
        found = folder.tracking.scan(root)
        aliases = _aliases(root, found)
        wanted = {*found.directories, *(path.rpartition("/")[0] for path in aliases)}
        if not found.complete:
            # A folder that was not searched this time may be there all the same.
            wanted |= folder.folders.keys()
        if wanted <= stamps.keys():
            break
    for name in folder.folders.keys() - wanted:
        backend.unwatch(Place(folder.id, name))
    folder.aliases = aliases
    folder.imports = frozenset(path for path in found.paths if not folder.tracking.wants(path))
    folder.unwatched &= wanted
    folder.folders = {name: stamps.get(name) for name in wanted}
    return found


def _watch(folder: Folder, backend: Backend, names: set[str]) -> None:
    for name in sorted(names):
        watching = backend.watch(Place(folder.id, name), folder.path_of(name))
        if watching is Watching.REFUSED:
            folder.unwatched |= {name}
        else:
            folder.unwatched -= {name}
        # Already here, so that its events are taken for this project's.
        folder.folders.setdefault(name, None)


def is_replaced(folder: Folder, root: Root) -> bool:
    """Tell whether another folder stands in the project's place that is not to be taken for it.

    One without any memory file is an unmounted disk, say; one of another owner is not what was registered, whatever
    names it holds.
    """
    if folder.identity is None or not folder.known or root.identity == folder.identity:
        return False
    if os.fstat(root.folder).st_uid != folder.owner:
        return True
    if any(_is_present(root, path) for path in folder.known):
        return False
    # Somebody who made it again wrote other files first; its own settings say what counts.
    return not _tracking(folder, root)[0].scan(root).paths


def _is_present(root: Root, path: str) -> bool:
    try:
        return entry(root, path) is not None
    except AtlasError:
        return False


def _tracking(folder: Folder, root: Root) -> tuple[Tracking, str | None]:
    """Read the project's settings; while they are wrong, the last good ones hold."""
    try:
        return Tracking.load(root), None
    except (InvalidInput, FileProblem) as error:
        return folder.tracking, str(error)


def _aliases(root: Root, found: Scan) -> dict[str, tuple[str, ...]]:
    """Find what tracked symlinks lead to: their own folder says nothing when that is written."""
    aliases: dict[str, tuple[str, ...]] = {}
    for path in found.paths:
        try:
            inside = link_target(root, path)
        except AtlasError:
            # It changed since the listing; its own look says what is the matter.
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
            # Something is in its place, or its folder may not be read: not a deletion.
            skipped[path] = str(error)
            continue
        if seen is None:
            yield path, ChangeKind.VANISHED
        elif found.complete:
            # It exists and is not tracked any more: the settings or an import changed.
            del folder.known[path]


def _note(folder: Folder, found: Scan, skipped: dict[str, str]) -> None:
    for path, reason in skipped.items():
        if folder.note(path, reason):
            _log.warning("%s: %s", folder.root, reason)
    # What could not be read is cleared when it was read.
    for path in folder.problems.keys() - skipped.keys() - set(found.paths):
        folder.note(path, None)
