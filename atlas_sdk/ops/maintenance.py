"""Maintenance: all its jobs one after the other, and whose turn it is."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Final
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._plan import Json, Plan, Script, context, execute, many, scalar
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
from atlas_sdk.ops import purges, retention
from atlas_sdk.ops.batches import BATCH, Counted, How, Progress, record
from atlas_sdk.ops.checks import page_size

__all__ = ["EVERY", "RETRY", "run", "run_if_due", "runs"]

sql = statements("maintenance")
logger = logging.getLogger(__name__)

EVERY: Final = timedelta(days=1)
RETRY: Final = timedelta(hours=1)
#: A run that was begun so long ago and never ended is one of a process that was killed.
_DEAD: Final = timedelta(hours=6)
#: It would be the same with every other job.
_FATAL: Final = (AuthenticationFailed, DatabaseUnreachable, InvalidInput, SchemaMismatch)


@frozen(kw_only=True)
class _Keep:
    """The retention of each kind of data; None is for ever."""

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
    """Do these jobs of maintenance, or all, of all users; return a report of each, in the order of the jobs."""
    how = How.of(dry_run=dry_run, batch=batch, progress=progress)
    keep = _Keep(auto=keep_auto, stopped_previews=keep_stopped_previews, events=keep_events)
    wanted = _checked(jobs)
    if dry_run:
        reports: list[JobReport] = []
        yield from _each(wanted, keep, how, reports)
        return reports
    run_id = yield _begin(whole=len(wanted) == len(MAINTENANCE_JOBS))
    return (yield from _recorded(run_id, wanted, keep, how))


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
    """Do all jobs as `run`, unless somebody did within `every`, failed within `retry`, or is at it; None then."""
    how = How.of(dry_run=False, batch=batch, progress=progress)
    keep = _Keep(auto=keep_auto, stopped_previews=keep_stopped_previews, events=keep_events)
    run_id = yield _begin_if_due(every, retry)
    return None if run_id is None else (yield from _recorded(run_id, MAINTENANCE_JOBS, keep, how))


def _begin(*, whole: bool) -> Plan[UUID]:
    ctx = yield from context()
    run_id = ctx.new_id()
    yield from execute(sql["begin"], id=run_id, whole=whole, attribution=Json(ctx.attribution.to_json()))
    return run_id


def _begin_if_due(every: timedelta, retry: timedelta) -> Plan[UUID | None]:
    ctx = yield from context()
    run_id = ctx.new_id()
    asked = {"id": run_id, "every": every, "retry": retry, "dead": _DEAD}
    attribution = Json(ctx.attribution.to_json())
    return run_id if (yield from scalar(sql["begin_if_due"], bool, attribution=attribution, **asked)) else None


def runs(*, limit: int = 10) -> Plan[list[MaintenanceRun]]:
    """Return the runs on record, the newest first; those of the last year are kept. Raises InvalidInput."""
    return (yield from many(sql["runs"], MaintenanceRun, limit=page_size(limit)))


def _checked(jobs: Iterable[str] | None) -> tuple[str, ...]:
    if jobs is None:
        return MAINTENANCE_JOBS
    wanted = {jobs} if isinstance(jobs, str) else set(jobs)
    unknown = sorted(wanted - set(MAINTENANCE_JOBS))
    if unknown or not wanted:
        raise InvalidInput(f"jobs are some of {', '.join(MAINTENANCE_JOBS)}; not {unknown or 'none'}", field="jobs")
    return tuple(name for name in MAINTENANCE_JOBS if name in wanted)


def _recorded(run_id: UUID, wanted: tuple[str, ...], keep: _Keep, how: How) -> Script[list[JobReport]]:
    reports: list[JobReport] = []
    try:
        yield from _each(wanted, keep, how, reports)
    except Exception as problem:
        yield from _end_quietly(run_id, "failed", reports, str(problem))
        raise
    except BaseException:
        # Ctrl-C, or a task that was cancelled.
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
        # Away with everything else: the record says "running" for a while.
        logger.warning("the end of maintenance could not be put on record")


def _end(run_id: UUID, outcome: str, reports: list[JobReport], problem: str | None) -> Plan[None]:
    jobs = Json([report.to_json() for report in reports])
    yield from execute(sql["end"], id=run_id, outcome=outcome, problem=problem, jobs=jobs)


def _each(wanted: tuple[str, ...], keep: _Keep, how: How, reports: list[JobReport]) -> Script[None]:
    for name in wanted:
        done = yield from _one(name, keep, how)
        if done is None:
            continue
        reports.append(done)
        if not done.complete and done.problem is None:
            # Told to stop.
            return


def _one(name: str, keep: _Keep, how: How) -> Script[JobReport | None]:
    conflicts = 0
    counted = Counted(how.progress)
    while True:
        job = _job(name, keep, evolve(how, progress=counted))
        if job is None:
            return None
        try:
            done: JobReport = yield job
        except _FATAL:
            raise
        except AtlasError as problem:
            if isinstance(problem, TransactionConflict) and not conflicts:
                # Nothing of the last batch was kept, and the others are done: they stay counted.
                conflicts += 1
                continue
            done_so_far = counted.done or JobReport(name=name, dry_run=how.dry_run)
            failed = evolve(done_so_far, complete=False, problem=str(problem))
            yield record(failed)
            return failed
        return done


def _job(name: str, keep: _Keep, how: How) -> Plan[JobReport] | None:
    """Return the plan of a job; None when everything of its kind is kept."""
    dry_run, batch, progress = how.dry_run, how.batch, how.progress
    if name == "periods":
        return purges.close_periods(dry_run=dry_run, batch=batch, progress=progress)
    if name == "reservations":
        return purges.reclaim_reservations(dry_run=dry_run, batch=batch, progress=progress)
    if name == "sessions":
        return purges.purge_sessions(dry_run=dry_run, batch=batch, progress=progress)
    if name == "claims":
        return purges.purge_claims(dry_run=dry_run, batch=batch, progress=progress)
    if name == "contents":
        return retention.collect_contents(dry_run=dry_run, batch=batch, progress=progress)
    if name == "previews":
        kept, purge = keep.stopped_previews, purges.purge_previews
    elif name == "snapshots":
        kept, purge = keep.auto, retention.prune_snapshots
    else:
        kept, purge = keep.events, purges.purge_events
    return None if kept is None else purge(keep=kept, dry_run=dry_run, batch=batch, progress=progress)
