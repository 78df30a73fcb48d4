"""`atlasctl db`: the database itself."""

from typing import TYPE_CHECKING, Any

import click

from atlas_sdk.cli.command import Command, Flags, command_group
from atlas_sdk.cli.db_backup import dump, load
from atlas_sdk.cli.db_doctor import doctor
from atlas_sdk.cli.db_init import init
from atlas_sdk.cli.db_maintain import maintain
from atlas_sdk.cli.db_migrate import migrate
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.dsn import check_dsn, masked

if TYPE_CHECKING:
    from atlas_sdk import SchemaMismatch
    from atlas_sdk.cli.invocation import Invocation

__all__ = ["db"]

#: Seconds that the embedded server stays up for a program that was given its URL.
_KEPT_UP_S = 600


@command_group
def db() -> None:
    """Look after the database.

    The embedded database is made and migrated automatically. The schema of a server, given by --dsn or
    ATLAS_DATABASE_URL, changes only by `atlasctl db init` and `atlasctl db migrate`.
    """


@db.command(cls=Command, examples=("atlasctl db status", "atlasctl db status --json"))
@click.pass_obj
def status(flags: Flags) -> int:
    """Show which database is used, and whether its schema is up to date.

    Prints the versions of the server and of the schema, missing migrations, the size, and the time of one round trip.
    Exits with 1 when the schema is not this version's, with 5 when the server cannot be reached.
    """
    from atlas_sdk import SchemaMismatch
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.cli.output import size

    run = Invocation(flags, of_project=False)
    shown = run.database
    try:
        with run.opened() as atlas:
            health = atlas.health()
    except SchemaMismatch as problem:
        return _print_mismatch(run, shown, problem)
    fields: dict[str, Any] = {
        "ok": health.ok,
        "database": shown,
        "server_version": health.server_version,
        "schema_version": health.schema_version,
        "pending": 0,
        "database_bytes": health.database_bytes,
        "latency_ms": health.latency_ms,
        "problem": health.problem,
    }
    if flags.json:
        run.out.record(fields)
        return 0 if health.ok else FAILED
    run.out.table(
        [
            ("database", shown),
            ("server", f"PostgreSQL {health.server_version}"),
            ("schema", f"version {health.schema_version}, up to date"),
            ("size", size(health.database_bytes or 0)),
            ("round trip", f"{health.latency_ms or 0:.1f} ms"),
        ],
        styles=("bold", ""),
    )
    return 0 if health.ok else FAILED


def _print_mismatch(run: "Invocation", shown: str, problem: "SchemaMismatch") -> int:
    pending = max(0, problem.wanted - (problem.found or 0))
    if run.flags.json:
        run.out.record(
            {
                "ok": False,
                "database": shown,
                "server_version": None,
                "schema_version": problem.found,
                "pending": pending,
                "database_bytes": None,
                "latency_ms": None,
                "problem": str(problem),
            }
        )
        return FAILED
    found = "none" if problem.found is None else f"version {problem.found}"
    run.out.table([("database", shown), ("schema", f"{found}, {pending} pending")], styles=("bold", ""))
    run.out.warn(str(problem))
    return FAILED


@db.command(cls=Command, examples=("atlasctl db url", "psql $(atlasctl db url)", "atlasctl db url --show-password"))
@click.option("--show-password", is_flag=True, help="Print the secrets of a configured URL too.")
@click.pass_obj
def url(flags: Flags, *, show_password: bool) -> None:
    """Print the URL of the database, for psql and the like.

    The embedded server is started, and stays up for ten minutes. In the URL of a configured server, *** replaces the
    password, the options and other secrets.
    """
    from atlas_sdk.cli.invocation import Invocation

    run = Invocation(flags, of_project=False)
    configured = run.settings.database_url
    if configured is not None:
        check_dsn(configured)
        found = configured if show_password else masked(configured)
    else:
        with run.opened() as atlas:
            atlas.keep_server_for(_KEPT_UP_S)
            found = atlas.url
    if flags.json:
        run.out.record({"url": found, "embedded": configured is None})
        return
    run.out.line(found)
    if configured is None:
        run.out.note(f"the embedded server stays up for {_KEPT_UP_S // 60} minutes, longer while someone is connected")
    elif found != configured:
        run.out.note("*** stands for what is secret; --show-password prints it")


for _command in (init, migrate, doctor, dump, load, maintain):
    db.add_command(_command)
