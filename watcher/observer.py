"""The backend for macOS and Windows: watchdog's `Observer`."""

import errno
import os
import threading
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from watcher.backend import Sink, WatchedFolder, Watching
from watcher.debounce import ChangeKind

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver, ObservedWatch

_KINDS = {
    "closed": ChangeKind.CLOSED,
    "created": ChangeKind.CHANGED,
    "modified": ChangeKind.CHANGED,
    "attrib": ChangeKind.CHANGED,
}


class Observing:
    """A backend that watches folders by FSEvents or ReadDirectoryChangesW, with one thread for each folder."""

    name = "observer"

    def __init__(self) -> None:
        """Create the object. `start` starts the observer."""
        self._observer: BaseObserver = Observer()
        self._handlers: dict[str, _Handler] = {}
        self._paths: dict[WatchedFolder, str] = {}
        #: The folders that cannot be watched, each with the reason.
        self._refused: dict[WatchedFolder, str] = {}

    def start(self, sink: Sink) -> None:
        """Start the observer's thread."""
        self._sink = sink
        self._observer.start()

    def watch(self, place: WatchedFolder, path: str) -> Watching:
        """Watch a folder. If another folder had this path at the last call, end its watch."""
        try:
            found = os.stat(path)  # noqa: PTH116 - no `Path` is needed
        except (FileNotFoundError, NotADirectoryError):
            self.unwatch(place)
            return Watching.GONE
        except OSError as error:
            return self._refuse(place, error)
        self._refused.pop(place, None)
        identity = (found.st_dev, found.st_ino)
        handler = self._handlers.get(path)
        if handler is not None and (handler.identity != identity or not self._alive(handler.watch)):
            # Unschedule first: scheduling the same path again would keep the dead watch.
            self._observer.unschedule(handler.watch)
            handler = None
        if handler is None:
            handler = _Handler(self._sink, path, identity, self._handlers.get(path))
            try:
                handler.watch = self._observer.schedule(handler, path, recursive=False)
            except OSError as error:
                self._handlers.pop(path, None)
                return self._refuse(place, error)
            self._handlers[path] = handler
            handler.add(place)
            self._paths[place] = path
            return Watching.NEW
        if place in handler.places:
            return Watching.KEPT
        handler.add(place)
        self._paths[place] = path
        return Watching.NEW

    def polled(self, place: WatchedFolder) -> str | None:
        """Return the reason why a folder cannot be watched."""
        return self._refused.get(place)

    def unwatch(self, place: WatchedFolder) -> None:
        """Stop watching a folder."""
        self._refused.pop(place, None)
        path = self._paths.pop(place, None)
        handler = None if path is None else self._handlers.get(path)
        if path is None or handler is None:
            return
        handler.remove(place)
        if not handler.places:
            del self._handlers[path]
            self._observer.unschedule(handler.watch)

    def remounted(self) -> frozenset[str]:
        """Return nothing: this backend does not know the mounts."""
        return frozenset()

    def stop(self) -> None:
        """Stop the observer and wait for its thread."""
        self._observer.stop()
        self._observer.join()

    def _refuse(self, place: WatchedFolder, error: OSError) -> Watching:
        self._refused[place] = f"it cannot be watched: {os.strerror(error.errno or errno.EIO).lower()}"
        return Watching.REFUSED

    def _alive(self, watch: "ObservedWatch") -> bool:
        return any(emitter.watch == watch and emitter.is_alive() for emitter in self._observer.emitters)


class _Handler(FileSystemEventHandler):
    """The handler of the events of one folder, with the projects that watch the folder."""

    watch: "ObservedWatch"

    def __init__(self, sink: Sink, path: str, identity: tuple[int, int], before: "_Handler | None") -> None:
        self.sink = sink
        self.path = path
        self.identity = identity
        self._lock = threading.Lock()
        self.places: frozenset[WatchedFolder] = frozenset() if before is None else before.places

    def add(self, place: WatchedFolder) -> None:
        with self._lock:
            self.places |= {place}

    def remove(self, place: WatchedFolder) -> None:
        with self._lock:
            self.places -= {place}

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Pass an event on. A rename becomes two events: the old name vanished, and the new one was closed."""
        if event.event_type in _KINDS:
            self._tell(event.src_path, _KINDS[event.event_type], is_folder=event.is_directory)
        elif event.event_type in {"deleted", "moved"}:
            self._tell(event.src_path, ChangeKind.VANISHED, is_folder=event.is_directory)
            if event.dest_path:
                self._tell(event.dest_path, ChangeKind.CLOSED, is_folder=event.is_directory)

    def _tell(self, path: bytes | str, change: ChangeKind, *, is_folder: bool) -> None:
        folder, name = os.path.split(os.fsdecode(path))
        for place in self.places:
            if os.fsdecode(path) == self.path:
                if change is ChangeKind.VANISHED:
                    self.sink.root_changed(place)
            elif folder == self.path:
                self.sink.changed(place, name, change, is_folder=is_folder)
