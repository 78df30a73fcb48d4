"""Make the schema in a database, with its owner and its grants."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import migrations, statements
from atlas_sdk.errors import AtlasError, NotPermitted, SchemaMismatch
from atlas_sdk.model.schema import AppliedMigration
from atlas_sdk.ops import schema
from atlas_sdk.provision.address import MAINTENANCE
from atlas_sdk.provision.closing import close
from atlas_sdk.provision.examine_isolation import function_troubles
from atlas_sdk.provision.inventory import REMADE, Thing, expected, take, verify
from atlas_sdk.provision.migration_text import creating
from atlas_sdk.provision.roles import APP, OWNER, may_become
from atlas_sdk.provision.session import LOCK_TIMEOUT, AdminLogin, migrate_as, open_session
from atlas_sdk.provision.steps import AdminCommand, Job
from atlas_sdk.text import some

__all__ = ["fill", "is_ancestor", "is_unused", "renew_grants"]

sql = statements("provision")

#: The longest wait for another process that sets up the same database.
_TURN_WAIT = "120s"


def fill(job: Job, stack: ExitStack, target: AdminSession, login: AdminLogin) -> tuple[int | None, tuple[str, ...]]:
    """Make the schema, hand it to the owner, give the grants, and check; return its version and the new migrations.

    A lock lets one process do this at a time, so the second process finds a complete schema.
    """
    if not job.dry_run:
        # The lock is on a connection of its own, because each migration is a transaction.
        turn = stack.enter_context(open_session(target.dsn))
        # Limit the wait, because any login may hold an advisory lock for ever.
        stack.enter_context(turn.transaction(lock_timeout=_TURN_WAIT))
        if turn.value(schema.sql["may_lock"]):
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
            hint = "; run: atlasctl db migrate" if mismatch.migratable else ""
            job.note("schema", "failed", f"{mismatch}{hint}")
            return found, ()
    except NotPermitted:
        grant = target.value(sql["write_grant_role"], role=place["owner"], member=login.name)
        less = target.value(sql["write_grant_role"], role=APP, member=login.name)
        problem = (
            f"it belongs to {place['owner']}, and this login may not even read its version; to set it up takes the "
            f"command below, for an application {less} is enough"
        )
        # Roles belong to the server, so every step names the same database for this command, and the command is shown
        # once.
        job.note("schema", "failed", problem, commands=(AdminCommand(MAINTENANCE, f"{grant};"),))
        return None, ()
    else:
        version = len(migrations())
        job.note("schema", "there", f"version {version}, up to date")
        _finish(job, target, name)
        return version, ()
    return _make(job, target, name, login, place["owner"] if found else None)


def _is_half_made(target: AdminSession, found: int, owner: str) -> bool:
    """Return whether an earlier set-up ended between two migrations. A set-up does not upgrade a schema in use."""
    applied = target.run(schema.status())
    return found < len(migrations()) and is_ancestor(applied) and is_unused(target, owner)


def is_ancestor(applied: list[AppliedMigration]) -> bool:
    """Return whether the applied migrations are this package's, from its first one on, with the same checksums."""
    return all(row.checksum == schema.checksum(known) for row, known in zip(applied, migrations(), strict=False))


def is_unused(target: AdminSession, owner: str) -> bool:
    """Return whether a schema certainly has no user yet."""
    with target.transaction(role=owner if may_become(target, owner) else None, lock_timeout=LOCK_TIMEOUT):
        return bool(target.value(sql["is_unused"]))


def _make(
    job: Job, target: AdminSession, name: str, login: AdminLogin, owner: str | None
) -> tuple[int | None, tuple[str, ...]]:
    """Apply the missing migrations. `owner` is the owner of the tables of an incomplete schema."""
    before = len(target.run(schema.status()))
    owned = may_become(target, OWNER) and _open_to_owner(job, target, name)
    # In a dry run the owner may not exist yet.
    owned = owned or (job.dry_run and login.may_create_roles)
    if not owned and not target.value(sql["may_create_in"], role=login.name, schema=name):
        grant = target.value(sql["write_grant_schema"], schema=name, role=OWNER)
        commands = (AdminCommand(target.database, f"{grant};"),)
        job.note("schema", "failed", f"this login may not create anything in {name}", commands=commands)
        return (before or None), ()
    if job.dry_run:
        job.note("schema", "planned", f"would apply {len(migrations()) - before} migrations")
        return (before or None), ()
    role = OWNER if owned else None
    if owner is not None:
        # Only their owner can change the first tables.
        role = owner if may_become(target, owner) else None
    try:
        rows = migrate_as(target, role)
    except AtlasError as error:
        # Each migration is a transaction, so the migrations before this one are kept.
        number = len(target.run(schema.status()))
        job.note("schema", "failed", f"version {number} was reached, then the next migration failed: {error}")
        return (number or None), ()
    version = len(migrations())
    job.note("schema", "done", f"version {version}, {len(rows)} migrations applied")
    _finish(job, target, name)
    return version, tuple(f"{row.version:04}_{row.name}" for row in rows)


