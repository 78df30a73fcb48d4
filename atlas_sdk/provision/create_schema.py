"""From a database to one with the whole schema, its owner and its grants."""

from contextlib import ExitStack
from functools import partial

import psycopg
from psycopg import errors

from atlas_sdk._sql import migrations, statements
from atlas_sdk._translate import translate
from atlas_sdk.errors import AtlasError, SchemaMismatch
from atlas_sdk.model.schema import AppliedMigration
from atlas_sdk.ops import schema
from atlas_sdk.provision.address import MAINTENANCE
from atlas_sdk.provision.closing import close
from atlas_sdk.provision.findings import some
from atlas_sdk.provision.inventory import REMADE, take, verify
from atlas_sdk.provision.roles import APP, OWNER, may_become
from atlas_sdk.provision.script import expected
from atlas_sdk.provision.session import Login, Session
from atlas_sdk.provision.steps import Command, Job

__all__ = ["fill", "is_ancestor", "is_unused", "renew_grants"]

sql = statements("provision")

#: As long as another process may take to set the same database up.
_TURN_WAIT = "120s"


def fill(job: Job, stack: ExitStack, target: Session, login: Login) -> tuple[int | None, tuple[str, ...]]:
    """Make the schema, hand it to the owner, give the grants, and check; return its version and what was applied.

    One at a time: whoever comes second finds the schema complete, not half made.
    """
    if not job.dry_run:
        # On a connection of its own, because each migration is a transaction.
        turn = stack.enter_context(Session.open(target.address))
        stack.enter_context(turn.connection.transaction())
        if turn.value(schema.sql["may_lock"]):
            # Where every login may take advisory locks, none holds this up for ever.
            turn.value(sql["limit_waiting"], wait=_TURN_WAIT)
            turn.value(sql["wait_for_turn"])
    place = target.row(sql["schema"]) or {}
    name = place["name"]
    if name is None:
        job.note("schema", "failed", "search_path names no schema that this login may use; usual is: public")
        return None, ()
    close(job, target, name, login)
    try:
        target.run(schema.check())
    except SchemaMismatch as mismatch:
        found = mismatch.found
        if found is not None and not _is_half_made(target, found, place["owner"]):
            job.note("schema", "failed", str(mismatch))
            return found, ()
    except errors.InsufficientPrivilege:
        grant = target.value(sql["write_grant_role"], role=place["owner"], member=login.name)
        less = target.value(sql["write_grant_role"], role=APP, member=login.name)
        problem = (
            f"it belongs to {place['owner']}, and this login may not even read its version; to set it up takes the "
            f"command below, for an application {less} is enough"
        )
        # Roles are the server's: said once, whichever step needs it.
        job.note("schema", "failed", problem, commands=(Command(MAINTENANCE, f"{grant};"),))
        return None, ()
    else:
        version = len(migrations())
        job.note("schema", "there", f"version {version}, up to date")
        _finish(job, target, name)
        return version, ()
    return _make(job, target, name, login, place["owner"] if found else None)


def _is_half_made(target: Session, found: int, owner: str) -> bool:
    """Tell whether an earlier attempt ended between two migrations; what is in use is upgraded only when asked."""
    applied = target.run(schema.status())
    return found < len(migrations()) and is_ancestor(applied) and is_unused(target, owner)


def is_ancestor(applied: list[AppliedMigration]) -> bool:
    """Tell whether migrations of this package made the schema, if not all of them."""
    return all(row.checksum == schema.checksum(known) for row, known in zip(applied, migrations(), strict=False))


def is_unused(target: Session, owner: str) -> bool:
    """Tell whether a schema surely has no user yet."""
    with target.transaction(role=owner if may_become(target, owner) else None):
        return bool(target.value(sql["is_unused"]))


def _make(job: Job, target: Session, name: str, login: Login, owner: str | None) -> tuple[int | None, tuple[str, ...]]:
    """Apply what is missing; `owner` has what is there of a schema that is half made."""
    before = len(target.run(schema.status()))
    owned = may_become(target, OWNER) and _open_to_owner(job, target, name)
    # In a dry run the owner may be about to be made.
    owned = owned or (job.dry_run and login.may_create_roles)
    if not owned and not target.value(sql["may_create_in"], role=login.name, schema=name):
        grant = target.value(sql["write_grant_schema"], schema=name, role=OWNER)
        commands = (Command(target.connection.info.dbname, f"{grant};"),)
        job.note("schema", "failed", f"this login may not create anything in {name}", commands=commands)
        return (before or None), ()
    if job.dry_run:
        job.note("schema", "planned", f"would apply {len(migrations()) - before} migrations")
        return (before or None), ()
    role = OWNER if owned else None
    if owner is not None:
        # Others could not change the first tables.
        role = owner if may_become(target, owner) else None
    try:
        rows = target.run(schema.migrate(), role=role)
    except (psycopg.Error, AtlasError) as exc:
        problem = translate(exc, target.address.dsn) if isinstance(exc, psycopg.Error) else exc
        # One transaction each: those before it are kept.
        number = len(target.run(schema.status()))
        job.note("schema", "failed", f"version {number} was reached, then the next migration failed: {problem}")
        return (number or None), ()
    version = len(migrations())
    job.note("schema", "done", f"version {version}, {len(rows)} migrations applied")
    _finish(job, target, name)
    return version, tuple(f"{row.version:04}_{row.name}" for row in rows)


