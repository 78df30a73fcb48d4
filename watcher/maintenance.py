"""Maintenance of the database, once a day, when nothing else is to be done.

It runs in a thread of its own, on a connection of its own, in small steps, and between two of them it waits while the
worker has something to do. Whose turn it is among the watchers of a database, the database says.
"""

import logging
import math
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from attrs import frozen

from atlas_sdk import Atlas, AtlasError, JobReport, MaintenanceProgress
from atlas_sdk.config import Settings
from watcher.debounce import Timing
from watcher.status import MaintenanceStatus

__all__ = ["MaintenanceScheduler", "RetentionPolicy"]

_log = logging.getLogger(__name__)

#: Rows of one transaction: some ten milliseconds.
_BATCH = 1_000
#: A worker that always has something to do holds each step up for this long at most (seconds).
_PATIENCE_S = 5.0
#: What a step that is under way may still take when the daemon ends (seconds); otherwise the database takes it back.
_GRACE_S = 1.0


@frozen(kw_only=True)
class RetentionPolicy:
    """The retention of each kind of data."""

    auto: timedelta = timedelta(days=30)
    stopped_previews: timedelta = timedelta(days=7)
    events: timedelta = timedelta(days=365)

    @classmethod
    def of(cls, settings: Settings) -> "RetentionPolicy | None":
        """Return what the settings say; None: no maintenance by the watcher."""
        if not settings.maintenance:
            return None
        return cls(
            auto=timedelta(days=settings.keep_auto_days),
            stopped_previews=timedelta(days=settings.keep_stopped_previews_days),
            events=timedelta(days=settings.keep_events_days),
        )


class MaintenanceScheduler:
    """Asks now and then whether maintenance is due, and does it. `step` and `stop` are the worker's."""

    def __init__(
        self,
        retention: RetentionPolicy,
        *,
        timing: Timing,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._retention = retention
        self._timing = timing
        self._clock = clock
        self._jitter = jitter
        self._at = clock() + self._some(timing.maintenance_first_s)
        self._thread: threading.Thread | None = None
        #: Whether the worker has nothing to do.
        self._quiet = threading.Event()
        self._stopping = False
        #: The last run of the database's, whoever's it was; None: none is known of.
        self.status: MaintenanceStatus | None = None

    def _some(self, seconds: float) -> float:
        """Return about that long: the watchers of many machines must not all come at the same time."""
        return seconds * (0.5 + self._jitter())

    @property
    def next_at(self) -> float:
        """When the worker should come by again, if nothing else brings it."""
        return math.inf if self._thread is not None else self._at

    def step(self, now: float, atlas: Callable[[], Atlas], *, quiet: bool) -> None:
        """Begin when it is time and nothing else is to be done. Called again and again, also while it runs."""
        if not quiet:
            self._quiet.clear()
            return
        self._quiet.set()
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
            self._at = now + self._some(self._timing.maintenance_s)
        if self._thread is None and now >= self._at and not self._stopping:
            # A daemon thread: a statement that hangs must not keep the process.
            self._thread = threading.Thread(target=self._run, args=(atlas(),), name="atlas-maintenance", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ask for the end: nothing new is begun."""
        self._stopping = True
        self._quiet.set()

    def join(self) -> None:
        """Wait a moment for what is under way."""
        if self._thread is not None:
            self._thread.join(_GRACE_S)

    # In its own thread.

    def _run(self, atlas: Atlas) -> None:
        try:
            reports = atlas.maintenance.run_if_due(
                keep_auto=self._retention.auto,
                keep_stopped_previews=self._retention.stopped_previews,
                keep_events=self._retention.events,
                batch=_BATCH,
                progress=self._may_go_on,
            )
            if reports is not None:
                self._tell(reports)
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
        except Exception:  # noqa: BLE001 - see below
            # Nobody sees an exception of a thread.
            _log.exception("maintenance failed and is tried again later")

    def _tell(self, reports: list[JobReport]) -> None:
        for report in reports:
            if report.problem is not None:
                _log.warning("maintenance: %s failed and is tried again later: %s", report.name, report.problem)
        done = ", ".join(f"{report.name} {report.removed}" for report in reports if report.removed)
        _log.info("maintenance: %s", done or "nothing to remove")

    def _may_go_on(self, _: MaintenanceProgress) -> bool:
        self._quiet.wait(_PATIENCE_S)
        return not self._stopping
