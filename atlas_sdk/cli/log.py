"""`atlasctl log`: the versions of a file or of a project."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click

from atlas_sdk import NotFound
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_version
from atlas_sdk.cli.output import plain, signed, size
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project, Snapshot

_PAGE_ROWS = 200
#: The largest --limit; --all has no limit.
_MOST = 1_000_000
#: The word to show for each kind of file.
_CONTENTS = {"claude_md": "instructions", "scratch": "notes"}
#: Names of the checkpoints that restores make; the list leaves them out.
_SAFETY = re.compile(r"before-(restore|undo|redo)-[0-9a-f]{12}")


@click.command(cls=Command, examples=("atlasctl log", "atlasctl log CLAUDE.md -n 5", "atlasctl log --all --json"))
@click.argument("path", required=False)
@click.option("-n", "--limit", type=click.IntRange(1, _MOST), default=20, show_default=True, help="Versions at most.")
@click.option("--all", "everything", is_flag=True, help="Every version.")
@pass_run
def log(run: Invocation, path: str | None, limit: int, *, everything: bool) -> None:
    """List versions, newest first.

    Of one file, or of the whole project. A line has the version's id, its time, whether the file has instructions or
    notes, whether it was saved by hand or automatically, the file, its size and the difference in bytes to the version
    before, who or what caused it, and the checkpoints that name it. A narrow terminal leaves out some of it.
    """
    from atlas_sdk.files import Tracking

    with run.opened() as atlas:
        project = run.project(atlas)
        name = None if path is None else run.path(project, path)
        # Read one more than is shown, to know if there are more.
        listed = list(islice(_versions(atlas, project, name), None if everything else limit + 1))
        shown = list(_with_delta(atlas, project, listed if everything else listed[:limit]))
    if path is not None and not listed:
        raise NotFound(f"no version of {printable(path)} is on record", kind="file", name=path)
    if run.out.json:
        for version, names, delta in shown:
            run.out.record({**of_version(version), "delta": delta, "checkpoints": sorted(names)})
        return
    kind = Tracking().kind
    rows = [_row(run, *entry, kind=kind) for entry in shown]
    run.out.table(rows, styles=("yellow", "dim", "dim", "dim", "", "", "dim", "dim", "green"))
    if not rows:
        run.out.note("no versions yet; CLAUDE.md, AGENTS.md and the like are captured when they appear")
    elif len(shown) < len(listed):
        run.out.note(f"the newest {limit}; --limit or --all shows more")


def _versions(atlas: "Atlas", project: "Project", path: str | None) -> "Iterator[tuple[Snapshot, list[str]]]":
    """Yield versions, newest first, each with the names of the checkpoints that have it."""
    names: dict[tuple[str, int], list[str]] = {}
    for row in _rows(atlas, project, path):
        if row.checkpoint is not None:
            names.setdefault((row.path, row.seq), []).append(row.checkpoint)
        else:
            yield row, names.pop((row.path, row.seq), [])


def _rows(atlas: "Atlas", project: "Project", path: str | None) -> "Iterator[Snapshot]":
    limit = _PAGE_ROWS
    before: Snapshot | None = None
    while True:
        page = atlas.memory.history(project, path, limit=limit, before=before)
        whole = page
        if path is not None and len(page) == limit:
            # The next page starts below a version number, and the rows of checkpoints have the number of their version.
            # So end this page between two numbers.
            whole = [row for row in page if row.seq > page[-1].seq]
        yield from whole
        if len(page) < limit:
            return
        if whole:
            before = whole[-1]
        else:
            limit *= 2


def _with_delta(
    atlas: "Atlas", project: "Project", listed: "list[tuple[Snapshot, list[str]]]"
) -> "Iterator[tuple[Snapshot, list[str], int | None]]":
    """Add the difference in bytes to the version before; None for a file's first version."""
    sizes = {(version.path, version.seq): version.size for version, _ in listed}
    for version, names in listed:
        key = (version.path, version.seq - 1)
        if version.seq > 1 and key not in sizes:
            earlier = atlas.memory.history(project, version.path, limit=1, before=version)
            sizes[key] = earlier[0].size if earlier else 0
        yield version, names, version.size - sizes[key] if version.seq > 1 else None


def _row(
    run: Invocation, version: "Snapshot", names: list[str], delta: int | None, *, kind: Callable[[str], str]
) -> tuple[str, ...]:
    return (
        version.short_id,
        run.out.when(version.created_at),
        # The kind "auto" does not say what the file is.
        _CONTENTS[version.kind if version.kind in _CONTENTS else kind(version.path)],
        "auto" if version.kind == "auto" else "manual",
        printable(version.path),
        "deleted" if version.deleted else size(version.size),
        signed(delta),
        _who(version),
        plain(", ".join(sorted(name for name in names if _SAFETY.fullmatch(name) is None))),
    )


def _who(version: "Snapshot") -> str:
    actor = version.attribution
    parts = [actor.source, actor.tool, actor.reason, actor.login if actor.source != "watcher" else None]
    return plain(" ".join(part for part in parts if part))