def _open_to_owner(job: Job, target: Session, name: str) -> bool:
    """Let the owner create in the schema."""
    return job.do(
        f"schema {name}",
        target,
        target.value(sql["write_grant_schema"], schema=name, role=OWNER),
        may=target.value(sql["may_open"], schema=name),
        done=f"{OWNER} may create in it",
        is_done=partial(target.value, sql["may_create_in"], role=OWNER, schema=name),
    )


def _finish(job: Job, target: Session, name: str) -> None:
    if may_become(target, OWNER):
        _hand_over(job, target, name)
    _make_again(job, target, name)
    _give_grants(job, target, name)
    if not job.dry_run:
        verify(job, target, name)


def _hand_over(job: Job, target: Session, name: str) -> None:
    """Make the owner own what the migrations made, whoever ran them."""
    catalogue = expected()
    rows = target.rows(
        sql["write_hand_over"],
        schema=name,
        owner=OWNER,
        relations=catalogue.names("table", "view"),
        functions=catalogue.names("function"),
        types=catalogue.names("type"),
    )
    commands = tuple(row["command"] for row in rows)
    if not commands:
        job.note("owner", "there", f"{OWNER} owns everything")
        return
    if job.dry_run:
        job.note("owner", "planned", f"would give {len(commands)} objects to {OWNER}")
        return
    if not _open_to_owner(job, target, name):
        return
    try:
        with target.transaction():
            for command in commands:
                target.do(command)
    except psycopg.Error as exc:
        lines = tuple(Command(target.connection.info.dbname, f"{command};") for command in commands)
        job.note("owner", "failed", str(translate(exc, target.address.dsn)), commands=lines)
        return
    job.note("owner", "done", f"{OWNER} owns everything: {len(commands)} objects were somebody else's")


def _make_again(job: Job, target: Session, name: str) -> None:
    """Make what holds no rows and was dropped, with everything that migrations said of it later."""
    missing = sorted((t for t in take(target, name).missing if t.kind in REMADE), key=lambda thing: thing.number)
    if not missing:
        return
    named = some([f"{thing.kind} {thing}" for thing in missing])
    if job.dry_run:
        job.note("made again", "planned", f"would make {named}")
        return
    owner = (target.row(sql["schema"]) or {})["owner"]
    functions = any(thing.kind == "function" for thing in missing)
    try:
        with target.transaction(role=owner if may_become(target, owner) else None):
            for command in (*(thing.text for thing in missing), *(expected().settings if functions else ())):
                target.do(command)
    except psycopg.Error as exc:
        job.note("made again", "failed", f"{named}: {translate(exc, target.address.dsn)}")
        return
    job.note("made again", "done", named)


def _give_grants(job: Job, target: Session, name: str) -> None:
    if target.row(sql["role"], name=APP) is None:
        job.note("grants", "skipped", f"there is no role {APP} to give them to")
        return
    database = target.connection.info.dbname
    if not target.value(sql["may_connect"], role=APP):
        command = target.value(sql["write_grant_connect"], database=database, role=APP)
        is_done = partial(target.value, sql["may_connect"], role=APP)
        job.do(f"database {database}", target, command, may=True, done=f"{APP} may connect", is_done=is_done)
    if not target.value(sql["may_look_into"], role=APP, schema=name):
        # The owner of the tables cannot, where the schema is another's, and would only be warned.
        command = target.value(sql["write_grant_usage"], schema=name, role=APP)
        is_done = partial(target.value, sql["may_look_into"], role=APP, schema=name)
        job.do(f"schema {name}", target, command, may=True, done=f"{APP} may look into it", is_done=is_done)
    if any(step.status == "planned" for step in job.steps):
        # What is planned may be what they need.
        job.note("grants", "planned", f"would renew those of {APP}")
        return
    try:
        changed = renew_grants(target, name, keep=not job.dry_run)
    except psycopg.Error as exc:
        may_not = isinstance(exc, errors.InsufficientPrivilege)
        commands = (Command(database, "SELECT grant_atlas_roles();"),) if may_not else ()
        job.note("grants", "failed", str(translate(exc, target.address.dsn)), commands=commands)
        return
    if changed and job.dry_run:
        job.note("grants", "planned", f"would renew those of {APP}: some are missing, or there are others")
        return
    job.note("grants", "done" if changed else "there", f"{APP} may do what a tenant may, and nothing else")


def renew_grants(target: Session, name: str, *, keep: bool = True) -> bool:
    """Give the roles what this version of the schema gives them; tell whether anything was different.

    Without `keep` it is all taken back: only the server knows exactly what would change.
    """
    place = target.row(sql["schema"]) or {}
    if not place["has_grants"]:
        return False
    role = place["owner"] if may_become(target, place["owner"]) else None
    with target.transaction(role=role):
        before = target.rows(sql["grants"], schema=name)
        target.value(sql["grant"])
        changed = target.rows(sql["grants"], schema=name) != before
        if not keep:
            raise psycopg.Rollback
    return changed
