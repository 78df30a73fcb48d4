"""Maintenance of the database, once a day, when the worker is idle.

Maintenance has a thread and a connection of its own. It runs in small steps, and pauses between two steps while the
worker is busy. If several watchers use one database, the database decides which of them runs the maintenance.
"""

import logging
import threading
from datetime import UTC, datetime, timedelta

from attrs import frozen

from atlas_sdk import Atlas, AtlasError
from atlas_sdk.config import Settings
from atlas_sdk.maintenance import JobReport, MaintenanceProgress
from watcher.status import MaintenanceStatus

_log = logging.getLogger(__name__)

#: The rows of one transaction, which takes about ten milliseconds.
_BATCH = 1_000
#: A worker that is always busy delays each step for this long at most (seconds).
_PATIENCE_S = 5.0
#: When the daemon ends, it waits this long for the running step (seconds). The database rolls an unfinished step back.
_GRACE_S = 1.0


@frozen(kw_only=True)
class RetentionPolicy:
    """The time for which each kind of data is kept, before maintenance deletes it."""

    auto: timedelta = timedelta(days=30)
    stopped_previews: timedelta = timedelta(days=7)
    events: timedelta = timedelta(days=365)

    @classmethod
    def of(cls, settings: Settings) -> "RetentionPolicy | None":
        """Return the policy of these settings; None if they switch maintenance off."""
        if not settings.maintenance:
            return None
        return cls(
            auto=timedelta(days=settings.keep_auto_days),
            stopped_previews=timedelta(days=settings.keep_stopped_previews_days),
            events=timedelta(days=settings.keep_events_days),
        )


class MaintenanceRunner:
    """A runner of maintenance in its own thread. The worker decides when a run begins."""

    def __init__(self, retention: RetentionPolicy | None) -> None:
        #: The policy of the next run; None while maintenance is off. Any thread may replace it.
        self.retention = retention
        self._thread: threading.Thread | None = None
        #: Set while the worker has nothing else to do.
        self._idle = threading.Event()
        self._stopping = False
        #: True after a run that did not begin, because maintenance is off.
        self._skipped = False
        #: The last run that the database knows of, by any watcher or command; None when there is none.
        self.status: MaintenanceStatus | None = None

    def allow(self, *, idle: bool) -> None:
        """Let a run go on while the worker is idle, and pause it between two steps otherwise."""
        (self._idle.set if idle else self._idle.clear)()

    @property
    def is_allowed(self) -> bool:
        """True while the worker is idle."""
        return self._idle.is_set()

    def begin(self, atlas: Atlas) -> None:
        """Start a run, unless maintenance is off or the daemon is about to end."""
        retention = self.retention
        if retention is None:
            self._skipped = True
        elif not self._stopping:
            # Use a daemon thread: a statement that hangs must not keep the process alive.
            self._thread = threading.Thread(
                target=self._run, args=(atlas, retention), name="atlas-maintenance", daemon=True
            )
            self._thread.start()

    def take_ended(self) -> bool:
        """Return True for the first call after a run has ended or was skipped, else False."""
        if self._skipped:
            self._skipped = False
            return True
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread = None
        return True

    def stop(self) -> None:
        """Make the present run end at its next step, and begin no other run."""
        self._stopping = True
        self._idle.set()

    def join(self) -> None:
        """Wait at most one second for the step that runs now."""
        if self._thread is not None:
            self._thread.join(_GRACE_S)

    # The maintenance thread runs the methods below.

    def _run(self, atlas: Atlas, retention: RetentionPolicy) -> None:
        try:
            reports = atlas.maintenance.run_if_due(
                keep_auto=retention.auto,
                keep_stopped_previews=retention.stopped_previews,
                keep_events=retention.events,
                batch=_BATCH,
                progress=self._may_go_on,
            )
            if reports is not None:
                _log_reports(reports)
            last = next(iter(atlas.maintenance.runs(limit=1)), None)
            if last is not None:
                removed = sum(report.removed for report in last.jobs)
                self.status = MaintenanceStatus(
                    at=last.started_at, outcome=last.outcome, removed=removed, problem=last.problem
                )
        except AtlasError as problem:
            if not self._stopping:
                _log.warning("maintenance failed and is tried again later: %s", problem)
                self.status = MaintenanceStatus(at=datetime.now(UTC), outcome="failed", problem=str(problem))
        except Exception:  # noqa: BLE001 - nothing else reports an exception of this thread
            _log.exception("maintenance failed and is tried again later")

    def _may_go_on(self, _: MaintenanceProgress) -> bool:
        self._idle.wait(_PATIENCE_S)
        return not self._stopping


def _log_reports(reports: list[JobReport]) -> None:
    for report in reports:
        if report.problem is not None:
            _log.warning("maintenance: %s failed and is tried again later: %s", report.name, report.problem)
    done = ", ".join(f"{report.name} {report.removed}" for report in reports if report.removed)
    _log.info("maintenance: %s", done or "nothing to remove")
