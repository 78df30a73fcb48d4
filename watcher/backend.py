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
    """The answer to a request for a watch."""

    #: The watch is new, or on another folder than before. The folder may have changed before: list it.
    NEW = "new"
    #: The same folder was watched already.
    KEPT = "kept"
    #: The folder does not exist.
    GONE = "gone"
    #: The folder cannot be watched: poll it instead.
    REFUSED = "refused"


class Sink(Protocol):
    """A receiver of events. The backend's thread calls the methods, which must not block or call the backend."""

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
        """Watch a folder, but not the folders below it. A repeated call is cheap, and notices another folder there."""

    def unwatch(self, place: WatchedFolder) -> None:
        """Stop watching a folder; do nothing for a folder that is not watched."""

    def stop(self) -> None:
        """Stop delivering events."""


class Polling:
    """A backend without events: the daemon polls every folder."""

    name = "poll"

    def start(self, sink: Sink) -> None:
        """Do nothing: there are no events."""

    def watch(self, place: WatchedFolder, path: str) -> Watching:  # noqa: ARG002 - the same answer for all
        """Return `REFUSED`, so that the daemon polls the folder."""
        return Watching.REFUSED

    def unwatch(self, place: WatchedFolder) -> None:
        """Do nothing: there are no events."""

    def stop(self) -> None:
        """Do nothing: there are no events."""
