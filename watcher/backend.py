"""Sources of events: they report changes in folders."""

from enum import Enum
from typing import NamedTuple, Protocol
from uuid import UUID

from watcher.debounce import ChangeKind


class WatchedFolder(NamedTuple):
    """A watched folder of a project; `""` is the project's own folder."""

    project: UUID
    folder: str


class Watching(Enum):
    """The result of `Backend.watch`."""

    #: The watch is new, or the path has another folder now. Earlier changes caused no event, so list the folder.
    NEW = "new"
    #: The same folder was watched already.
    KEPT = "kept"
    #: The folder does not exist.
    GONE = "gone"
    #: The folder cannot be watched; `Backend.polled` has the reason.
    REFUSED = "refused"


class Sink(Protocol):
    """A receiver of events. The backend's thread calls the methods. They must not block or call the backend."""

    def changed(self, place: WatchedFolder, name: str, change: ChangeKind, *, is_folder: bool) -> None:
        """Report a change of an entry of a watched folder."""

    def root_changed(self, place: WatchedFolder) -> None:
        """Report that a watched folder itself was removed, renamed or unmounted."""

    def overflowed(self) -> None:
        """Report that events were lost: every project may have changed."""


class Backend(Protocol):
    """A source of events. Only one thread calls its methods."""

    name: str

    def start(self, sink: Sink) -> None:
        """Begin to deliver events."""

    def watch(self, place: WatchedFolder, path: str) -> Watching:
        """Watch a folder, not the folders below it. A repeated call is cheap, and notices a new folder at the path."""

    def polled(self, place: WatchedFolder) -> str | None:
        """Return the reason why the daemon must poll a folder; None if the events of the last `watch` are enough."""

    def unwatch(self, place: WatchedFolder) -> None:
        """Stop watching a folder; do nothing for a folder that is not watched."""

    def remounted(self) -> frozenset[str]:
        """Return the absolute paths where a mount appeared or went since the last call. No event reports this."""

    def stop(self) -> None:
        """Stop delivering events."""
