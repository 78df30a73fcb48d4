"""`atlasctl db maintain`: delete expired data."""

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.command import Command
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.invocation import Invocation, pass_run_anywhere
from atlas_sdk.cli.output import count, size
from atlas_sdk.cli.param_types import AGE, FOREVER
from atlas_sdk.cli.progress import ProgressLine
from atlas_sdk.maintenance import MAINTENANCE_JOBS

if TYPE_CHECKING:
    from atlas_sdk.maintenance import JobReport, MaintenanceProgress

Age = timedelta | str

#: For each job, the noun for the objects that the job removes.
_NOUNS = {
    "periods": "ended month",
    "reservations": "expired reservation",
    "sessions": "expired session",
    "previews": "ended preview",
    "claims": "unused name",
    "snapshots": "old version",
    "contents": "unused content",
    "events": "old event",
    "usage": "added entry",
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
@pass_run_anywhere
def maintain(
    run: Invocation,
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
    settings = run.settings
    begun: list[str] = []

    def tell(now: "MaintenanceProgress") -> None:
        is_news = now.job not in begun
        if is_news:
            begun.append(now.job)
        which = f"job {len(begun)} of {len(jobs) or len(MAINTENANCE_JOBS)}"
        line.show(f"{which}, {now.job}: {now.removed:,} of {now.examined:,}", is_news=is_news)

    with run.opened() as atlas, ProgressLine(run.out) as line:
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
    if run.out.json:
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
    done = count(report.removed, _NOUNS[report.name])
    if report.freed_bytes:
        done += f", {size(report.freed_bytes)}"
    if report.skipped:
        done += f"; {report.skipped:,} in use, left to the next run"
    if report.problem is not None:
        done += "; failed"
    return report.name, done, f"of {report.examined:,}", f"{report.took.total_seconds():.1f} s"
