"""`atlasctl db maintain`: delete expired data."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from atlas_sdk.cli.command import Command, Flags
from atlas_sdk.cli.param_types import AGE, FOREVER
from atlas_sdk.maintenance import MAINTENANCE_JOBS

if TYPE_CHECKING:
    from atlas_sdk.cli.invocation import Invocation
    from atlas_sdk.maintenance import JobReport, MaintenanceProgress

__all__ = ["maintain"]

Age = timedelta | str
Tell = Callable[["MaintenanceProgress"], None]

#: Without a terminal, the seconds between two lines of progress.
_SILENT_S = 30.0
#: The objects that each job removes.
_NOUNS = {
    "periods": "ended month",
    "reservations": "expired reservation",
    "sessions": "expired session",
    "previews": "ended preview",
    "claims": "unused name",
    "snapshots": "old version",
    "contents": "unused content",
    "events": "old event",
}


@click.command(
    cls=Command,
    examples=(
        "atlasctl db maintain",
        "atlasctl db maintain --dry-run --json",
        "atlasctl db maintain --job snapshots --job contents --keep-auto 90d",
        "atlasctl db maintain --keep-events forever",
    ),
)
@click.option("--job", "jobs", multiple=True, type=click.Choice(MAINTENANCE_JOBS), help="Only this; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Count only; change nothing.")
@click.option(
    "--keep-auto",
    type=AGE,
    metavar="AGE",
    help="Keep versions of the watcher for this time: 90d, 4w, 12h, forever.  [default: 30d, or as configured]",
)
@click.option(
    "--keep-stopped-previews",
    type=AGE,
    metavar="AGE",
    help="Keep stopped and failed previews for this time.  [default: 7d, or as configured]",
)
@click.option(
    "--keep-events",
    type=AGE,
    metavar="AGE",
    help="Keep the audit trail for this time.  [default: 365d, or as configured]",
)
@click.option("--batch", type=click.IntRange(1, 100_000), default=5_000, show_default=True, help="Rows at a time.")
@click.pass_obj
def maintain(
    flags: Flags,
    jobs: tuple[str, ...],
    keep_auto: Age | None,
    keep_stopped_previews: Age | None,
    keep_events: Age | None,
    *,
    dry_run: bool,
    batch: int,
) -> int:
    """Delete expired data, of all users.

    Closes ended months of quotas, ends expired reservations, and deletes expired sessions, previews that stopped or
    failed long ago, unused names, old automatic versions, contents that no version needs, and old events. Keeps sums of
    the usage ledger. The newest version of every file stays, and so do the versions that a checkpoint names.

    Works in small steps, so it is safe beside other traffic, at any time, and in several places at once. Each job
    writes one event. The watcher does all of it once a day. Exits with 1 when a job failed.
    """
    from atlas_sdk.cli.failures import FAILED
    from atlas_sdk.cli.invocation import Invocation

    run = Invocation(flags, of_project=False)
    settings = run.settings
    with run.opened() as atlas, _progress(run, len(jobs) or len(MAINTENANCE_JOBS)) as tell:
        reports = atlas.maintenance.run(
            jobs or None,
            dry_run=dry_run,
            keep_auto=_kept(keep_auto, settings.keep_auto_days),
            keep_stopped_previews=_kept(keep_stopped_previews, settings.keep_stopped_previews_days),
            keep_events=_kept(keep_events, settings.keep_events_days),
            batch=batch,
            progress=tell,
        )
    failed = [report for report in reports if report.problem is not None]
    if flags.json:
        run.out.record({"ok": not failed, "dry_run": dry_run, "jobs": [report.to_json() for report in reports]})
    else:
        run.out.table([_row(report) for report in reports], styles=("bold", "", "dim", "dim"))
        for report in failed:
            run.out.warn(f"{report.name}: {report.problem}")
        if dry_run:
            run.out.note("nothing was changed")
    return FAILED if failed else 0


def _kept(given: Age | None, configured_days: int) -> timedelta | None:
    if isinstance(given, timedelta):
        return given
    return None if given == FOREVER else timedelta(days=configured_days)


def _row(report: "JobReport") -> tuple[str, str, str, str]:
    from atlas_sdk.cli.output import count, size

    done = count(report.removed, _NOUNS[report.name])
    if report.freed_bytes:
        done += f", {size(report.freed_bytes)}"
    if report.skipped:
        done += f"; {report.skipped:,} in use, left to the next run"
    if report.problem is not None:
        done += "; failed"
    return report.name, done, f"of {report.examined:,}", f"{report.took.total_seconds():.1f} s"


@contextmanager
def _progress(run: "Invocation", jobs: int) -> Iterator[Tell]:
    """Show progress on stderr: a bar on a terminal, else a line at intervals, and nothing with --json."""
    if run.flags.json:
        yield lambda _: None
    elif sys.stderr is not None and sys.stderr.isatty():
        with _bar(run, jobs) as tell:
            yield tell
    else:
        said_at = time.monotonic()

        def say(now: "MaintenanceProgress") -> None:
            nonlocal said_at
            if time.monotonic() - said_at >= _SILENT_S:
                said_at = time.monotonic()
                run.out.note(f"{now.job}: {now.removed:,} of {now.examined:,} …")

        yield say


@contextmanager
def _bar(run: "Invocation", jobs: int) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, no_color=not run.out.colored, highlight=False)
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("maintenance", total=jobs)
        begun: list[str] = []

        def show(now: "MaintenanceProgress") -> None:
            if now.job not in begun:
                begun.append(now.job)
            text = f"{now.job}: {now.removed:,} of {now.examined:,}"
            # Refresh now: a short job may end before the next automatic refresh.
            progress.update(task, completed=len(begun) - 1, description=f"{text:<40}", refresh=True)

        yield show
        progress.update(task, completed=jobs)
