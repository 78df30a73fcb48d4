"""`atlasctl watch`: run the watcher in the foreground."""

import click

from atlas_sdk import FileProblem
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere


@click.command(
    cls=Command,
    examples=(
        "atlasctl watch",
        "atlasctl watch --dsn postgresql://ada@db.example/atlas",
        "atlasctl watch --log-json",
        "atlasctl watch --metrics 9464",
    ),
)
@click.option("--log-json", is_flag=True, help="Print captures, summaries and the log as JSON: one object a line.")
@click.option(
    "--metrics",
    "metrics_port",
    metavar="PORT",
    type=click.IntRange(1, 65_535),
    envvar="ATLAS_METRICS_PORT",
    help="Serve Prometheus metrics on this port of 127.0.0.1.  [env: ATLAS_METRICS_PORT]",
)
@pass_run_anywhere
def watch(run: Invocation, *, log_json: bool, metrics_port: int | None) -> int:
    """Capture every change from now on, until interrupted.

    Watches all registered projects, also those registered later. Runs in the foreground. Prints a line for each capture
    (time, project, file, change, size and its difference, kind), a summary at the start and at the end, and on a
    terminal a last line that shows the state; the log goes to stderr. ^C stops it after it has stored pending changes.
    At the start it captures what changed while it was not running. Once a day, when idle, it runs the jobs of `atlasctl
    db maintain`, unless the setting `maintenance` is false. `atlasctl service` runs it as a service.
    """
    import logging

    from atlas_sdk.cli.watch_console import LogAbove, WatchConsole
    from atlas_sdk.logs import DAEMON_LAYOUT, JsonFormatter, LogFormatter, log_to_stderr
    from watcher.captures import CAPTURES, SUMMARY
    from watcher.program import serve

    settings = run.settings
    as_json = log_json or run.out.json
    console = WatchConsole(run.out, formatter=JsonFormatter(DAEMON_LAYOUT) if as_json else None)
    if console.live:
        above = LogAbove(console, LogFormatter(DAEMON_LAYOUT, dsn=settings.database_url))
        logging.basicConfig(level=logging.INFO, handlers=[above])
    else:
        log_to_stderr(logging.INFO, DAEMON_LAYOUT, dsn=settings.database_url, as_json=as_json)
    # The pool logs every failed attempt; the watcher logs the outage once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    for logger in (CAPTURES, SUMMARY):
        # These are data, and not lines of the log.
        logger.propagate = False
        logger.setLevel(logging.INFO)
        logger.addHandler(console)
    try:
        return serve(
            settings,
            load=run.load_settings,
            on_terminal=run.out.terminal,
            told=console.report,
            metrics_port=metrics_port,
        )
    except OSError as exc:
        home = str(settings.folder)
        raise FileProblem(
            f"cannot watch from {home}: {exc}; give a folder with --home or ATLAS_HOME", path=home
        ) from exc
    finally:
        for logger in (CAPTURES, SUMMARY):
            logger.propagate = True
            logger.removeHandler(console)
        console.close()
