"""Tallies: how many builds there are, as triggers count them for the views.

`sql/migrations/0014_counters.sql` has the triggers, and why they add rows instead of updating one.
"""

from atlas_sdk._plan import Plan, execute, many
from atlas_sdk._sql import statements
from atlas_sdk.model.tallies import TallyMismatch
from atlas_sdk.model.users import User

__all__ = ["recount", "verify"]

sql = statements("tallies")


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
