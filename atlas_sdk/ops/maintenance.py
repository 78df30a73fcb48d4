"""Run all maintenance jobs in order, and decide which process runs them."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Final
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._plan import Json, Plan, Script, atomic, context, execute, many
from atlas_sdk._sql import statements
from atlas_sdk.errors import (
    AtlasError,
    AuthenticationFailed,
    DatabaseUnreachable,
    InvalidInput,
    SchemaMismatch,
    TransactionConflict,
)
from atlas_sdk.model.maintenance import MAINTENANCE_JOBS, JobReport, MaintenanceRun
from atlas_sdk.ops import isolation, purges, retention, usage
from atlas_sdk.ops.batches import BATCH, Counted, JobOptions, Progress, record
from atlas_sdk.ops.checks import page_size

__all__ = ["EVERY", "RETRY", "run", "run_if_due", "runs"]

sql = statements("maintenance")
logger = logging.getLogger(__name__)

EVERY: Final = timedelta(days=1)
RETRY: Final = timedelta(hours=1)
#: A run without an end counts as dead after this time: its process was killed.
_DEAD: Final = timedelta(hours=6)
#: Errors that every other job would raise too.
_FATAL: Final = (AuthenticationFailed, DatabaseUnreachable, InvalidInput, SchemaMismatch)


@frozen(kw_only=True)
class _Retention:
    """The time for which each kind of data is kept; None means for ever."""

    auto: timedelta | None
    stopped_previews: timedelta | None
    events: timedelta | None


def run(
    jobs: Iterable[str] | None = None,
    *,
    dry_run: bool = False,
    keep_auto: timedelta | None = retention.KEEP_AUTO,
    keep_stopped_previews: timedelta | None = purges.KEEP_STOPPED_PREVIEWS,
    keep_events: timedelta | None = purges.KEEP_EVENTS,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Script[list[JobReport]]:
    """Run these maintenance jobs, or all of them, for all users; return a report of each, in order.

    Each job works in short transactions, at the same time as the traffic and as other runs. A job can be repeated at
    any time, and logs one event at its end, "maintenance.<job>". A job that fails does not stop the others: its report
    says why in `problem`.

    `dry_run` counts the rows and deletes nothing. `keep_auto` is the time for which versions of kind "auto" are kept
    (the newest version of each file always stays), `keep_stopped_previews` that for stopped previews, and `keep_events`
    that for the audit trail; None means for ever. `batch` is about the number of rows in a transaction. `progress` is
    called after each transaction (on asyncio in a thread); the run stops when it returns False.

    Raises InvalidInput, NotPermitted for a login that does not see all rows, and DatabaseUnreachable when the database
    goes away.
    """
    yield isolation.check_sees_all("maintenance")
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    keep = _Retention(auto=keep_auto, stopped_previews=keep_stopped_previews, events=keep_events)
    wanted = _checked(jobs)
    if dry_run:
        reports: list[JobReport] = []
        yield from _each(wanted, keep, options, reports)
        return reports
    run_id = yield _begin(whole=len(wanted) == len(MAINTENANCE_JOBS))
    return (yield from _recorded(run_id, wanted, keep, options))


def run_if_due(
    *,
    every: timedelta = EVERY,
    retry: timedelta = RETRY,
    keep_auto: timedelta | None = retention.KEEP_AUTO,
    keep_stopped_previews: timedelta | None = purges.KEEP_STOPPED_PREVIEWS,
    keep_events: timedelta | None = purges.KEEP_EVENTS,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Script[list[JobReport] | None]:
    """Run all jobs if they are due; return None if they are not.

    They are not due while a run is under way, within `every` after a run that ended well, and within `retry` after one
    that failed. A `run` of all jobs counts too. Any number of processes may call this at once: only one of them runs
    the jobs. The other options are those of `run`.
    """
    yield isolation.check_sees_all("maintenance")
    options = JobOptions.of(dry_run=False, batch=batch, progress=progress)
    keep = _Retention(auto=keep_auto, stopped_previews=keep_stopped_previews, events=keep_events)
    run_id = yield _begin_if_due(every, retry)
    return None if run_id is None else (yield from _recorded(run_id, MAINTENANCE_JOBS, keep, options))


def _begin(*, whole: bool) -> Plan[UUID]:
    ctx = yield from context()
    run_id = ctx.new_id()
    yield from execute(sql["begin"], id=run_id, whole=whole, attribution=Json(ctx.attribution.to_json()))
    return run_id


@atomic
def _begin_if_due(every: timedelta, retry: timedelta) -> Plan[UUID | None]:
    ctx = yield from context()
    run_id = ctx.new_id()
    asked = {"id": run_id, "every": every, "retry": retry, "dead": _DEAD}
    yield from execute(sql["lock"])
    begun = yield from execute(sql["begin_if_due"], attribution=Json(ctx.attribution.to_json()), **asked)
    return run_id if begun else None


def runs(*, limit: int = 10) -> Plan[list[MaintenanceRun]]:
    """Return the records of runs, newest first; they are kept for a year. Raises InvalidInput."""
    return (yield from many(sql["runs"], MaintenanceRun, limit=page_size(limit)))


def _checked(jobs: Iterable[str] | None) -> tuple[str, ...]:
    if jobs is None:
        return MAINTENANCE_JOBS
    wanted = {jobs} if isinstance(jobs, str) else set(jobs)
    unknown = sorted(wanted - set(MAINTENANCE_JOBS))
    if unknown or not wanted:
        raise InvalidInput(f"jobs must be from {', '.join(MAINTENANCE_JOBS)}, not {unknown or 'none'}", field="jobs")
    return tuple(name for name in MAINTENANCE_JOBS if name in wanted)


def _recorded(run_id: UUID, wanted: tuple[str, ...], keep: _Retention, options: JobOptions) -> Script[list[JobReport]]:
    reports: list[JobReport] = []
    try:
        yield from _each(wanted, keep, options, reports)
    except Exception as problem:
        yield from _end_quietly(run_id, "failed", reports, str(problem))
        raise
    except BaseException:
        # Ctrl-C, or a cancelled task.
        yield from _end_quietly(run_id, "stopped", reports, None)
        raise
    failed = next((report.problem for report in reports if report.problem is not None), None)
    stopped = bool(reports) and not reports[-1].complete
    yield _end(run_id, "failed" if failed else "stopped" if stopped else "done", reports, failed)
    return reports


def _end_quietly(run_id: UUID, outcome: str, reports: list[JobReport], problem: str | None) -> Script[None]:
    try:
        yield _end(run_id, outcome, reports, problem)
    except AtlasError:
        # The database is gone: the record keeps the outcome "running", and counts as dead after `_DEAD`.
        logger.warning("could not record the end of the maintenance run")


def _end(run_id: UUID, outcome: str, reports: list[JobReport], problem: str | None) -> Plan[None]:
    jobs = Json([report.to_json() for report in reports])
    yield from execute(sql["end"], id=run_id, outcome=outcome, problem=problem, jobs=jobs)


def _each(wanted: tuple[str, ...], keep: _Retention, options: JobOptions, reports: list[JobReport]) -> Script[None]:
    for name in wanted:
        done = yield from _one(name, keep, options)
        if done is None:
            continue
        reports.append(done)
        if not done.complete and done.problem is None:
            # The progress callback stopped the run.
            return


def _one(name: str, keep: _Retention, options: JobOptions) -> Script[JobReport | None]:
    conflicts = 0
    counted = Counted(options.progress)
    while True:
        job = _job(name, keep, evolve(options, progress=counted))
        if job is None:
            return None
        try:
            done: JobReport = yield job
        except _FATAL:
            raise
        except AtlasError as problem:
            if isinstance(problem, TransactionConflict) and not conflicts:
                # The last batch was rolled back. Try again, and count the earlier batches, which are committed.
                conflicts += 1
                continue
            done_so_far = counted.done or JobReport(name=name, dry_run=options.dry_run)
            failed = evolve(done_so_far, complete=False, problem=str(problem))
            yield record(failed)
            return failed
        return done


def _job(name: str, keep: _Retention, options: JobOptions) -> Plan[JobReport] | None:
    """Return the plan of a job; None if its kind of data is kept for ever."""
    dry_run, batch, progress = options.dry_run, options.batch, options.progress
    if name == "periods":
        return purges.close_periods(dry_run=dry_run, batch=batch, progress=progress)
    if name == "reservations":
        return purges.reclaim_reservations(dry_run=dry_run, batch=batch, progress=progress)
    if name == "sessions":
        return purges.purge_sessions(dry_run=dry_run, batch=batch, progress=progress)
    if name == "claims":
        return purges.purge_claims(dry_run=dry_run, batch=batch, progress=progress)
    if name == "usage":
        return usage.sum_usage(dry_run=dry_run, batch=batch, progress=progress)
    if name == "contents":
        return retention.collect_contents(dry_run=dry_run, batch=batch, progress=progress)
    if name == "previews":
        kept, purge = keep.stopped_previews, purges.purge_previews
    elif name == "snapshots":
        kept, purge = keep.auto, retention.prune_snapshots
    else:
        kept, purge = keep.events, purges.purge_events
    return None if kept is None else purge(keep=kept, dry_run=dry_run, batch=batch, progress=progress)
