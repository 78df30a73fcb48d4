"""Sources of events: they tell the daemon that something happened in a folder."""

from enum import Enum
from typing import NamedTuple, Protocol
from uuid import UUID

from watcher.debounce import ChangeKind

__all__ = ["Backend", "Place", "Polling", "Sink", "Watching"]


class Place(NamedTuple):
    """A watched folder of a project, `""` for the project's own."""

    project: UUID
    folder: str


class Watching(Enum):
    """The answer to a request for a watch."""

    #: Nothing was watched here before, or another folder: list it, for it may have changed before.
    NEW = "new"
    #: The same folder was watched already.
    KEPT = "kept"
    #: The folder is not there.
    GONE = "gone"
    #: It cannot be watched; it has to be looked at instead.
    REFUSED = "refused"


class Sink(Protocol):
    """A receiver of events. The backend's thread calls it: it must not block or call back."""

    def changed(self, place: Place, name: str, change: ChangeKind, *, is_folder: bool) -> None:
        """Something happened to an entry of a watched folder."""

    def root_changed(self, place: Place) -> None:
        """Something happened to a watched folder itself: removed, renamed, unmounted."""

    def overflowed(self) -> None:
        """Events were lost: every project may have changed."""


class Backend(Protocol):
    """A source of events. Its methods are called by one thread."""

    name: str

    def start(self, sink: Sink) -> None:
        """Begin to deliver events."""

    def watch(self, place: Place, path: str) -> Watching:
        """Watch a folder, not the ones below it. Asking again is cheap, and notices a new one in its place."""

    def unwatch(self, place: Place) -> None:
        """Watch it no longer; a place that is not watched is fine."""

    def stop(self) -> None:
        """Deliver nothing any more."""


class Polling:
    """No source of events at all: every folder has to be looked at."""

    name = "poll"

    def start(self, sink: Sink) -> None:
        """Nothing to begin."""

    def watch(self, place: Place, path: str) -> Watching:  # noqa: ARG002 - the same answer for all
        """Refuse."""
        return Watching.REFUSED

    def unwatch(self, place: Place) -> None:
        """Nothing to end."""

    def stop(self) -> None:
        """Nothing to end."""
