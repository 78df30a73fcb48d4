"""Polling, for folders whose changes cause no events: network file systems, and what the system refuses to watch.

The worker does the polling: it compares such a project with `stat` every few seconds. The backends here only say which
folders need it.
"""

from typing import Final

from watcher.backend import Backend, Sink, WatchedFolder, Watching
from watcher.mounts import Mounts

_REASON: Final = "it is on {kind}, where other machines can change files without an event here"


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

    def remounted(self) -> frozenset[str]:
        """Return nothing: polling notices another folder at a path."""
        return frozenset()

    def stop(self) -> None:
        """Do nothing: there are no events."""


class MountAware:
    """A backend that adds polling to another backend, for the folders on network file systems.

    Such a folder is watched as well, because changes from this machine do cause events.
    """

    def __init__(self, inner: Backend, mounts: Mounts) -> None:
        """Create the object. `inner` watches the folders, and `mounts` tells which of them need polling."""
        self._inner = inner
        self._mounts = mounts
        self._remote: dict[WatchedFolder, str] = {}
        self.name = inner.name

    def start(self, sink: Sink) -> None:
        """Begin to deliver events."""
        self._inner.start(sink)

    def watch(self, place: WatchedFolder, path: str) -> Watching:
        """Watch a folder, and note whether it needs polling too."""
        kind = self._mounts.remote_type(path)
        if kind is None:
            self._remote.pop(place, None)
        else:
            self._remote[place] = _REASON.format(kind=kind)
        return self._inner.watch(place, path)

    def polled(self, place: WatchedFolder) -> str | None:
        """Return the reason why the daemon must poll a folder."""
        return self._remote.get(place) or self._inner.polled(place)

    def unwatch(self, place: WatchedFolder) -> None:
        """Stop watching a folder."""
        self._remote.pop(place, None)
        self._inner.unwatch(place)

    def remounted(self) -> frozenset[str]:
        """Return the mount points that appeared or went. A mount over a watched folder hides it without an event."""
        return self._mounts.changed() | self._inner.remounted()

    def stop(self) -> None:
        """Stop delivering events."""
        self._inner.stop()
        self._mounts.close()
