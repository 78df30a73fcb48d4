"""Create the roles: the owner of the tables, the role of tenants, and the application's login.

The rights of the tenants' role on tables and functions are in `grant_atlas_roles()`
(`sql/migrations/0012_administration.sql`).
"""

import secrets
from functools import partial
from typing import Final

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements
from atlas_sdk.provision.address import MAINTENANCE
from atlas_sdk.provision.session import AdminLogin
from atlas_sdk.provision.steps import Job

__all__ = ["APP", "OWNER", "is_member", "make_login", "make_roles", "may_become"]

sql = statements("provision")

#: The role that owns the tables and migrates them; nobody logs in as it.
OWNER: Final = "atlas_owner"
#: The role that `atlas.as_user` acts as: row-level security applies to it.
APP: Final = "atlas_app"
#: The random bytes of a generated password, as many as SHA-256 has. Nobody has to remember the password.
_PASSWORD_BYTES: Final = 32


def may_become(session: AdminSession, role: str) -> bool:
    """Return whether this login can act as a role; False if there is no such role."""
    found = session.row(sql["role"], name=role)
    return found is not None and bool(found["may_become"])


def is_member(session: AdminSession, member: str, role: str) -> bool:
    """Return whether one role has the rights of another; False when one of them does not exist."""
    found = session.row(sql["is_member"], member=member, role=role)
    return found is not None and bool(found["is_member"])


def make_roles(job: Job, session: AdminSession, login: AdminLogin) -> None:
    """Make the two roles, let the owner act for tenants, and let this login act as the owner."""
    for role in (OWNER, APP):
        job.do(
            f"role {role}",
            session,
            session.value(sql["write_create_role"], name=role),
            may=login.is_superuser or login.may_create_roles,
            done="created; nobody logs in as it",
            there="there is one",
            is_done=partial(_exists, session, role),
            database=MAINTENANCE,
        )
    _grant(job, session, login, APP, to=OWNER)
    if not login.is_superuser:
        _grant(job, session, login, OWNER, to=login.name)


def _exists(session: AdminSession, role: str) -> bool:
    return session.row(sql["role"], name=role) is not None


def _grant(job: Job, session: AdminSession, login: AdminLogin, role: str, *, to: str) -> None:
    found = session.row(sql["role"], name=role)
    # In a dry run the role may not exist yet: the login that creates a role can grant it.
    may = login.is_superuser or (job.dry_run and login.may_create_roles if found is None else found["may_grant"])
    job.do(
        f"role {to}",
        session,
        session.value(sql["write_grant_role"], role=role, member=to),
        may=may,
        done=f"may act as {role}",
        is_done=partial(may_become, session, role) if to == login.name else partial(is_member, session, to, role),
        database=MAINTENANCE,
    )


def make_login(job: Job, session: AdminSession, login: AdminLogin, name: str, password: str | None) -> str | None:
    """Make the application's login; return its password if this call generated one, for the caller to show once."""
    step = f"login {name}"
    found = session.row(sql["role"], name=name)
    if found is not None:
        _check_login(job, session, name, found, step)
        return None
    without = session.value(sql["write_create_login"], name=name, password=None, role=APP)
    # psql asks for the password and sends a verifier.
    quoted = session.value(sql["quote_name"], name=name)
    # Without a terminal, psql reads the password from the next line of a script.
    for_admin = (f"{without};", "-- interactive: psql asks for the password", f"\\password {quoted}")
    may = login.is_superuser or login.may_create_roles
    chosen = password or secrets.token_urlsafe(_PASSWORD_BYTES)
    command = without
    if may and not job.dry_run:
        # Send only a verifier of the password, because the server may log commands.
        verifier = session.password_verifier(name, chosen)
        command = session.value(sql["write_create_login"], name=name, password=verifier, role=APP)
    job.do(
        step,
        session,
        command,
        may=may,
        done=f"may act as {APP}, with {'the given' if password else 'a new'} password",
        is_done=partial(_exists, session, name),
        there=f"may act as {APP}; its password is left as it is",
        database=MAINTENANCE,
        for_admin=for_admin,
    )
    # Another process may have made the login at this moment, with another password.
    return chosen if password is None and job.steps[-1].status == "done" else None


def _check_login(job: Job, session: AdminSession, name: str, found: dict[str, bool], step: str) -> None:
    """Check that row-level policies apply to a login that exists already. Its password is not changed."""
    above = None
    if found["is_above_policies"]:
        above = "is a superuser or bypasses row-level security"
    elif is_member(session, name, OWNER):
        above = f"may act as {OWNER}, whom policies do not bind"
    elif not found["may_login"]:
        above = "cannot log in"
    if above is not None:
        job.note(step, "failed", f"{name} {above}: choose another name for the application")
        return
    job.do(
        step,
        session,
        session.value(sql["write_grant_role"], role=APP, member=name),
        may=True,
        done=f"may act as {APP}; its password is left as it is",
        is_done=partial(is_member, session, name, APP),
        database=MAINTENANCE,
    )
