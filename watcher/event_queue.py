"""A queue in which changed files wait for the worker: the only object that the threads share."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol
from uuid import UUID

from watcher.backend import WatchedFolder
from watcher.debounce import ChangeKind, Debouncer, Due, Key, Timing

_log = logging.getLogger(__name__)


class Affected(Protocol):
    """A project, as far as the queue needs it: the project finds the files that an event is about."""

    def affected_paths(self, path: str, *, is_folder: bool) -> tuple[str, ...]:
        """Return the paths to look at after an event on `path`; `""` asks for a scan of the project."""


class EventQueue:
    """A `Debouncer` under a lock. The backend adds changes (the queue is its `Sink`), and the worker takes due paths.

    A file that is written a thousand times is one entry. The lock is reentrant: a signal's handler, which calls `stop`,
    may interrupt a method that holds the lock.
    """

    def __init__(self, timing: Timing, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._debouncer = Debouncer(timing)
        self._changed = threading.Condition(threading.RLock())
        #: The time at which the worker wakes up by itself; None while it works.
        self._sleeps_until: float | None = None
        self._overflows = 0
        self._messages: list[Callable[[], None]] = []
        self._stopping = False
        self._events = 0
        #: The worker replaces the mapping and never changes it, so other threads may read it without the lock.
        self.projects: Mapping[UUID, Affected] = {}

    def __len__(self) -> int:
        return len(self._debouncer)

    @property
    def events(self) -> int:
        """The number of events so far, also of files that are not tracked."""
        return self._events

    @property
    def has_messages(self) -> bool:
        """True when a function waits for the worker's thread."""
        return bool(self._messages)

    @property
    def stopping(self) -> bool:
        """True after `stop`."""
        return self._stopping

    # Any thread may call the methods below.

    def changed(self, place: WatchedFolder, name: str, change: ChangeKind, *, is_folder: bool) -> None:
        """Mark the tracked files that an event is about."""
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
            # The backend's thread serves every project, so a fault in one must not end it. A scan finds the change.
            _log.exception("cannot tell what a change is about; the project is scanned")
            return ("",)

    def root_changed(self, place: WatchedFolder) -> None:
        """Mark the project for a scan: one of its folders is gone or replaced."""
        self._events += 1
        self.mark(place.project, "", ChangeKind.CLOSED)

    def overflowed(self) -> None:
        """Ask the worker to scan every project, because the system has lost events."""
        with self._changed:
            self._overflows += 1
            self._changed.notify()

    def mark(self, project: UUID, path: str, change: ChangeKind) -> None:
        """Mark a path, so that the worker looks at it."""
        with self._changed:
            at = self._debouncer.mark((project, path), change, self._clock())
            if self._sleeps_until is not None and at < self._sleeps_until:
                self._changed.notify()

    def post(self, message: Callable[[], None]) -> None:
        """Let the worker's thread call a function in its next step."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify()

    def stop(self) -> None:
        """Ask the worker to end. A signal's handler may call this."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    # Only the worker calls the methods below.

    def wait(self, until: float) -> None:
        """Wait until a path is due, events are lost, or `post` or `stop` is called; at most until the time `until`."""
        with self._changed:
            while not (self._stopping or self._overflows or self._messages):
                due = self._debouncer.next_at()
                self._sleeps_until = until if due is None else min(until, due)
                left_s = self._sleeps_until - self._clock()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            self._sleeps_until = None

    def wait_for_stop(self, until: float) -> None:
        """Wait until `stop` is called or the time is `until`, even if a path is due: the worker has failed."""
        with self._changed:
            while not self._stopping and (left_s := until - self._clock()) > 0:
                self._changed.wait(left_s)

    def pop(self, now: float) -> Due | None:
        """Remove and return the next path that is due; return None when no path is due."""
        with self._changed:
            return self._debouncer.pop(now)

    def put_back(self, due: Due, at: float) -> None:
        """Put back a path that the worker could not handle now. The path is due again at `at`."""
        with self._changed:
            self._debouncer.put_back(due, at)

    def forget(self, project: UUID) -> None:
        """Drop every path of a project."""
        with self._changed:
            self._debouncer.forget(project)

    def waiting(self) -> dict[Key, float]:
        """Return the paths that wait, each with the time of its first change."""
        with self._changed:
            return self._debouncer.waiting()

    def take_messages(self) -> list[Callable[[], None]]:
        """Return the functions that other threads have posted since the last call."""
        with self._changed:
            messages, self._messages = self._messages, []
            return messages

    def take_overflows(self) -> int:
        """Return the number of overflows since the last call."""
        with self._changed:
            overflows, self._overflows = self._overflows, 0
            return overflows
