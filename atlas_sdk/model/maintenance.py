"""Reports of maintenance: of a job, of a run, and of progress."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from attrs import field, frozen
from attrs.validators import in_

from atlas_sdk.model.attribution import Attribution, attribution_of

__all__ = ["MAINTENANCE_JOBS", "JobReport", "MaintenanceProgress", "MaintenanceRun"]

#: In the order in which a run does them: contents come free when versions go, names when previews do.
MAINTENANCE_JOBS: Final = (
    "periods",
    "reservations",
    "sessions",
    "previews",
    "claims",
    "snapshots",
    "contents",
    "events",
)

_OUTCOMES: Final = ("running", "done", "stopped", "failed")


@frozen(kw_only=True)
class JobReport:
    """The result of one maintenance job, or with `dry_run` the expected one."""

    name: str = field(validator=in_(MAINTENANCE_JOBS))
    #: Rows that were looked at.
    examined: int = 0
    #: Rows that went; of "periods" those that were closed, of "reservations" those that were ended.
    removed: int = 0
    #: Rows that somebody else had locked, and contents that a transaction may still need: left to the next run.
    skipped: int = 0
    #: Of contents; None where the size of rows is not told.
    freed_bytes: int | None = None
    took: timedelta = timedelta(0)
    #: False: it was stopped, or it failed.
    complete: bool = True
    dry_run: bool = False
    #: Why it failed, in one sentence.
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
    """One run that is on record."""

    id: UUID
    started_at: datetime = field(repr=str)
    #: None: it runs, or its process was killed.
    ended_at: datetime | None = field(default=None, repr=str)
    #: "running", "done", "stopped" before its end, or "failed".
    outcome: str = field(validator=in_(_OUTCOMES))
    #: Whether it was to do every job: only such a run counts as the day's.
    whole: bool
    problem: str | None = None
    #: What each job did; empty while it runs.
    jobs: tuple[JobReport, ...] = field(default=(), converter=_reports)
    attribution: Attribution = field(converter=attribution_of, repr=False)
