"""`atlas-watcher`: the daemon as a program."""

import logging
import sys
from functools import partial

import click

from atlas_sdk.dsn import without_addresses
from atlas_sdk.logs import DAEMON_LAYOUT, log_to_stderr
from atlas_sdk.text import cut, visible

#: The longest error message about the command line, in characters.
_LETTERS = 1_000
_LEVELS = ("debug", "info", "warning", "error")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(file_okay=False),
    help="Folder of the embedded database, the lock and the status.  [env: ATLAS_HOME]",
)
@click.option(
    "--dsn",
    help="PostgreSQL to store versions in; without one, the embedded server of the home.  [env: ATLAS_DATABASE_URL]",
)
@click.option("--log-level", type=click.Choice(_LEVELS), default="info", show_default=True, help="What stderr shows.")
@click.option("--log-json", "as_json", is_flag=True, help="Log JSON: one object a line, also for each capture.")
@click.option(
    "--metrics",
    "metrics_port",
    metavar="PORT",
    type=click.IntRange(1, 65_535),
    envvar="ATLAS_METRICS_PORT",
    help="Serve Prometheus metrics on this port of 127.0.0.1.  [env: ATLAS_METRICS_PORT]",
)
@click.pass_context
def _command(
    context: click.Context,
    *,
    home: str | None,
    dsn: str | None,
    log_level: str,
    as_json: bool,
    metrics_port: int | None,
) -> None:
    """Watch every registered project, and store a version of each memory file that changes.

    Runs until SIGTERM or SIGINT, then stores the changes that are left. SIGHUP makes it read the settings and the list
    of projects again. Once a day, when it is idle, it deletes expired
    data from the database; ATLAS_MAINTENANCE=false or the setting `maintenance` turns that off. Exits with 1 when
    another watcher uses the same home.
    """
    log = log_to_stderr(log_level.upper(), DAEMON_LAYOUT, dsn=dsn, as_json=as_json)
    # The pool logs every failed attempt; the watcher logs a failure once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    from atlas_sdk import InvalidInput  # noqa: PLC0415 - the help must not wait for these imports
    from atlas_sdk.config import database_url, load_settings  # noqa: PLC0415
    from watcher.program import serve  # noqa: PLC0415

    try:
        # With --home, `load_settings` ignores a server of the environment, unless the call passes the server as a flag.
        # Pass it: with a server, the home has only the lock and the status.
        load = partial(load_settings, database_url=dsn or database_url(), home=home)
        settings = load()
        _ = settings.folder  # a wrong home is an error of the command line
    except InvalidInput as problem:
        raise click.UsageError(str(problem), context) from problem
    log.dsn = settings.database_url
    context.exit(serve(settings, load=load, metrics_port=metrics_port))


def main(argv: list[str] | None = None) -> int:
    """Run the daemon with these arguments; return its exit code."""
    try:
        result = _command.main(args=argv, prog_name="atlas-watcher", standalone_mode=False)
    except OSError as error:
        # The error is about the home folder, because an error in a project does not end the daemon.
        click.echo(f"Error: cannot watch: {visible(cut(str(error)))}; give another folder with --home", err=True)
        return 1
    except click.ClickException as error:
        # The message quotes the command line, so it may hold a password.
        sentence = visible(cut(without_addresses(error.format_message()), _LETTERS))
        click.UsageError(sentence, getattr(error, "ctx", None)).show()
        return error.exit_code
    return int(result or 0)


if __name__ == "__main__":
    sys.exit(main())
