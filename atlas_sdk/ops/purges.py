"""Delete expired rows of all users, batch by batch: periods, reservations, sessions, previews, names, events."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._plan import Plan, atomic, execute, one, scalar
from atlas_sdk._sql import Statement, statements
from atlas_sdk.model.maintenance import JobReport
from atlas_sdk.ops.batches import BATCH, LONG_AGO, BatchStep, Cursor, JobOptions, Progress, cutoff, drain, in_batches

__all__ = [
    "KEEP_EVENTS",
    "KEEP_STOPPED_PREVIEWS",
    "close_periods",
    "purge_claims",
    "purge_events",
    "purge_previews",
    "purge_sessions",
    "reclaim_reservations",
]

sql = statements("purges")

KEEP_STOPPED_PREVIEWS: Final = timedelta(days=7)
#: A year, because auditors ask for the last year.
KEEP_EVENTS: Final = timedelta(days=365)
#: The number of users whose quota rows one transaction locks. Their calls wait for the transaction, some 20 ms.
_USERS: Final = 100
_NOBODY: Final = UUID(int=0)
_FROM_LONG_AGO: Final = {"at": LONG_AGO}


def purge_sessions(*, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None) -> Plan[JobReport]:
    """Delete the expired sessions of all users. `sessions.verify` refuses them anyway."""
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    before = yield from cutoff("keep", timedelta(0))
    step = drain(sql["sessions"], sql["sessions_left"], before=before, options=options)
    return (yield from in_batches("sessions", step, _FROM_LONG_AGO, options))


def purge_previews(
    *,
    keep: timedelta = KEEP_STOPPED_PREVIEWS,
    dry_run: bool = False,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Plan[JobReport]:
    """Delete the rows of previews that stopped or failed longer ago than `keep`. Raises InvalidInput."""
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    before = yield from cutoff("keep", keep)
    stopped = drain(sql["previews"], sql["previews_left"], before=before, options=options)
    failed = drain(sql["failed_previews"], sql["failed_previews_left"], before=before, options=options)

    def step(after: Cursor) -> Plan[BatchStep]:
        last = after["status"] == "failed"
        made = yield from (failed if last else stopped)({"at": after["at"]})
        if made.after is not None:
            return evolve(made, after={**after, **made.after})
        return made if last else evolve(made, after={"status": "failed", **_FROM_LONG_AGO})

    return (yield from in_batches("previews", step, {"status": "stopped", **_FROM_LONG_AGO}, options))


def purge_events(
    *, keep: timedelta = KEEP_EVENTS, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None
) -> Plan[JobReport]:
    """Delete the events of the audit trail that are older than `keep`. Raises InvalidInput.

    This includes all event types, because no operation depends on events. Restores and quota thresholds have tables of
    their own.
    """
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    before = yield from cutoff("keep", keep)
    step = drain(sql["events"], sql["events_left"], before=before, options=options)
    return (yield from in_batches("events", step, _FROM_LONG_AGO, options))


# Quotas.


@frozen(kw_only=True)
class _Due:
    examined: int
    users: list[UUID]
    at: datetime | None
    user_id: UUID | None


def close_periods(*, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None) -> Plan[JobReport]:
    """Close the quota months that have ended, for all users.

    Every quota operation does this for its own user, so none depends on this job. The job makes `quotas.history`
    complete. `quotas.reset_monthly` runs the same job.
    """
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    now = yield from cutoff("keep", timedelta(0))
    limit = min(options.batch, _USERS)

    def step(after: Cursor) -> Plan[BatchStep]:
        due = yield from one(sql["due_periods"], _Due, now=now, limit=limit, **after)
        closed = len(due.users)
        if due.users and not options.dry_run:
            closed = yield from scalar(sql["close_periods"], int, users=due.users)
        return BatchStep(
            examined=due.examined,
            removed=closed,
            skipped=len(due.users) - closed,
            after={"at": due.at, "user_id": due.user_id} if due.examined == limit else None,
        )

    return (yield from in_batches("periods", step, {"at": LONG_AGO, "user_id": _NOBODY}, options))


@frozen(kw_only=True)
class _Holds:
    examined: int
    expired: int
    users: list[UUID]
    user_id: UUID | None
    id: UUID | None


@frozen(kw_only=True)
class _Ended:
    ended: int
    busy: list[UUID]


def reclaim_reservations(
    *, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None
) -> Plan[JobReport]:
    """End the expired reservations of all users: charge tokens and cost, and free slots.

    Without this job, a call that would be refused first ends the expired reservations of its user. So an expired slot
    never refuses a call.
    """
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    now = yield from cutoff("keep", timedelta(0))
    first = {"user_id": _NOBODY, "id": _NOBODY}
    return (yield from in_batches("reservations", _Reclaimer(now, options).step, first, options))


class _Reclaimer:
    """One run over all reservations: its pages, and the users of the current page that are not handled yet."""

    def __init__(self, now: datetime, options: JobOptions) -> None:
        self._now = now
        self._options = options
        self._users: list[UUID] = []
        self._busy: list[UUID] = []

    def step(self, after: Cursor) -> Plan[BatchStep]:
        """End the expired reservations of some users of the current page; read the next page first if it is done.

        An empty cursor means that this is the last page and some of its users still wait; None means the end.
        """
        examined = 0
        if not self._users and not self._busy:
            page = yield from one(sql["holds"], _Holds, now=self._now, limit=self._options.batch, **after)
            examined = page.examined
            after = {"user_id": page.user_id, "id": page.id} if examined == self._options.batch else {}
            if self._options.dry_run:
                return BatchStep(examined=examined, removed=page.expired, after=after or None)
            self._users = page.users
        ended = yield from self._reclaim()
        return BatchStep(examined=examined, removed=ended, after=after if after or self._users or self._busy else None)

    def _reclaim(self) -> Plan[int]:
        if self._users:
            some, self._users = self._users[:_USERS], self._users[_USERS:]
            wait = False
        elif self._busy:
            # Wait for the lock of one busy user at a time. Calls hold the lock for milliseconds.
            some, self._busy = self._busy[:1], self._busy[1:]
            wait = True
        else:
            return 0
        done = yield from one(sql["reclaim"], _Ended, users=some, limit=self._options.batch, wait=wait)
        self._busy += done.busy
        return done.ended


# Names and ports.


@frozen(kw_only=True)
class _Claims:
    examined: int
    values: list[str]
    kinds: list[str]
    value: str | None
    kind: str | None


@frozen(kw_only=True)
class _Ports:
    examined: int
    machines: list[str]
    ports: list[int]
    machine: str | None
    port: int | None


def purge_claims(*, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None) -> Plan[JobReport]:
    """Free the names and ports whose owner's row was deleted with plain SQL.

    These are e-mail addresses without a user, session ids without a project, and hosts and ports without a live
    preview.
    """
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)

    def step(after: Cursor) -> Plan[BatchStep]:
        if "port" in after:
            return (yield from ports(after))
        page = yield from one(sql["claims"], _Claims, limit=options.batch, **after)
        freed = len(page.values)
        if page.values and not options.dry_run:
            freed = yield from _free(sql["lock_claims"], sql["free_claims"], kinds=page.kinds, values=page.values)
        more = page.examined == options.batch
        return BatchStep(
            examined=page.examined,
            removed=freed,
            skipped=len(page.values) - freed,
            after={"value": page.value, "kind": page.kind} if more else {"machine": "", "port": 0},
        )

    def ports(after: Cursor) -> Plan[BatchStep]:
        page = yield from one(sql["ports"], _Ports, limit=options.batch, **after)
        freed = len(page.ports)
        if page.ports and not options.dry_run:
            freed = yield from _free(sql["lock_ports"], sql["free_ports"], machines=page.machines, ports=page.ports)
        return BatchStep(
            examined=page.examined,
            removed=freed,
            skipped=len(page.ports) - freed,
            after={"machine": page.machine, "port": page.port} if page.examined == options.batch else None,
        )

    return (yield from in_batches("claims", step, {"value": "", "kind": ""}, options))


@atomic
def _free(lock: Statement, free: Statement, **found: object) -> Plan[int]:
    """Lock the rows that nobody else has locked, and then delete those that are still lost; return how many.

    Only a statement after the lock sees what was committed before it.
    """
    locked = yield from one(lock, dict[str, object], **found)
    return (yield from execute(free, **locked))
