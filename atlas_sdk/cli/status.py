"""`atlasctl status`: show for each memory file whether the file is saved and watched."""

from datetime import UTC, datetime

import click

from atlas_sdk.cli.command import Command
from atlas_sdk.cli.failures import NOT_PROTECTED
from atlas_sdk.cli.invocation import Invocation, pass_run


@click.command(cls=Command, examples=("atlasctl status", "atlasctl status --all", "atlasctl status --json"))
@click.option("--all", "everything", is_flag=True, help="Every project of yours, not only this one.")
@pass_run
def status(run: Invocation, *, everything: bool) -> int:
    """Tell for every memory file whether it is protected now.

    A file is protected when its present content is saved and a running watcher captures the next change. Exits with 6
    when one is not: no watcher runs, the file differs from its newest version, cannot be read, or is over the size
    limit. A change is pending for ten seconds while a watcher runs. While the database is away, the journal of this
    machine tells the state. Lists the deletions of the last seven days. Also shows how much of the memory limit is
    used; above it nothing is refused, unless the limit is hard.
    """
    from atlas_sdk.cli.status_report import collect
    from atlas_sdk.cli.status_view import fields_of_report, show
    from watcher.status import read_status

    watcher = read_status(run.settings.folder)
    # Take the time before the database opens, which can take longer than `FRESH_S`: a working watcher would seem to
    # hang.
    report = collect(run, watcher, datetime.now(UTC), everything=everything)
    if run.out.json:
        run.out.record(fields_of_report(report))
    else:
        show(run.out, report)
    return NOT_PROTECTED if report.at_risk else 0
