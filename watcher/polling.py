"""Polling, for folders whose changes cause no events: network file systems, and what the system refuses to watch."""

from watcher.backend import Sink, WatchedFolder, Watching


class Polling:
    """A backend without events: the daemon polls every folder."""

    name = "poll"

    def __init__(self, reason: str) -> None:
        """Create the object. `reason` says why no events are available."""
        self._reason = reason

    def start(self, sink: Sink) -> None:
        """Do nothing: there are no events."""

    def watch(self, place: WatchedFolder, path: str) -> Watching:  # noqa: ARG002 - the same answer for all
        """Return `REFUSED`, so that the daemon polls the folder."""
        return Watching.REFUSED

    def polled(self, place: WatchedFolder) -> str | None:  # noqa: ARG002 - the same answer for all
        """Return the reason why no events are available."""
        return self._reason

    def unwatch(self, place: WatchedFolder) -> None:
        """Do nothing: there are no events."""

    def stop(self) -> None:
        """Do nothing: there are no events."""
