"""Find out what events do not tell: the one way for the start, a new project or folder, an overflow, the sweep."""

import logging
import os
from collections.abc import Iterator

from atlas_sdk import Atlas, AtlasError, FileProblem, InvalidInput, Scan, Tracking
from atlas_sdk.files import printable, signature
from watcher.backend import Backend, Place, Watching
from watcher.folder import Folder, Known
from watcher.settle import Hint

__all__ = ["doubts", "is_replaced", "load", "scan", "unwatch"]

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


def doubts(folder: Folder, atlas: Atlas) -> Iterator[str]:
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
        if not version.deleted and _is_tracked(folder, path) and os.path.lexists(folder.path_of(path)):
            yield path


def _is_tracked(folder: Folder, path: str) -> bool:
    return path in folder.imports or folder.tracking.wants(path)


def scan(folder: Folder, backend: Backend) -> Iterator[tuple[str, Hint]]:
    """Watch what there is, then list it, then compare; yield the files to look at.

    In this order nothing falls into the gap: what changes after the listing has its event. Raises FileProblem when the
    project's own folder is out of reach, which says nothing about its files.
    """
    first = folder.identity is None
    identity = _reach(folder)
    tracking, problem = _tracking(folder)
    folder.tracking = tracking
    found = _watch_and_list(folder, backend)
    skipped = {one.path: one.reason for one in found.skipped}
    if problem is not None:
        skipped[""] = problem
    for path in found.paths:
        try:
            seen = signature(folder.root, path)
        except AtlasError as error:
            skipped[path] = str(error)
            continue
        known = folder.known.get(path)
        if seen is None:
            yield path, Hint.VANISHED
        elif known is None and not first:
            # Somebody makes it at this moment, in a folder that is new itself.
            yield path, Hint.CHANGED
        elif known is None or known.signature is None or known.signature != seen or path in folder.problems:
            yield path, Hint.FOUND
    yield from _missing(folder, set(found.paths), skipped)
    _note(folder, found, skipped)
    folder.identity = identity


def unwatch(folder: Folder, backend: Backend) -> None:
    """Watch nothing of a project any more."""
    for name in folder.folders:
        backend.unwatch(Place(folder.id, name))
    folder.folders = {}
    folder.unwatched = frozenset()


def _watch_and_list(folder: Folder, backend: Backend) -> Scan:
    """Repeat until every folder of the listing was watched before it was listed."""
    wanted = {"", *folder.folders}
    for _ in range(_ROUNDS):
        _watch(folder, backend, wanted)
        # Before the listing: what changes after it shows.
        stamps = {name: folder.stamp(name) for name in wanted}
        found = folder.tracking.scan(folder.root)
        aliases = _aliases(folder, found)
        wanted = {*found.directories, *(path.rpartition("/")[0] for path in aliases)}
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


def _reach(folder: Folder) -> tuple[int, int]:
    """Return device and inode of the project's folder. Raises FileProblem."""
    try:
        found = folder.root.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FileProblem(f"cannot reach {printable(str(folder.root))}: {reason}", path=str(folder.root)) from error
    return found.st_dev, found.st_ino


def is_replaced(folder: Folder) -> bool:
    """Tell whether another folder without any memory stands in the project's place: an unmounted disk, say."""
    if folder.identity is None or not folder.known or _reach(folder) == folder.identity:
        return False
    if any(os.path.lexists(folder.path_of(path)) for path in folder.known):
        return False
    # Somebody who made it again wrote other files first; its own settings say what counts.
    return not _tracking(folder)[0].scan(folder.root).paths


def _tracking(folder: Folder) -> tuple[Tracking, str | None]:
    """Read the project's settings; while they are wrong, the last good ones hold."""
    try:
        return Tracking.load(folder.root), None
    except (InvalidInput, FileProblem) as error:
        return folder.tracking, str(error)


def _aliases(folder: Folder, found: Scan) -> dict[str, tuple[str, ...]]:
    """Find what tracked symlinks lead to: their own folder says nothing when that is written."""
    aliases: dict[str, tuple[str, ...]] = {}
    root = os.path.realpath(folder.root)
    for path in found.paths:
        name = folder.path_of(path)
        if os.path.islink(name):  # noqa: PTH114 - the sweep's hot path
            target = os.path.realpath(name)
            if target.startswith(root + "/"):
                inside = target[len(root) + 1 :]
                aliases[inside] = (*aliases.get(inside, ()), path)
    return aliases


def _missing(folder: Folder, present: set[str], skipped: dict[str, str]) -> Iterator[tuple[str, Hint]]:
    for path in [path for path in folder.known if path not in present and path not in skipped]:
        try:
            seen = signature(folder.root, path)
        except AtlasError as error:
            # Something is in its place, or its folder may not be read: not a deletion.
            skipped[path] = str(error)
            continue
        if seen is None:
            yield path, Hint.VANISHED
        else:
            # It exists and is not tracked any more: the settings or an import changed.
            del folder.known[path]


def _note(folder: Folder, found: Scan, skipped: dict[str, str]) -> None:
    for path, reason in skipped.items():
        if folder.note(path, reason):
            _log.warning("%s: %s", folder.root, reason)
    # What could not be read is cleared when it was read.
    for path in folder.problems.keys() - skipped.keys() - set(found.paths):
        folder.note(path, None)
