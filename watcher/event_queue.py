"""A queue in which events wait for the worker: the only object that the threads share."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol
from uuid import UUID

from watcher.backend import Place
from watcher.debounce import ChangeKind, Debouncer, Due, Timing

__all__ = ["Affected", "EventQueue"]

_log = logging.getLogger(__name__)


class Affected(Protocol):
    """A project that tells which of its files an event is about."""

    def affected_paths(self, path: str, *, is_folder: bool) -> tuple[str, ...]:
        """Return the paths to look at, `""` for all."""


class EventQueue:
    """A `Debouncer` under a lock, with somebody waiting for it; a `Sink` of backends.

    A file that is written a thousand times is one entry. The lock is one that its holder may take again: a signal's
    handler runs in the middle of whatever its thread does.
    """

    def __init__(self, timing: Timing, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._debouncer = Debouncer(timing)
        self._changed = threading.Condition(threading.RLock())
        #: When the worker wakes up by itself; None while it works.
        self._sleeps_until: float | None = None
        self._overflows = 0
        self._stopping = False
        self._events = 0
        #: Replaced as a whole by the worker, never changed.
        self.projects: Mapping[UUID, Affected] = {}

    def __len__(self) -> int:
        return len(self._debouncer)

    @property
    def events(self) -> int:
        """The number of events so far, also about files that are no memory."""
        return self._events

    @property
    def stopping(self) -> bool:
        """True when the end was requested."""
        return self._stopping

    # From any thread.

    def changed(self, place: Place, name: str, change: ChangeKind, *, is_folder: bool) -> None:
        """Note what an event says, if it is about memory."""
        self._events += 1
        project = self.projects.get(place.project)
        if project is not None:
            path = f"{place.folder}/{name}" if place.folder else name
            for key in self._affected_paths(project, path, is_folder=is_folder):
                self.mark(place.project, key, ChangeKind.CLOSED if key == "" else change)

    def _affected_paths(self, project: Affected, path: str, *, is_folder: bool) -> tuple[str, ...]:
        try:
            return project.affected_paths(path, is_folder=is_folder)
        except Exception:  # noqa: BLE001 - see below
            # The backend's thread serves every project: it must outlive a fault in one. A scan finds what this is.
            _log.exception("cannot tell what a change is about; the project is scanned")
            return ("",)

    def root_changed(self, place: Place) -> None:
        """Ask for a scan: a folder itself is gone or not the same any more."""
        self._events += 1
        self.mark(place.project, "", ChangeKind.CLOSED)

    def overflowed(self) -> None:
        """Ask for a scan of everything."""
        with self._changed:
            self._overflows += 1
            self._changed.notify()

    def mark(self, project: UUID, path: str, change: ChangeKind) -> None:
        """Note that something has to be looked at."""
        with self._changed:
            at = self._debouncer.mark((project, path), change, self._clock())
            if self._sleeps_until is not None and at < self._sleeps_until:
                self._changed.notify()

    def stop(self) -> None:
        """Ask for the end. A signal's handler may call it."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    # From the worker.

    def wait(self, until: float) -> None:
        """Return when something is due, something else is asked for, or it is `until`."""
        with self._changed:
            while not (self._stopping or self._overflows):
                due = self._debouncer.next_at()
                self._sleeps_until = until if due is None else min(until, due)
                left_s = self._sleeps_until - self._clock()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            self._sleeps_until = None

    def wait_for_stop(self, until: float) -> None:
        """Return at `until`, or when somebody asks for the end: what is due cannot be done now."""
        with self._changed:
            while not self._stopping and (left_s := until - self._clock()) > 0:
                self._changed.wait(left_s)

    def pop(self, now: float) -> Due | None:
        """Take out what is due."""
        with self._changed:
            return self._debouncer.pop(now)

    def put_back(self, due: Due, at: float) -> None:
        """Take something back that could not be done now."""
        with self._changed:
            self._debouncer.put_back(due, at)

    def is_marked(self, project: UUID, path: str) -> bool:
        """Tell whether a path waits to be looked at."""
        with self._changed:
            return (project, path) in self._debouncer

    def forget(self, project: UUID) -> None:
        """Drop everything about a project."""
        with self._changed:
            self._debouncer.forget(project)

    def take_overflows(self) -> int:
        """Return how many overflows there were since the last call."""
        with self._changed:
            overflows, self._overflows = self._overflows, 0
            return overflows