def _open_to_owner(job: Job, target: AdminSession, name: str) -> bool:
    """Let the owner create in the schema."""
    return job.do(
        f"schema {name}",
        target,
        target.value(sql["write_grant_schema"], schema=name, role=OWNER),
        may=target.value(sql["may_open"], schema=name),
        done=f"{OWNER} may create in it",
        is_done=partial(target.value, sql["may_create_in"], role=OWNER, schema=name),
    )


def _finish(job: Job, target: AdminSession, name: str) -> None:
    if may_become(target, OWNER):
        _hand_over(job, target, name)
    _make_again(job, target, name)
    _give_grants(job, target, name)
    if not job.dry_run:
        verify(job, target, name)


def _hand_over(job: Job, target: AdminSession, name: str) -> None:
    """Make the owner own everything that the migrations made, whichever login ran them."""
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
        with target.transaction(lock_timeout=LOCK_TIMEOUT):
            for command in commands:
                target.execute(command)
    except AtlasError as error:
        lines = tuple(AdminCommand(target.database, f"{command};") for command in commands)
        job.note("owner", "failed", str(error), commands=lines)
        return
    job.note("owner", "done", f"{OWNER} owns everything: {len(commands)} objects were somebody else's")


def _make_again(job: Job, target: AdminSession, name: str) -> None:
    """Make the functions, views and triggers that were dropped, with the rights that the migrations give them."""
    missing = [thing for thing in take(target, name).missing if thing.kind in REMADE]
    if not missing:
        return
    named = some(sorted(f"{thing.kind} {thing}" for thing in missing))
    if job.dry_run:
        job.note("made again", "planned", f"would make {named}")
        return
    owner = (target.row(sql["schema"]) or {})["owner"]
    try:
        with target.transaction(role=owner if may_become(target, owner) else None, lock_timeout=LOCK_TIMEOUT):
            for command in _making(missing):
                target.execute(command)
            # Restore the rights that a function runs with, because a later migration may have changed them.
            for _, commands in function_troubles(take(target, name), name):
                for command in commands:
                    target.execute(command)
    except AtlasError as error:
        job.note("made again", "failed", f"{named}: {error}")
        return
    job.note("made again", "done", named)


def _making(missing: list[Thing]) -> Iterator[str]:
    """Yield the commands that make these objects, each command after the commands that it needs."""
    for kind in REMADE:
        things = [thing for thing in missing if thing.kind == kind]
        recorded = [thing.making for thing in things if thing.making is not None]
        yield from recorded or creating(kind, {thing.name for thing in things})


def _give_grants(job: Job, target: AdminSession, name: str) -> None:
    if target.row(sql["role"], name=APP) is None:
        job.note("grants", "skipped", f"there is no role {APP} to give them to")
        return
    database = target.database
    if not target.value(sql["may_connect"], role=APP):
        command = target.value(sql["write_grant_connect"], database=database, role=APP)
        is_done = partial(target.value, sql["may_connect"], role=APP)
        job.do(f"database {database}", target, command, may=True, done=f"{APP} may connect", is_done=is_done)
    if not target.value(sql["may_look_into"], role=APP, schema=name):
        # The owner of the tables cannot give this right in a schema of another role: the server would only warn.
        command = target.value(sql["write_grant_usage"], schema=name, role=APP)
        is_done = partial(target.value, sql["may_look_into"], role=APP, schema=name)
        job.do(f"schema {name}", target, command, may=True, done=f"{APP} may look into it", is_done=is_done)
    if any(step.status == "planned" for step in job.steps):
        # The grants may need an object that another step only plans.
        job.note("grants", "planned", f"would renew those of {APP}")
        return
    try:
        changed = renew_grants(target, name, keep=not job.dry_run)
    except AtlasError as error:
        commands = (AdminCommand(database, "SELECT grant_atlas_roles();"),) if isinstance(error, NotPermitted) else ()
        job.note("grants", "failed", str(error), commands=commands)
        return
    if changed and job.dry_run:
        job.note("grants", "planned", f"would renew those of {APP}: some are missing, or there are others")
        return
    job.note("grants", "done" if changed else "there", f"{APP} may do what a tenant may, and nothing else")


def renew_grants(target: AdminSession, name: str, *, keep: bool = True) -> bool:
    """Give the roles the grants of this version of the schema; return whether any of them was different.

    Without `keep` the call rolls everything back. It makes the changes first, because only the server knows exactly
    which grants differ.
    """
    place = target.row(sql["schema"]) or {}
    if not place["has_grants"]:
        return False
    role = place["owner"] if may_become(target, place["owner"]) else None
    with target.transaction(role=role, lock_timeout=LOCK_TIMEOUT, keep=keep):
        before = target.rows(sql["grants"], schema=name)
        target.value(sql["grant"])
        return target.rows(sql["grants"], schema=name) != before
