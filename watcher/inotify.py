"""The backend for Linux: one inotify instance for all folders of all projects.

`InotifyFD` is the layer under watchdog's `Observer`. The `Observer` needs a thread for each watched folder, and does
not report that the kernel's queue overflowed, that a folder may not be read or that a root was renamed. `InotifyFD` is
not public API: a contract test fails when it changes.
"""

import errno
import itertools
import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from watcher.backend import Sink, WatchedFolder, Watching
from watcher.debounce import ChangeKind

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import InotifyEvent, WatchDescriptor

_log = logging.getLogger(__name__)

# See inotify(7). All watches have the same mask, because a second watch on an inode replaces the mask of the first one.
_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT = 0x400, 0x800, 0x2000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK, _ISDIR = 0x0100_0000, 0x0200_0000, 0x0400_0000, 0x4000_0000
_MASK: Final = (
    (_MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF)
    | _ONLYDIR
    | _DONT_FOLLOW
    | _EXCL_UNLINK
)
#: `add_callback` returns this for a folder that may not be read, instead of an error.
_NO_ACCESS: Final = -1
#: The reasons for polling a folder.
_UNREADABLE: Final = "it may not be read, so it cannot be watched: let the user who runs Atlas read it"
_LIMIT: Final = "the limit on watches is reached: raise it with sysctl fs.inotify.max_user_watches=1048576"


class Inotify:
    """A backend that watches folders by inotify, with one thread for any number of folders."""

    name = "inotify"

    def __init__(self) -> None:
        """Create the object. `start` opens the inotify instance."""
        self._lock = threading.Lock()
        #: The watched folders by watch descriptor and callback id. Two projects in one folder share a descriptor.
        self._places: dict[int, dict[int, WatchedFolder]] = {}
        self._held: dict[WatchedFolder, tuple[int, int]] = {}
        #: The folders that cannot be watched, each with the reason.
        self._refused: dict[WatchedFolder, str] = {}
        self._ids = itertools.count(1)
        self._told_of_limit = False
        self._stopped = False

    def start(self, sink: Sink) -> None:
        """Open the inotify instance. Raises OSError if the user has too many (fs.inotify.max_user_instances)."""
        from watchdog.observers.inotify_c import InotifyFD  # noqa: PLC0415 - loads for this system only

        self._sink = sink
        self._fd = InotifyFD()
        self._fd.name = "atlas-inotify"
        self._fd.start()

    def watch(self, place: WatchedFolder, path: str) -> Watching:
        """Watch a folder, and end the old watch if another inode has the folder's name now."""
        # Hold the lock until the descriptor is known: an event of the new watch must not be handled earlier.
        with self._lock:
            try:
                wd, number = self._add(path)
            except OSError as error:
                self._drop(place)
                return self._explain(place, path, error)
            if wd == _NO_ACCESS:
                self._remove(wd, number)
                self._drop(place)
                self._refused[place] = _UNREADABLE
                return Watching.REFUSED
            self._refused.pop(place, None)
            if self._held.get(place, (None,))[0] == wd:
                self._remove(wd, number)
                return Watching.KEPT
            self._drop(place)
            self._held[place] = (wd, number)
            self._places.setdefault(wd, {})[number] = place
            return Watching.NEW

    def polled(self, place: WatchedFolder) -> str | None:
        """Return the reason why a folder cannot be watched."""
        return self._refused.get(place)

    def unwatch(self, place: WatchedFolder) -> None:
        """Stop watching a folder."""
        with self._lock:
            self._drop(place)

    def remounted(self) -> frozenset[str]:
        """Return nothing: this backend does not know the mounts."""
        return frozenset()

    def stop(self) -> None:
        """Close the inotify instance and wait for its thread."""
        self._stopped = True
        self._fd.stop()
        self._fd.join()

    # Watchdog calls the methods below in its thread.

    def on_event(self, event: "InotifyEvent") -> None:
        """Pass an event on to every project that watches the folder."""
        mask = event.mask
        with self._lock:
            places = tuple(self._places.get(event.wd, {}).values())
        if not event.name:
            if mask & (_DELETE_SELF | _MOVE_SELF | _UNMOUNT | _ATTRIB):
                for place in places:
                    self._sink.root_changed(place)
            return
        if mask & (_CLOSE_WRITE | _MOVED_TO):
            change = ChangeKind.CLOSED
        else:
            change = ChangeKind.VANISHED if mask & (_DELETE | _MOVED_FROM) else ChangeKind.CHANGED
        name = os.fsdecode(event.name)
        for place in places:
            self._sink.changed(place, name, change, is_folder=bool(mask & _ISDIR))

    def on_watch_deleted(self, wd: "WatchDescriptor") -> None:
        """Forget a folder that the kernel does not watch any more, and report this for each of its projects."""
        if self._stopped:
            return
        with self._lock:
            places = self._places.pop(wd, {})
            for number, place in places.items():
                if self._held.get(place) == (wd, number):
                    del self._held[place]
        for place in places.values():
            self._sink.root_changed(place)

    def on_queue_overflow(self) -> None:
        """Report that the kernel has lost events."""
        self._sink.overflowed()

    # Callers of the methods below must hold the lock.

    def _add(self, path: str) -> tuple["WatchDescriptor", int]:
        from watchdog.observers.inotify_c import CallbackId, Mask  # noqa: PLC0415 - loads for this system only

        # Make a new id for every call, because watchdog warns when an id is used twice.
        number = CallbackId(next(self._ids))
        return self._fd.add_callback(os.fsencode(path), Mask(_MASK), self, number), number

    def _drop(self, place: WatchedFolder) -> None:
        self._refused.pop(place, None)
        held = self._held.pop(place, None)
        if held is not None:
            wd, number = held
            self._places[wd].pop(number, None)
            if not self._places[wd]:
                del self._places[wd]
            self._remove(wd, number)

    def _remove(self, wd: int, number: int) -> None:
        from watchdog.observers.inotify_c import CallbackId, WatchDescriptor  # noqa: PLC0415 - as above

        self._fd.remove_callbacks([(WatchDescriptor(wd), CallbackId(number))])

    def _explain(self, place: WatchedFolder, path: str, error: OSError) -> Watching:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return Watching.GONE
        if error.errno == errno.ENOSPC:
            self._refused[place] = _LIMIT
            if not self._told_of_limit:
                self._told_of_limit = True
                _log.warning(
                    "the kernel's limit on watches is reached: some folders are polled every few seconds instead; "
                    "raise it with: sysctl fs.inotify.max_user_watches=1048576"
                )
        else:
            self._refused[place] = f"it cannot be watched: {os.strerror(error.errno or errno.EIO).lower()}"
            _log.warning("cannot watch %s: %s; it is polled every few seconds instead", path, error.strerror)
        return Watching.REFUSED
