"""A Prometheus endpoint on 127.0.0.1, from the statuses of the worker. It needs the extra "metrics"."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from atlas_sdk import MissingExtra
from watcher.status import Status

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_log = logging.getLogger(__name__)

#: Only programs of this machine can connect: the names of projects are nobody else's business.
_ADDRESS: Final = "127.0.0.1"
_COUNTERS: Final = {
    "events": "Events of the operating system, also about files that are not memory.",
    "captures": "Files that were read because they may have changed.",
    "versions": "Versions that were captured.",
    "deletions": "Deletions that were captured.",
    "delivered": "Versions and deletions that reached the database.",
    "scans": "Scans of a project.",
    "overflows": "Times that the operating system lost events; every project was scanned then.",
    "errors": "Failures of any kind; the log names them.",
}


class Metrics:
    """The endpoint. It answers with the numbers of the newest status; a scrape never asks the worker."""

    def __init__(self, port: int) -> None:
        """Start to serve on a port; 0 takes a free one. Raises MissingExtra, and OSError if the port is taken."""
        try:
            from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise MissingExtra("metrics", needed_for="--metrics") from exc
        self._status: Status | None = None
        registry = CollectorRegistry()
        registry.register(self)
        self._server, self._thread = start_http_server(port, addr=_ADDRESS, registry=registry)
        self.port: int = self._server.server_port
        _log.info("metrics: http://%s:%d/metrics", _ADDRESS, self.port)

    def report(self, status: Status) -> None:
        """Take the newest status."""
        self._status = status

    def close(self) -> None:
        """Stop to serve."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> "Iterable[Metric]":
        """Yield the metrics of the newest status; none before the first one."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - an extra

        status = self._status
        if status is None:
            return
        counters = {**status.counters, "versions": status.counters.get("snapshots", 0)}
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"atlas_watcher_{name}", text, value=counters.get(name, 0))
        for name, (text, value) in _gauges(status, datetime.now(UTC)).items():
            yield GaugeMetricFamily(f"atlas_watcher_{name}", text, value=value)


def _gauges(status: Status, now: datetime) -> dict[str, tuple[str, float]]:
    journal = status.journal
    pending_age_s, journal_age_s = _age_s(status.oldest_pending_at, now), _age_s(journal.oldest_at, now)
    lost = sum(project.lost for project in status.projects)
    problems = sum(file.problem is not None for project in status.projects for file in project.files)
    return {
        "ready": ("1 if every project is watched and was compared.", float(status.ready)),
        "database_up": ("1 if the database answered the last question.", float(status.database.ok)),
        "projects": ("Registered projects.", len(status.projects)),
        "projects_lost": ("Projects whose folder is gone, replaced or cannot be opened.", lost),
        "files_with_problem": ("Files whose newest content could not be stored.", problems),
        "watch_failures": ("Projects with folders that cannot be watched.", status.counters.get("watch_failures", 0)),
        "pending": ("Files and projects that wait for the worker.", status.pending),
        "oldest_pending_age_seconds": ("Age of the change that has waited longest.", pending_age_s),
        "journal_records": ("Versions that are saved here and not in the database yet.", journal.records),
        "journal_bytes": ("Size of these versions.", journal.bytes),
        "journal_oldest_age_seconds": ("Age of the oldest of these versions.", journal_age_s),
        "journal_held_back": ("Versions that the database refused.", journal.held_back),
        "journal_dropped": ("Intermediate versions that a full journal gave up.", journal.dropped),
        "start_time_seconds": ("Start of the daemon, seconds since 1970.", status.started_at.timestamp()),
        "status_age_seconds": ("Age of these numbers; a hung worker lets it grow.", status.age_s(now)),
    }


def _age_s(moment: datetime | None, now: datetime) -> float:
    """Return the age of a moment in seconds; 0 if nothing waits."""
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())
