"""Revoke the rights that every login of a database has and that no tenant needs."""

from collections.abc import Callable

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements
from atlas_sdk.provision.roles import OWNER, may_become
from atlas_sdk.provision.session import AdminLogin
from atlas_sdk.provision.steps import Job

__all__ = ["close"]

sql = statements("provision")


def close(job: Job, session: AdminSession, schema: str, login: AdminLogin) -> None:
    """Revoke the rights of PUBLIC to temporary tables, large objects and advisory locks.

    The call also gives the database a search_path in which temporary tables come last. Only a superuser can revoke
    rights on the functions of PostgreSQL. For another login these rights stay, and `atlasctl db doctor` mentions them.
    """
    state = session.row(sql["closed"]) or {}
    job.do(
        "privileges",
        session,
        session.value(sql["write_close"]),
        may=state["may_close"],
        done="no login has temporary tables or makes schemas by itself",
        is_done=_is(session, "is_closed"),
    )
    job.do(
        "search_path",
        session,
        session.value(sql["write_path"], schema=schema),
        may=state["may_close"],
        done="temporary tables come last",
        is_done=_is(session, "has_path"),
    )
    if not login.is_superuser:
        return
    command = session.value(sql["write_close_functions"])
    job.do(
        "functions of PostgreSQL",
        session,
        command or "",
        may=True,
        done="no login has large objects or advisory locks by itself",
        is_done=_is(session, "has_closed_functions"),
    )
    if not job.dry_run and may_become(session, OWNER):
        needed = session.value(sql["write_grant_waiting"], role=OWNER)
        if needed is not None:
            session.execute(needed)


def _is(session: AdminSession, fact: str) -> Callable[[], bool]:
    return lambda: bool((session.row(sql["closed"]) or {})[fact])
