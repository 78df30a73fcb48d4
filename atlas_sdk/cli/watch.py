"""`atlasctl watch`: run the watcher in the foreground."""

import click

from atlas_sdk import FileProblem
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere


@click.command(cls=Command, examples=("atlasctl watch", "atlasctl watch --dsn postgresql://ada@db.example/atlas"))
@pass_run_anywhere
def watch(run: Invocation) -> int:
    """Capture every change from now on, until interrupted.

    Watches all registered projects, also those registered later. Runs in the foreground and logs to stderr. ^C stops it
    after it has stored pending changes. At the start it captures what changed while it was not running. Once a day,
    when idle, it runs the jobs of `atlasctl db maintain`, unless the setting `maintenance` is false.
    """
    import logging

    from atlas_sdk.logs import DAEMON_LAYOUT, log_to_stderr
    from watcher.program import serve

    settings = run.settings
    log_to_stderr(logging.INFO, DAEMON_LAYOUT, dsn=settings.database_url)
    # The pool logs every failed attempt; the watcher logs the outage once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    try:
        return serve(settings, load=run.load_settings, on_terminal=run.out.terminal)
    except OSError as exc:
        home = str(settings.folder)
        raise FileProblem(
            f"cannot watch from {home}: {exc}; give a folder with --home or ATLAS_HOME", path=home
        ) from exc
