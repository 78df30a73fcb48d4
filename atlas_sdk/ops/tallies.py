"""Tallies: how many builds there are, as triggers count them for the views.

`sql/migrations/0014_counters.sql` has the triggers, and why they add rows instead of updating one.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, execute, many, one, scalar
from atlas_sdk._sql import statements
from atlas_sdk.model.maintenance import JobReport
from atlas_sdk.model.tallies import TallyMismatch
from atlas_sdk.model.users import NOBODY, User
from atlas_sdk.ops.batches import BATCH, Cursor, JobOptions, Progress, Step, in_batches

__all__ = ["fold_tallies", "recount", "verify"]

sql = statements("tallies")

#: Rows of one count that may stay. Triggers leave eight in the mean at READ COMMITTED, seldom as many as this.
_FEW: Final = 32
#: Users of one step: some hundred rows each.
_USERS: Final = 100


def verify(user: User) -> Plan[list[TallyMismatch]]:
    """Count the builds of a user and return where the summaries say something else; an empty list: nowhere.

    Reads every build. Counts go wrong only where triggers were off, as with `session_replication_role = replica` or
    `pg_restore --disable-triggers`; `recount` mends them.
    """
    return (yield from many(sql["mismatches"], TallyMismatch, user_id=user.id))


def recount(user: User) -> Plan[None]:
    """Count the builds of a user anew, for the summaries. Needs the rights of the tables' owner.

    Builds of all users wait meanwhile: it locks the table. `SELECT build_recount(NULL)` does it for everybody.
    """
    yield from execute(sql["recount"], user_id=user.id)


@frozen(kw_only=True)
class _Heaps:
    users: int
    examined: int
    surplus: int
    user_ids: list[UUID]
    project_ids: list[UUID]
    hours: list[datetime | None]
    user_id: UUID | None


def fold_tallies(*, dry_run: bool = False, batch: int = BATCH, progress: Progress | None = None) -> Plan[JobReport]:
    """Add up the counters of builds where many rows say one count, of all users.

    Triggers do it in passing, but only at READ COMMITTED: where `default_transaction_isolation` is another, or builds
    are written in such transactions, rows gather that every summary adds up. No count changes by it. Rows that somebody
    has locked are left to the next run.
    """
    options = JobOptions.of(dry_run=dry_run, batch=batch, progress=progress)
    limit = min(options.batch, _USERS)

    def step(after: Cursor) -> Plan[Step]:
        page = yield from one(sql["heaps"], _Heaps, few=_FEW, limit=limit, **after)
        gone = page.surplus
        if page.user_ids and not options.dry_run:
            keys = {"user_ids": page.user_ids, "project_ids": page.project_ids, "hours": page.hours}
            gone = yield from scalar(sql["fold"], int, **keys)
        return Step(
            examined=page.examined,
            removed=gone,
            after={"user_id": page.user_id} if page.users == limit else None,
        )

    return (yield from in_batches("tallies", step, {"user_id": NOBODY}, options))
