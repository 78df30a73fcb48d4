"""Run the daemon until a signal or the caller stops it. Only one daemon can use a home."""

import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from uuid import UUID

from atlas_sdk import Atlas, Attribution, FileProblem, InvalidInput, Project
from atlas_sdk.actor import login_name, new_id
from atlas_sdk.config import home_folder
from atlas_sdk.journal import Journal, KnownHead
from watcher import status
from watcher.backend import Backend
from watcher.capture import Reader
from watcher.database import Database
from watcher.database_schedule import DatabaseSchedule
from watcher.debounce import Timing
from watcher.delivery import DeliveryThread
from watcher.event_queue import EventQueue
from watcher.lock import AlreadyRunning, take
from watcher.maintenance import MaintenanceRunner, RetentionPolicy
from watcher.mounts import Mounts
from watcher.notify import HANGS_S, Notifier
from watcher.polling import MountAware, Polling
from watcher.status import Status
from watcher.worker import Worker

_log = logging.getLogger(__name__)

#: The active projects and the newest versions of their files that the journal remembers.
Remembered = tuple[Sequence[Project], Mapping[UUID, Sequence[KnownHead]]]
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
    reread: Callable[[], RetentionPolicy | None] | None = None,
    told: Callable[[Status], None] | None = None,
) -> int:
    """Watch every registered project until `stop` is set, or without one until SIGTERM or SIGINT; return the exit code.

    Without `dsn`, the daemon uses the embedded server of `home`; without `home`, the usual home. Every change goes into
    the journal of the home, and from there to the database. Another thread calls `ready` once, when every project is
    watched and was compared. With `retention` the daemon does maintenance once a day, see `watcher.maintenance`. At
    SIGHUP, the daemon calls `reread` for the new policy, and reads the list of projects again; without `reread` it
    ends. The worker's thread calls `told` with each status. Returns 1, with a sentence in the log, when another daemon
    has this home, another OS user may change the home, or the journal cannot be opened. Without `stop`, call `run` from
    the main thread: no other thread can handle signals.
    """
    folder = home_folder() if home is None else home
    try:
        lock = take(folder)
    except (AlreadyRunning, FileProblem) as refusal:
        _log.error("%s", refusal)
        return 1
    try:
        journal = Journal.open(folder)
        projects, heads = journal.projects(), journal.heads()
    except FileProblem as problem:
        # Without a journal nothing can be captured: it has the format of another program, or the disk is full.
        _log.error("%s", problem)
        os.close(lock)
        return 1
    try:
        active = [project for project in projects if project.status == "active"]
        _serve(
            journal=journal,
            remembered=(active, heads),
            dsn=dsn,
            home=folder,
            stop=stop,
            ready=ready,
            timing=timing or Timing(),
            backend=backend or _system_backend(),
            retention=retention,
            reread=reread,
            told=told,
        )
    finally:
        os.close(lock)
    return 0


def _serve(
    *,
    journal: Journal,
    remembered: Remembered,
    dsn: str | None,
    home: Path,
    stop: threading.Event | None,
    ready: Callable[[], None] | None,
    timing: Timing,
    backend: Backend,
    retention: RetentionPolicy | None,
    reread: Callable[[], RetentionPolicy | None] | None,
    told: Callable[[Status], None] | None,
) -> None:
    queue = EventQueue(timing, clock=time.monotonic)
    backend = _started(backend, queue)
    started = Status(pid=os.getpid(), started_at=datetime.now(UTC), backend=backend.name)
    status.write(home, started)
    attribution = Attribution(source="watcher", login=login_name())
    # Allow two connections: the delivery uses one, and maintenance uses the other.
    connect = partial(Atlas.open, dsn, home=home, attribution=attribution, connect_timeout_s=_CONNECT_S, pool_max=2)
    database = Database(connect)
    worker: Worker
    notifier = Notifier(lambda: time.monotonic() - worker.alive_at < HANGS_S)
    # A later SIGHUP may switch maintenance on.
    maintenance = None if retention is None and reread is None else MaintenanceRunner(retention)
    delivery = DeliveryThread(
        database=database,
        journal=journal,
        schedule=DatabaseSchedule(timing),
        clock=time.monotonic,
        post=queue.post,
        maintenance=maintenance,
        known={project.id for project in remembered[0]},
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
        report=_Reporter(home, notifier, ready=ready, told=told).report,
        maintenance=maintenance,
    )
    worker.load(*remembered)
    ended = stop or threading.Event()
    thread = threading.Thread(target=_work, args=(worker, ended), name="atlas-watcher")
    # A daemon thread, because a connection attempt to a host that does not answer must not keep the process alive.
    deliverer = threading.Thread(target=delivery.run, name="atlas-delivery", daemon=True)
    try:
        reload = None if reread is None else partial(_reload, reread, maintenance, notifier, delivery)
        with _signals(queue, notifier, reload) if stop is None else nullcontext():
            deliverer.start()
            thread.start()
            if stop is not None:
                while not stop.wait(notifier.interval_s):
                    notifier.tick()
                notifier.stopping()
                queue.stop()
            # Join the thread instead of waiting for the event: a signal's handler runs in this thread, and must not
            # need a lock that this thread holds.
            while thread.is_alive():
                notifier.tick()
                thread.join(notifier.interval_s)
            notifier.tick()
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


class _Reporter:
    """The receiver of each status of the worker, which passes the status on."""

    def __init__(
        self,
        home: Path,
        notifier: Notifier,
        *,
        ready: Callable[[], None] | None,
        told: Callable[[Status], None] | None,
    ) -> None:
        self._home = home
        self._notifier = notifier
        self._ready = ready
        self._told = told

    def report(self, now: Status) -> None:
        """Write a status to its file; tell it to systemd and to the caller of `run`."""
        with _disk_may_be_full():
            status.write(self._home, now)
        self._notifier.report(now)
        if self._told is not None:
            self._told(now)
        if now.ready and self._ready is not None:
            ready, self._ready = self._ready, None
            ready()


def _reload(
    reread: Callable[[], RetentionPolicy | None],
    maintenance: MaintenanceRunner | None,
    notifier: Notifier,
    delivery: DeliveryThread,
) -> None:
    """Read the settings again, and ask for the list of projects."""
    notifier.reloading()
    # A wrong settings file must not end a daemon that works.
    try:
        policy = reread()
    except InvalidInput as problem:
        _log.warning("%s; the settings stay as they were", problem)
    else:
        if maintenance is not None:
            maintenance.retention = policy
    delivery.list_soon(notifier.reloaded)


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
def _signals(queue: EventQueue, notifier: Notifier, reload: Callable[[], None] | None) -> Iterator[None]:
    """Handle signals. Without `reload`, SIGHUP ends the daemon, as the closing of its terminal should."""

    def end(number: int, _: FrameType | None) -> None:
        _log.info("%s: storing what is left", signal.Signals(number).name)
        notifier.stopping()
        queue.stop()

    def hang_up(number: int, frame: FrameType | None) -> None:
        if reload is None:
            end(number, frame)
            return
        _log.info("%s: reading the settings and the list of projects again", signal.Signals(number).name)
        reload()

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: hang_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
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
