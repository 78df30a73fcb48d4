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
from atlas_sdk.actor import login_name, new_id
from atlas_sdk.config import home_folder
from atlas_sdk.journal import Journal
from watcher import status
from watcher.backend import Backend, Polling
from watcher.capture import Reader
from watcher.database import Database
from watcher.database_schedule import DatabaseSchedule
from watcher.debounce import Timing
from watcher.delivery import Delivery
from watcher.event_queue import EventQueue
from watcher.lock import AlreadyRunning, take
from watcher.maintenance import MaintenanceRunner, RetentionPolicy
from watcher.status import Status
from watcher.worker import Worker

_log = logging.getLogger(__name__)

#: Seconds for one attempt to connect: SIGTERM must not wait for long while the database is out of reach.
_CONNECT_S = 2.0
#: After the time for the last delivery, the daemon waits this long (seconds) for the delivery thread.
_GRACE_S = 0.5


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

    Without `dsn`, the daemon uses the embedded server of `home`; without `home`, the usual home. Every change goes into
    the journal of the home, and from there to the database. Another thread calls `ready` once, when every project is
    watched and was compared. With `retention` the daemon does maintenance once a day, see `watcher.maintenance`.
    Returns 1, with a sentence in the log, when another daemon has this home, another OS user may change the home, or
    the journal cannot be opened. Without `stop`, call `run` from the main thread: no other thread can handle signals.
    """
    folder = home_folder() if home is None else home
    try:
        lock = take(folder)
    except (AlreadyRunning, FileProblem) as refusal:
        _log.error("%s", refusal)
        return 1
    try:
        journal = Journal.open(folder)
    except FileProblem as problem:
        # Without a journal nothing can be captured: it has the format of another program, or the disk is full.
        _log.error("%s", problem)
        os.close(lock)
        return 1
    try:
        _serve(journal, dsn, folder, stop, ready, timing or Timing(), backend or _system_backend(), retention)
    finally:
        os.close(lock)
    return 0


def _serve(
    journal: Journal,
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
    attribution = Attribution(source="watcher", login=login_name())
    # Allow two connections: the delivery uses one, and maintenance uses the other.
    connect = partial(Atlas.open, dsn, home=home, attribution=attribution, connect_timeout_s=_CONNECT_S, pool_max=2)
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
    projects = [project for project in journal.projects() if project.status == "active"]
    heads = journal.heads()
    delivery = Delivery(
        database=database,
        journal=journal,
        schedule=DatabaseSchedule(timing),
        clock=time.monotonic,
        post=queue.post,
        maintenance=maintenance,
        known={project.id for project in projects},
        listens=True,
    )
    worker = Worker(
        database=database,
        journal=journal,
        delivery=delivery,
        reader=Reader(attribution, new_id),
        backend=backend,
        queue=queue,
        timing=timing,
        clock=time.monotonic,
        started=started,
        report=report,
        maintenance=maintenance,
    )
    worker.load(projects, heads)
    ended = stop or threading.Event()
    thread = threading.Thread(target=_work, args=(worker, ended), name="atlas-watcher")
    # A daemon thread, because a connection attempt to a host that does not answer must not keep the process alive.
    deliverer = threading.Thread(target=delivery.run, name="atlas-delivery", daemon=True)
    try:
        with _signals(queue) if stop is None else nullcontext():
            deliverer.start()
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
            # The changes are in the journal now. Deliver them, if there is time. While the database is away, the
            # thread may be in an attempt to connect: do not wait for that.
            deadline = (worker.drained_from or time.monotonic()) + timing.drain_s
            delivery.stop(deadline)
            left_s = max(deadline - time.monotonic(), 0) if database.status.ok else 0
            deliverer.join(left_s + _GRACE_S)
    finally:
        backend.stop()
        if maintenance is not None:
            maintenance.stop()
            maintenance.join()
        if not deliverer.is_alive():
            database.close()
            journal.close()


def _system_backend() -> Backend:
    """Return the backend of this operating system."""
    if platform.system() == "Linux":
        from watcher.inotify import Inotify  # noqa: PLC0415 - watchdog's module is for this system only

        return Inotify()
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
        return Polling()
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
