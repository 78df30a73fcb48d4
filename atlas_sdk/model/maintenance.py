"""Reports of maintenance: jobs, runs and progress."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.model.attribution import Attribution, attribution_of

__all__ = ["MAINTENANCE_JOBS", "JobReport", "MaintenanceProgress", "MaintenanceRun"]

#: The jobs in the order of a run: deleting versions frees contents, and deleting previews frees names.
MAINTENANCE_JOBS: Final = (
    "periods",
    "reservations",
    "sessions",
    "previews",
    "claims",
    "snapshots",
    "contents",
    "events",
    "usage",
)

_OUTCOMES: Final = ("running", "done", "stopped", "failed")


@frozen(kw_only=True)
class JobReport:
    """The result of one maintenance job; with `dry_run` the expected result."""

    name: str = field(validator=in_(MAINTENANCE_JOBS))
    #: Rows that the job read.
    examined: int = 0
    #: Rows that the job deleted; for "periods" the closed periods, for "reservations" the ended reservations, for
    #: "usage" none.
    removed: int = 0
    #: Rows left to the next run: another session had locked them, or a transaction may still need the content.
    skipped: int = 0
    #: Bytes of deleted contents; None for jobs that do not report sizes.
    freed_bytes: int | None = None
    took: timedelta = timedelta(0)
    #: False when the job was stopped or failed.
    complete: bool = True
    dry_run: bool = False
    #: The reason of a failure, in one sentence.
    problem: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the report for a jsonb column and for `--json`."""
        return {
            "name": self.name,
            "examined": self.examined,
            "removed": self.removed,
            "skipped": self.skipped,
            "freed_bytes": self.freed_bytes,
            "took_s": round(self.took.total_seconds(), 3),
            "complete": self.complete,
            "dry_run": self.dry_run,
            "problem": self.problem,
        }


@frozen(kw_only=True)
class MaintenanceProgress:
    """The progress of a job, reported after each batch."""

    job: str
    examined: int
    removed: int


def _reports(value: Any) -> tuple[JobReport, ...]:
    return tuple(one if isinstance(one, JobReport) else _report(one) for one in value)


def _report(value: Mapping[str, Any]) -> JobReport:
    known = {name: value[name] for name in value if name != "took_s"}
    return JobReport(took=timedelta(seconds=value["took_s"]), **known)


@frozen(kw_only=True)
class MaintenanceRun:
    """The record of one maintenance run."""

    id: UUID
    started_at: datetime = field(repr=str)
    #: None while the run is under way, and for a run whose process was killed.
    ended_at: datetime | None = field(default=None, repr=str)
    #: "running", "done", "stopped" before its end, or "failed".
    outcome: str = field(validator=in_(_OUTCOMES))
    #: True for a run of every job. Only such a run counts as the run of the day.
    whole: bool
    problem: str | None = None
    #: The reports of the jobs; empty while the run is under way.
    jobs: tuple[JobReport, ...] = field(default=(), converter=_reports)
    attribution: Attribution = field(converter=attribution_of, repr=False)
