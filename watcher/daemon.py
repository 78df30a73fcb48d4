"""Run the daemon until a signal or the caller stops it. Only one daemon can use a home."""

import logging
import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType

from atlas_sdk import Atlas, Attribution, FileProblem
from atlas_sdk.config import home_folder
from watcher import status
from watcher.backend import Backend
from watcher.database import Database
from watcher.debounce import Timing
from watcher.event_queue import EventQueue
from watcher.lock import AlreadyRunning, take
from watcher.maintenance import MaintenanceRunner, RetentionPolicy
from watcher.mounts import Mounts
from watcher.polling import MountAware, Polling
from watcher.status import Status
from watcher.worker import Worker

_log = logging.getLogger(__name__)

#: Seconds for one attempt to connect: SIGTERM must not wait for long while the database is out of reach.
_CONNECT_S = 2.0


def run(
    *,
    dsn: str | None = None,
    home: Path | None = None,
    stop: threading.Event | None = None,
    ready: Callable[[], None] | None = None,
    timing: Timing | None = None,
    backend: Backend | None = None,
    retention: RetentionPolicy | None = None,
) -> int:
    """Watch every registered project until `stop` is set, or without one until SIGTERM or SIGINT; return the exit code.

    Without `dsn`, the daemon uses the embedded server of `home`; without `home`, the usual home. Another thread calls
    `ready` once, when every project is watched and was compared. With `retention` the daemon does maintenance once a
    day, see `watcher.maintenance`. Returns 1, with a sentence in the log, when another daemon has this home, or another
    OS user may change the home. Without `stop`, call `run` from the main thread: no other thread can handle signals.
    """
    folder = home_folder() if home is None else home
    try:
        lock = take(folder)
    except (AlreadyRunning, FileProblem) as refusal:
        _log.error("%s", refusal)
        return 1
    try:
        _serve(dsn, folder, stop, ready, timing or Timing(), backend or _system_backend(), retention)
    finally:
        os.close(lock)
    return 0


def _serve(
    dsn: str | None,
    home: Path,
    stop: threading.Event | None,
    ready: Callable[[], None] | None,
    timing: Timing,
    backend: Backend,
    retention: RetentionPolicy | None,
) -> None:
    queue = EventQueue(timing, clock=time.monotonic)
    backend = _started(backend, queue)
    started = Status(pid=os.getpid(), started_at=datetime.now(UTC), backend=backend.name)
    status.write(home, started)
    # Allow two connections: the worker uses one, and maintenance uses the other.
    connect = partial(
        Atlas.open, dsn, home=home, attribution=Attribution(source="watcher"), connect_timeout_s=_CONNECT_S, pool_max=2
    )
    database = Database(connect)
    told = False

    def report(now: Status) -> None:
        nonlocal told
        with _disk_may_be_full():
            status.write(home, now)
        if now.ready and not told:
            told = True
            notify("READY=1")
            if ready is not None:
                ready()

    maintenance = None if retention is None else MaintenanceRunner(retention)
    worker = Worker(
        database=database,
        backend=backend,
        queue=queue,
        timing=timing,
        clock=time.monotonic,
        started=started,
        report=report,
        maintenance=maintenance,
    )
    ended = stop or threading.Event()
    thread = threading.Thread(target=_work, args=(worker, ended), name="atlas-watcher")
    try:
        with _signals(queue) if stop is None else nullcontext():
            thread.start()
            if stop is None:
                # Join the thread instead of waiting for the event: a signal's handler runs in this thread, and must not
                # need a lock that this thread holds.
                thread.join()
            else:
                stop.wait()
                notify("STOPPING=1")
                queue.stop()
                thread.join()
    finally:
        backend.stop()
        if maintenance is not None:
            maintenance.stop()
            maintenance.join()
        database.close()


def _system_backend() -> Backend:
    """Return the backend of this operating system."""
    if platform.system() == "Linux":
        from watcher.inotify import Inotify  # noqa: PLC0415 - watchdog's module is for this system only

        return MountAware(Inotify(), Mounts())
    from watcher.observer import Observing  # noqa: PLC0415

    return Observing()


def _started(backend: Backend, queue: EventQueue) -> Backend:
    try:
        backend.start(queue)
    except OSError as error:
        _log.warning(
            "cannot watch (%s): every folder is polled every few seconds instead; "
            "for too many instances raise: sysctl fs.inotify.max_user_instances=1024",
            error.strerror or error,
        )
        return Polling(f"inotify cannot be used: {error.strerror or error}")
    return backend


def _work(worker: Worker, ended: threading.Event) -> None:
    try:
        worker.run()
    finally:
        ended.set()


@contextmanager
def _signals(queue: EventQueue) -> Iterator[None]:
    def handle(number: int, _: FrameType | None) -> None:
        _log.info("%s: storing what is left", signal.Signals(number).name)
        notify("STOPPING=1")
        queue.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _disk_may_be_full() -> Iterator[None]:
    """Log errors of the status file and go on: versions are stored in the database, not on this disk."""
    try:
        yield
    except OSError as error:
        _log.warning("cannot write the status file: %s", error)


def notify(message: str) -> None:
    """Send a message to systemd, if systemd started this process with Type=notify (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        # A leading @ stands for the NUL of an abstract address.
        channel.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
