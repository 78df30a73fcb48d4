"""`atlasctl db`: the database itself."""

from typing import TYPE_CHECKING

import click

from atlas_sdk import SchemaMismatch
from atlas_sdk.cli.advice import advice
from atlas_sdk.cli.command import command_group
from atlas_sdk.cli.db_backup import dump, load
from atlas_sdk.cli.db_doctor import doctor
from atlas_sdk.cli.db_init import init
from atlas_sdk.cli.db_maintain import maintain
from atlas_sdk.cli.db_migrate import migrate
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.json_output import fields_of
from atlas_sdk.cli.output import size
from atlas_sdk.dsn import check_dsn, masked

if TYPE_CHECKING:
    from atlas_sdk import SchemaMismatch

#: Seconds that the embedded server stays up for a program that was given its URL.
_KEPT_UP_S = 600
#: What `db status` reports.
_STATUS = "ok database server_version schema_version pending database_bytes latency_ms problem"


@command_group
def db() -> None:
    """Look after the database.

    The embedded database is made and migrated automatically. The schema of a server, given by --dsn or
    ATLAS_DATABASE_URL, changes only by `atlasctl db init` and `atlasctl db migrate`.
    """


@db.command(examples=("atlasctl db status", "atlasctl db status --json"))
@pass_run_anywhere
def status(run: Invocation) -> int:
    """Show which database is used, and whether its schema is up to date.

    Prints the versions of the server and of the schema, missing migrations, the size, and the time of one round trip.
    Exits with 1 when the schema is not this version's, with 5 when the server cannot be reached.
    """
    shown = run.database
    try:
        with run.opened() as atlas:
            health = atlas.health()
    except SchemaMismatch as problem:
        return _print_mismatch(run, shown, problem)
    run.out.details(
        fields_of(health, _STATUS, database=shown, pending=0),
        [
            ("database", shown),
            ("server", f"PostgreSQL {health.server_version}"),
            ("schema", f"version {health.schema_version}, up to date"),
            ("size", size(health.database_bytes or 0)),
            ("round trip", f"{health.latency_ms or 0:.1f} ms"),
        ],
    )
    return 0 if health.ok else FAILED


def _print_mismatch(run: Invocation, shown: str, problem: "SchemaMismatch") -> int:
    pending = max(0, problem.wanted - (problem.found or 0))
    told = str(problem) + advice(problem)
    known = {"ok": False, "schema_version": problem.found, "pending": pending, "problem": told}
    found = "none" if problem.found is None else f"version {problem.found}"
    run.out.details(
        {**dict.fromkeys(_STATUS.split()), "database": shown, **known},
        [("database", shown), ("schema", f"{found}, {pending} pending")],
    )
    if not run.out.json:
        run.out.warn(told)
    return FAILED


@db.command(examples=("atlasctl db url", "psql $(atlasctl db url)", "atlasctl db url --show-password"))
@click.option("--show-password", is_flag=True, help="Print the secrets of a configured URL too.")
@pass_run_anywhere
def url(run: Invocation, *, show_password: bool) -> None:
    """Print the URL of the database, for psql and the like.

    The embedded server is started, and stays up for ten minutes. In the URL of a configured server, *** replaces the
    password, the options and other secrets.
    """
    configured = run.settings.database_url
    if configured is not None:
        check_dsn(configured)
        found = configured if show_password else masked(configured)
    else:
        with run.opened() as atlas:
            atlas.keep_server_for(_KEPT_UP_S)
            found = atlas.url
    run.out.result({"url": found, "embedded": configured is None}, found)
    if configured is None:
        run.out.note(f"the embedded server stays up for {_KEPT_UP_S // 60} minutes, longer while someone is connected")
    elif found != configured:
        run.out.note("*** stands for what is secret; --show-password prints it")


for _command in (init, migrate, doctor, dump, load, maintain):
    db.add_command(_command)
