"""`atlasctl snapshot`: capture what changed."""

from pathlib import Path

import click

from atlas_sdk import FileProblem, QuotaExceeded
from atlas_sdk.cli.capturing import show_taken, unkept, warn_skipped
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_skipped, of_version
from atlas_sdk.cli.output import count
from atlas_sdk.cli.without_database import AWAY, save_here
from atlas_sdk.text import printable


@click.command(
    cls=Command, examples=("atlasctl snapshot", "atlasctl snapshot CLAUDE.md notes.md", "atlasctl snapshot --json")
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@pass_run
def snapshot(run: Invocation, paths: tuple[str, ...]) -> int:
    """Capture what changed.

    Without PATH, captures every tracked file of the project, deletions too. With PATH, captures these files, also
    untracked ones. Content that is stored already is not stored again. While the database is away, the files are saved
    on this machine, and stored when it is back. Exits with 1 when a file could not be captured; the others are.
    """
    try:
        return _snapshot(run, paths)
    except AWAY as away:
        return save_here(run, away, paths)


def _snapshot(run: Invocation, paths: tuple[str, ...]) -> int:
    from atlas_sdk.files import NOT_TRACKED, Tracking, to_text

    taken = []
    skipped: list[tuple[str, str]] = []
    untracked: tuple[str, ...] = ()
    current = 0
    with run.opened() as atlas:
        project = run.project(atlas)
        if not paths:
            captured = atlas.memory.capture(project)
            taken, skipped = list(captured.taken), list(captured.skipped)
            untracked = captured.untracked
            on_record = {version.path for version in atlas.memory.files(project) if not version.deleted}
            current = len(on_record - {path for path, _ in skipped} - set(untracked))
        for path in paths:
            try:
                made = atlas.memory.snapshot(project, run.path(project, path))
            except FileProblem as problem:
                skipped.append((problem.path, str(problem)))
                continue
            except QuotaExceeded as full:
                skipped.append((path, f"{printable(path)}: {full}"))
                continue
            current += 1
            if made is not None:
                taken.append(made)
        if paths and taken:
            # Record a threshold that the new versions passed. Without paths, `capture` has done this itself.
            atlas.quotas.record_memory_threshold(run.user(atlas))
    limited = unkept(taken, Tracking.load(Path(project.path)).limit_bytes)
    if run.out.json:
        run.out.record(
            {
                "taken": [of_version(version) for version in taken],
                "skipped": [of_skipped(*entry) for entry in (*skipped, *limited)],
                "untracked": [to_text(path) for path in untracked],
            }
        )
    else:
        show_taken(run.out, taken)
        if not taken and (current or not skipped):
            run.out.note(f"up to date: {count(current, 'file')}")
        for path in untracked:
            run.out.note(f"{printable(path)} is {NOT_TRACKED}")
        warn_skipped(run.out, (*skipped, *limited))
    return FAILED if skipped else 0
