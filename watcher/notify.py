"""Tell systemd how the daemon is (sd_notify(3)), and prove to its watchdog that the worker is alive."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from atlas_sdk.text import cut, visible
from watcher.status import Status

#: A worker whose last step began longer ago than this (seconds) hangs. Between two steps it sleeps for 20 s at most, a
#: file of the largest size takes some tenths of a second, and draining ten seconds.
HANGS_S: Final = 60.0
#: Without a watchdog, the seconds between two looks at the worker while systemd waits for the start or the end.
_EXTEND_EVERY_S: Final = 5.0
#: The time by which each message extends the start or the end (seconds). It covers two missed messages.
_EXTEND_BY_S: Final = 20.0
#: The longest text of STATUS=, in characters: `systemctl status` shows one line.
_LETTERS: Final = 200
_MICROSECONDS: Final = 1_000_000


class Notifier:
    """The channel to systemd. Without one (NOTIFY_SOCKET is not set), every method does nothing.

    The main thread calls `tick` at intervals of `interval_s`. Each tick sends WATCHDOG=1 if the worker is alive. If the
    worker hangs, the messages stop, and systemd restarts the service.
    """

    def __init__(
        self, is_alive: Callable[[], bool], *, environment: Mapping[str, str] | None = None, pid: int | None = None
    ) -> None:
        given = os.environ if environment is None else environment
        self._is_alive = is_alive
        self._address = given.get("NOTIFY_SOCKET", "")
        self._watchdog_s = _watchdog_s(given, os.getpid() if pid is None else pid) if self._address else None
        self._phase = "starting"
        self._text = ""

    @property
    def interval_s(self) -> float | None:
        """The seconds between two ticks; None if nobody waits for them.

        A third of the watchdog's time: sd_watchdog_enabled(3) recommends half of it.
        """
        if not self._address:
            return None
        return _EXTEND_EVERY_S if self._watchdog_s is None else min(_EXTEND_EVERY_S, self._watchdog_s / 3)

    def tick(self) -> None:
        """Send a sign of life, if the worker is alive; while the daemon starts or ends, ask for more time for it."""
        if not self._address or not self._is_alive():
            return
        lines = []
        if self._watchdog_s is not None:
            lines.append("WATCHDOG=1")
        if self._phase != "running":
            lines.append(f"EXTEND_TIMEOUT_USEC={int(_EXTEND_BY_S * _MICROSECONDS)}")
        if lines:
            self._send(*lines)

    def report(self, status: Status) -> None:
        """Send a changed status. READY=1 goes with the first status that is ready.

        A daemon that knows no projects and waits for the database has started too: without READY=1, systemd would end
        and restart it for as long as the outage lasts.
        """
        text = described(status)
        lines = [] if text == self._text else [f"STATUS={text}"]
        waits = status.database.problem is not None and not status.projects
        if self._phase == "starting" and (status.ready or waits):
            self._phase = "running"
            lines.append("READY=1")
        self._text = text
        if lines:
            self._send(*lines)

    def reloading(self) -> None:
        """Tell that the daemon reads its settings again. Call `reloaded` afterwards."""
        if self._phase == "running":
            self._phase = "reloading"
            # systemd asks for the time of CLOCK_MONOTONIC, to know to which signal the answer belongs.
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Tell that the daemon uses the new settings."""
        if self._phase == "reloading":
            self._phase = "running"
            self._send("READY=1")

    def stopping(self) -> None:
        """Tell that the daemon stores the remaining changes and ends."""
        if self._phase != "stopping":
            self._phase = "stopping"
            self._send("STOPPING=1", "STATUS=storing what is left")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the NUL of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A lost message is no fault of the daemon: without pings systemd restarts it, and nothing else depends on them.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            # Do not wait for a manager that reads nothing.
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)


def described(status: Status) -> str:
    """Return a status as one line: the projects, the waiting changes, and the first problem."""
    number = len(status.projects)
    parts = [f"{number} project{'' if number == 1 else 's'}"]
    if status.pending:
        parts.append(f"{status.pending} waiting")
    if status.journal.records:
        parts.append(f"{status.journal.records} only in the journal")
    lost = sum(project.lost for project in status.projects)
    if lost:
        parts.append(f"{lost} lost")
    if status.journal.problem is not None:
        parts.append(f"journal: {status.journal.problem}")
    if status.database.problem is not None:
        parts.append(f"database: {status.database.problem}")
    elif not status.ready:
        parts.append("starting")
    return cut(visible("; ".join(parts)), _LETTERS)


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Return the time after which systemd restarts a silent daemon; None if it has no watchdog for this process."""
    text, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0 or owner not in {"", str(pid)}:
        return None
    return int(text) / _MICROSECONDS
