"""`atlasctl db init`: make the database, its roles and its schema."""

import os
from typing import TYPE_CHECKING, Any, Final

import click

from atlas_sdk import InvalidInput
from atlas_sdk.cli.command import UTF8, Command
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import fields_of
from atlas_sdk.cli.output import count, plain

if TYPE_CHECKING:
    from atlas_sdk.provision import Address, Setup, SetupStep

#: The mark of each outcome of a step, and its colour.
_MARKS: Final = {
    "done": ("✓", "green"),
    "there": ("·", "bright_black"),
    "planned": ("+", "cyan"),
    "skipped": ("-", "yellow"),
    "failed": ("✗", "red"),
}
_NAME_WIDTH: Final = 20


@click.command(
    cls=Command,
    examples=(
        "atlasctl db init",
        "atlasctl db init --dsn postgresql://postgres@db.example/atlas --app-user shop",
        "atlasctl db init --dry-run",
    ),
)
@click.option("--dry-run", is_flag=True, help="Print the steps, and change nothing.")
@click.option(
    "--app-user",
    metavar="NAME",
    type=UTF8,
    help="Make this login for the application too. Its password: ATLAS_APP_PASSWORD, else a new one, shown once.",
)
@pass_run_anywhere
def init(run: Invocation, *, dry_run: bool, app_user: str | None) -> int:
    """Make the database, its roles and its schema where they are missing.

    On the server of --dsn or ATLAS_DATABASE_URL, else of DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD; with none
    of them, in the embedded database. Makes the database, the role atlas_owner, which owns the tables, the role
    atlas_app, which tenants act as, the schema and the grants. Then it checks that every table, view, trigger, function
    and index exists. A second run changes nothing, or continues an interrupted one, and restores dropped views,
    functions and triggers. If your login lacks a right, the commands for an administrator are printed, for psql, and
    the exit code is 1.
    """
    from atlas_sdk.cli.addressing import configured_or_variables
    from atlas_sdk.provision import set_up

    address = configured_or_variables(run)
    if address is None:
        if app_user is not None:
            raise InvalidInput("the embedded database has no other logins: give a server with --dsn", field="app_user")
        return _embedded(run, dry_run=dry_run)
    run.out.note(f"{'planning for' if dry_run else 'setting up'} {address.place} (from {address.source})")
    setup = set_up(
        address,
        app_user=app_user,
        app_password=os.environ.get("ATLAS_APP_PASSWORD") or None,
        dry_run=dry_run,
        tell=lambda step: _tell(run, address, step),
    )
    if run.out.json:
        run.out.record(_fields(setup, app_user))
    else:
        _print(run, setup, app_user)
        if setup.ok and address.source.startswith("DB_"):
            run.out.note(f"for other commands: export ATLAS_DATABASE_URL={address.url}   (and PGPASSWORD)")
    return 0 if setup.ok else FAILED


def _embedded(run: Invocation, *, dry_run: bool) -> int:
    from atlas_sdk.cli.db_migrate import apply_migrations, show_plan

    if dry_run:
        show_plan(run, None)
    else:
        apply_migrations(run, only_new=True)
    return 0


def _tell(run: Invocation, address: "Address", step: "SetupStep") -> None:
    mark, color = _MARKS[step.status]
    detail = plain(address.aim(step.detail))
    run.out.note(f"{run.out.style(mark, fg=color)} {plain(step.name).ljust(_NAME_WIDTH)}  {detail}".rstrip())


def _print(run: Invocation, setup: "Setup", app_user: str | None) -> None:
    if setup.app_password is not None:
        run.out.line(f"password of {app_user}, shown only now: {setup.app_password}")
    if setup.commands:
        run.out.note("an administrator of the server has to run this in psql; then run atlasctl db init again:")
        at = None
        for command in setup.commands:
            if command.database != at:
                at = command.database
                run.out.line('\\connect "' + at.replace('"', '""') + '"')
            run.out.line(command.text)
    elif setup.dry_run:
        run.out.line("dry run: nothing was changed")
    elif setup.applied:
        run.out.line(f"schema version {setup.schema_version}: {count(len(setup.applied), 'migration')} applied")
    elif setup.ok and all(step.status == "there" or step.detail.startswith("all ") for step in setup.steps[1:]):
        run.out.line(f"schema version {setup.schema_version}: nothing to do")
    elif setup.ok:
        run.out.line(f"schema version {setup.schema_version}: no migration to apply")


def _fields(setup: "Setup", app_user: str | None) -> dict[str, Any]:
    return fields_of(
        setup,
        "ok database source dry_run server_version schema_version applied app_user app_password steps commands",
        database=setup.place,
        app_user=app_user,
        steps=[fields_of(step, "name status detail") for step in setup.steps],
        commands=[{"database": command.database, "command": command.text} for command in setup.commands],
    )
