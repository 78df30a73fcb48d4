"""Set a database up, from nothing or from the point where an earlier attempt ended."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from attrs import evolve

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import migrations, statements
from atlas_sdk.errors import AtlasError, DatabaseUnreachable, InvalidInput
from atlas_sdk.provision.address import MAINTENANCE, Address
from atlas_sdk.provision.create_schema import fill
from atlas_sdk.provision.roles import OWNER, make_login, make_roles, may_become
from atlas_sdk.provision.session import AdminLogin, login_of, open_session
from atlas_sdk.provision.steps import Job, Setup, SetupStep
from atlas_sdk.text import quoted

__all__ = ["OLDEST_SERVER", "set_up"]

sql = statements("provision")

#: PostgreSQL 15 is the first version with views that have their reader's rights (`security_invoker`).
OLDEST_SERVER: Final = 150_000
_MAJOR: Final = 10_000
#: PostgreSQL truncates longer names.
_NAME_BYTES: Final = 63


def set_up(
    address: Address,
    *,
    app_user: str | None = None,
    app_password: str | None = None,
    dry_run: bool = False,
    tell: Callable[[SetupStep], None] | None = None,
) -> Setup:
    """Make the missing parts of the database, the roles, the schema and the grants, and check that all of it is there.

    A second call changes nothing, and many processes may call at once. With `dry_run` nothing is changed at all, and
    the steps say what would be done. `app_user` is a login for the application, which gets `app_password`, or a
    generated password that only the result has. `tell` is called with each step at its end. The steps that this login
    may not do are left out, and the result has their commands for an administrator. Raises DatabaseUnreachable,
    AuthenticationFailed, InvalidInput.
    """
    if app_user is not None and (not app_user or "\0" in app_user or len(app_user.encode()) > _NAME_BYTES):
        raise InvalidInput(f"the name of a login is 1 to {_NAME_BYTES} bytes; not {quoted(app_user)}", field="app_user")
    job = Job(dry_run=dry_run, tell=tell)
    facts = Setup(place=address.place, source=address.source, steps=(), dry_run=dry_run)
    with ExitStack() as stack:
        server, is_target = _connect(stack, address)
        login = login_of(server)
        facts = evolve(facts, server_version=login.version)
        if not _fits(job, login, is_target=is_target):
            return evolve(facts, steps=tuple(job.steps))
        try:
            make_roles(job, server, login)
            if app_user is not None:
                facts = evolve(facts, app_password=make_login(job, server, login, app_user, app_password))
            target = _database(job, stack, server, login, address, is_target=is_target)
            if target is not None:
                version, applied = fill(job, stack, target, login)
                facts = evolve(facts, schema_version=version, applied=applied)
        except AtlasError as error:
            # Record the error instead of raising it: a password that was just generated would be lost.
            job.note("stopped", "failed", str(error))
    return evolve(facts, steps=tuple(job.steps))


def _connect(stack: ExitStack, address: Address) -> tuple[AdminSession, bool]:
    """Connect to the database, or if it is missing to the server's own; the flag is True for the former."""
    try:
        return stack.enter_context(open_session(address.dsn)), True
    except DatabaseUnreachable as refusal:
        # The server gives its reason only as text, in its own language. Its own database knows whether ours exists, if
        # we may connect to it.
        try:
            server = stack.enter_context(open_session(address.of(MAINTENANCE).dsn))
        except DatabaseUnreachable:
            raise _unreachable(address, refusal) from refusal
        found = None if address.database is None else server.row(sql["database"], name=address.database)
        if address.database is None:
            raise _unreachable(address, refusal) from refusal
        if found is None or not found["may_connect"]:
            return server, False
    # Somebody may have created it since.
    try:
        return stack.enter_context(open_session(address.dsn)), True
    except DatabaseUnreachable as refusal:
        raise _unreachable(address, refusal) from refusal


def _unreachable(address: Address, refusal: DatabaseUnreachable) -> DatabaseUnreachable:
    sentence = str(refusal)
    hint = address.aim("atlasctl db doctor tells what to do")
    return type(refusal)(f"{sentence}{'' if sentence.endswith('?') else ';'} {hint}")


def _fits(job: Job, login: AdminLogin, *, is_target: bool) -> bool:
    """Record the connection; return whether this server can be used."""
    problem = None
    if login.version_number < OLDEST_SERVER:
        problem = f"it must be {OLDEST_SERVER // _MAJOR} or newer: upgrade the server, or use another one"
    elif login.is_standby:
        problem = "it is a standby, which takes no writes: give the address of the primary"
    elif is_target and login.encoding != "UTF8":
        problem = f"the database is encoded in {login.encoding}, not UTF8: give the name of another one"
    rank = " (superuser)" if login.is_superuser else ""
    detail = f"PostgreSQL {login.version} as {login.name}{rank}"
    job.note("connect", "done" if problem is None else "failed", detail if problem is None else f"{detail}: {problem}")
    return problem is None


def _database(
    job: Job, stack: ExitStack, server: AdminSession, login: AdminLogin, address: Address, *, is_target: bool
) -> AdminSession | None:
    """Make the database if it is missing, and connect to it; return None if that failed or is only planned."""
    name = login.database if is_target else address.database
    assert name is not None  # noqa: S101  # `_connect` raises otherwise
    if is_target:
        job.note(f"database {name}", "there", "there is one")
        return server
    owned = may_become(server, OWNER) or (job.dry_run and (login.is_superuser or login.may_create_roles))
    command = server.value(sql["write_create_database"], name=name, owner=OWNER if owned else None)
    found = server.row(sql["database"], name=name)
    if found is not None and not found["may_connect"]:
        command = server.value(sql["write_grant_connect"], database=name, role=login.name)
    made = job.do(
        f"database {name}",
        server,
        command,
        may=found is None and (login.is_superuser or login.may_create_databases),
        done=f"created, owned by {OWNER}" if owned else "created",
        there="there is one",
        is_done=lambda: bool((server.row(sql["database"], name=name) or {}).get("may_connect")),
        database=MAINTENANCE,
        # The administrator has created the owner before this command.
        for_admin=() if found else (server.value(sql["write_create_database"], name=name, owner=OWNER) + ";",),
    )
    if not made:
        job.note("schema", "skipped", "there is no database to make it in")
        return None
    if job.dry_run:
        job.note("schema", "planned", f"would apply {len(migrations())} migrations")
        return None
    return stack.enter_context(open_session(address.dsn))
