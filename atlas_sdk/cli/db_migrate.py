"""`atlasctl db migrate`: apply missing migrations, or show what they would do."""

from typing import TYPE_CHECKING

import click

from atlas_sdk import SchemaMismatch
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.output import count

if TYPE_CHECKING:
    from atlas_sdk.provision import Address, PendingMigration


@click.command(
    cls=Command,
    examples=(
        "atlasctl db migrate --plan",
        "atlasctl db migrate",
        "atlasctl db migrate --dsn postgresql://ada@db.example/atlas",
    ),
)
@click.option("--plan", is_flag=True, help="List the migrations and what they would block, and change nothing.")
@pass_run_anywhere
def migrate(run: Invocation, *, plan: bool) -> None:
    """Apply the migrations that are missing.

    Each migration runs in its own transaction, under a lock, so several processes may do this at once. It runs as the
    owner of the schema, if your login may act as the owner. A migration cannot be undone: make a backup first. --plan
    lists each missing migration, with its commands that make other clients wait.
    """
    from atlas_sdk.cli.addressing import configured

    if plan:
        show_plan(run, configured(run))
    else:
        apply_migrations(run, only_new=False)


def apply_migrations(run: Invocation, *, only_new: bool) -> None:
    """Apply the missing migrations. With `only_new`, refuse to upgrade an older schema of the embedded database."""
    from atlas_sdk.cli.addressing import configured
    from atlas_sdk.provision import migrate as migrate_server

    address = configured(run)
    if address is None:
        version, applied = _apply_to_embedded(run, only_new=only_new)
    else:
        version, rows = migrate_server(address)
        applied = [f"{row.version:04}_{row.name}" for row in rows]
    told = f"{count(len(applied), 'migration')} applied" if applied else "nothing to do"
    run.out.result({"schema_version": version, "applied": applied}, f"schema version {version}: {told}")


def _apply_to_embedded(run: Invocation, *, only_new: bool) -> tuple[int, list[str]]:
    before = None
    try:
        with run.opened(migrate=False) as atlas:
            before = len(atlas.schema.status())
    except SchemaMismatch as problem:
        if problem.found is not None and (only_new or problem.found > problem.wanted):
            raise
        before = problem.found
    with run.opened(migrate=True) as atlas:
        rows = atlas.schema.status()
    return len(rows), [f"{row.version:04}_{row.name}" for row in rows[before or 0 :]]


def show_plan(run: Invocation, address: "Address | None") -> None:
    """Print the missing migrations, each with its commands that make other clients wait."""
    from atlas_sdk.provision import embedded, plan_migrations

    if address is None:
        with embedded(run.settings.folder) as joined:
            version, pending = plan_migrations(joined)
    else:
        version, pending = plan_migrations(address)
    if run.out.json:
        run.out.record({"schema_version": version, "pending": [_record(migration) for migration in pending]})
        return
    for migration in pending:
        name = run.out.style(f"{migration.version:04}_{migration.name}", bold=True)
        run.out.line(f"{name}  {migration.about}")
        for lock in migration.locks:
            place = f"{lock.table}: " if lock.table else ""
            run.out.line(f"  {run.out.style('!', fg='yellow')} {place}{lock.effect}")
            run.out.line(f"      {lock.command}")
    heavy = sum(len(migration.locks) for migration in pending)
    if pending and version == 0:
        run.out.note(
            f"no schema yet: {count(len(pending), 'migration')} would be applied, one transaction each; they "
            "block nobody; nothing was changed"
        )
    elif pending:
        run.out.note(
            f"schema version {version}: {count(len(pending), 'migration')} would be applied, one transaction each, "
            f"with {count(heavy, 'command')} that others would wait for; nothing was changed"
        )
    else:
        run.out.note(f"schema version {version}: nothing to do")


def _record(migration: "PendingMigration") -> dict[str, object]:
    locks = [{"table": lock.table or None, "effect": lock.effect, "command": lock.command} for lock in migration.locks]
    return {"version": migration.version, "name": migration.name, "about": migration.about, "locks": locks}
