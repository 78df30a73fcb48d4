"""Run maintenance jobs in batches, with progress reports and one event at the end.

Each step handles one batch in a short transaction, and returns a cursor for the next batch. A job holds no lock between
two steps, so it may be stopped there. Several processes may run the same job at once.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attrs import evolve, frozen

from atlas_sdk._plan import Plan, context, local, one, scalar
from atlas_sdk._sql import Statement, statements
from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.maintenance import JobReport, MaintenanceProgress
from atlas_sdk.model.users import NOBODY
from atlas_sdk.ops import events
from atlas_sdk.ops.amounts import count
from atlas_sdk.text import quoted

__all__ = [
    "BATCH",
    "LONG_AGO",
    "BatchStep",
    "Counted",
    "Cursor",
    "JobOptions",
    "Progress",
    "cutoff",
    "drain",
    "in_batches",
    "record",
]

#: Rows per batch. A batch of this size locks its rows for some hundred milliseconds.
BATCH: Final = 5_000
_BATCH_MAX: Final = 100_000
#: The start of the first batch: a time before that of every row.
LONG_AGO: Final = datetime(1, 1, 2, tzinfo=UTC)
#: The longest time for which rows may be kept: a century.
_KEEP_MAX: Final = timedelta(days=36_500)
#: The start of the next batch, as parameters of the statement that reads the batch.
Cursor = Mapping[str, object]
#: A function that a job calls after each batch; the job stops when the function returns False.
Progress = Callable[[MaintenanceProgress], bool | None]


@frozen(kw_only=True)
class BatchStep:
    """The result of one batch."""

    examined: int
    removed: int
    skipped: int = 0
    freed_bytes: int | None = None
    #: The cursor of the next batch; None after the last one.
    after: Cursor | None


@frozen(kw_only=True)
class JobOptions:
    """The options of a job."""

    dry_run: bool
    batch: int
    progress: Progress | None

    @classmethod
    def of(cls, *, dry_run: bool, batch: int, progress: Progress | None) -> "JobOptions":
        """Check the arguments of a job; return them as options. Raises InvalidInput."""
        return cls(dry_run=dry_run, batch=count("batch", batch, _BATCH_MAX, least=1), progress=progress)


class Counted:
    """A progress callback that remembers the committed part of a job, for the job's report and for a retry."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.done: JobReport | None = None

    def __call__(self, now: MaintenanceProgress) -> bool | None:
        return None if self._progress is None else self._progress(now)

    def count(self, done: JobReport) -> bool:
        """Remember the committed part and pass it to the callback; return False if the job must stop."""
        self.done = done
        return self(MaintenanceProgress(job=done.name, examined=done.examined, removed=done.removed)) is not False


def cutoff(name: str, keep: timedelta) -> Plan[datetime]:
    """Return the time, by the server's clock, before which rows may be deleted. Raises InvalidInput."""
    if not timedelta(0) <= keep <= _KEEP_MAX:
        raise InvalidInput(f"{name} must be from 0 to {_KEEP_MAX.days:,} days, not {quoted(keep)}", field=name)
    now = yield from scalar(statements("schema")["now"], datetime)
    return now - keep


def in_batches(
    name: str, step: Callable[[Cursor], Plan[BatchStep]], first: Cursor, options: JobOptions
) -> Plan[JobReport]:
    """Run steps until one returns no cursor, then record the job's event; return the report.

    A step has at most one statement that writes, so a failed step has changed nothing.
    """
    ctx = yield from context()
    began = ctx.monotonic()
    counted = options.progress if isinstance(options.progress, Counted) else Counted(options.progress)
    # Start from the batches that an earlier attempt has committed.
    done = counted.done or JobReport(name=name, dry_run=options.dry_run)
    earlier = done.took
    after: Cursor | None = first
    while after is not None:
        made = yield from step(after)
        after = made.after
        done = evolve(
            done,
            examined=done.examined + made.examined,
            removed=done.removed + made.removed,
            skipped=done.skipped + made.skipped,
            freed_bytes=_plus(done.freed_bytes, made.freed_bytes),
            took=earlier + timedelta(seconds=ctx.monotonic() - began),
        )
        if options.progress is not None and not (yield from local(counted.count, done)):
            done = evolve(done, complete=after is None)
            break
    yield from record(done)
    return done


def _plus(sum_so_far: int | None, more: int | None) -> int | None:
    return sum_so_far if more is None else (sum_so_far or 0) + more


def record(done: JobReport) -> Plan[None]:
    """Record the event of a job, unless it was a dry run."""
    if not done.dry_run:
        yield from events.record(f"maintenance.{done.name}", user_id=NOBODY, meta=done.to_json())


@frozen(kw_only=True)
class _Gone:
    removed: int
    #: The time of the last deleted row; None if there was none.
    at: datetime | None


def drain(
    statement: Statement, left: Statement, *, before: datetime, options: JobOptions
) -> Callable[[Cursor], Plan[BatchStep]]:
    """Return a step that deletes rows older than `before`; in a dry run, the step counts them by the statement `left`.

    Rows that earlier batches deleted stay in the index until a vacuum; the cursor lets a batch skip them.
    """

    def step(after: Cursor) -> Plan[BatchStep]:
        if options.dry_run:
            found = yield from scalar(left, int, before=before)
            return BatchStep(examined=found, removed=found, after=None)
        gone = yield from one(statement, _Gone, before=before, limit=options.batch, **_any(after))
        more = gone.removed >= options.batch and gone.at is not None
        return BatchStep(examined=gone.removed, removed=gone.removed, after={"at": gone.at} if more else None)

    return step


def _any(cursor: Cursor) -> dict[str, Any]:
    return dict(cursor)
