"""`atlasctl files`: the memory files of a project, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from atlas_sdk.cli.command import Command
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_project, of_skipped
from atlas_sdk.cli.output import Output
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk.cli.memory_owners import Owners
    from atlas_sdk.files.reasons import Reason

#: The word to show for each kind of file.
_CONTENTS: Final = {"claude_md": "instructions", "scratch": "notes"}


@click.command(
    cls=Command, examples=("atlasctl files", "atlasctl files --why docs/plan.md", "atlasctl files --all --json")
)
@click.option("--why", metavar="PATH", help="Tell why this file is tracked, or why it is not.")
@click.option("--all", "everything", is_flag=True, help="Every project of yours, not only this one.")
@pass_run
def files(run: Invocation, why: str | None, *, everything: bool) -> None:
    """List the memory files and the rule that tracks each one.

    The rule is a preset (an agent whose file it is; "nested" in a folder of the project), a glob of include in
    .atlas.toml, or the file that imports it. Then come the files that look like memory and are not tracked, with the
    reason. In your own memory, a file of Claude Code's memory of a project has the folder of this project.
    """
    from atlas_sdk import FileProblem
    from atlas_sdk.cli.memory_owners import Owners
    from atlas_sdk.files import Tracking, relative_path
    from atlas_sdk.files.reasons import explain, reasons

    if why is not None and everything:
        raise click.UsageError("--why is about one project: leave --all out")
    with run.opened() as atlas:
        projects = list(atlas.projects.list(run.owner(atlas))) if everything else [run.project(atlas)]
    for number, project in enumerate(projects):
        root = Path(project.path)
        owners = Owners(root)
        try:
            tracking = Tracking.load(root)
        except FileProblem as problem:
            if not everything:
                raise
            # One lost project must not hide the others.
            run.out.warn(str(problem))
            continue
        if why is not None:
            path = relative_path(root, run.path(project, why))
            _show_one(run.out, explain(root, tracking, path), owners)
            return
        scan = tracking.scan(root)
        found = list(reasons(root, tracking, scan))
        if run.out.json:
            run.out.record(
                {
                    "project": of_project(project),
                    "complete": scan.complete,
                    "files": [_fields(one, owners) for one in found],
                    "skipped": [of_skipped(one.path, one.reason) for one in scan.skipped],
                    "not_tracked": [of_skipped(one.path, one.reason) for one in scan.lookalikes],
                }
            )
            continue
        if everything:
            run.out.line(("\n" if number else "") + run.out.style(printable(project.path), bold=True))
        _show(run.out, found, owners)
        for one in scan.skipped:
            run.out.warn(one.reason)
        for one in scan.lookalikes:
            run.out.note(f"not tracked: {one.reason}")


def _show(out: Output, found: "list[Reason]", owners: "Owners") -> None:
    out.table(
        [
            (
                printable(one.path) + ("" if one.link is None else f" -> {printable(one.link)}"),
                _CONTENTS[one.kind or "claude_md"],
                one.reason,
                owners.shown(one.path),
            )
            for one in found
        ],
        styles=("", "dim", "", "dim"),
    )
    if not found:
        out.note("no memory files yet; CLAUDE.md, AGENTS.md and the like are captured when they appear")


def _show_one(out: Output, one: "Reason", owners: "Owners") -> None:
    if not one.tracked:
        out.result(_fields(one, owners), f"not tracked: {one.reason}")
        return
    of = owners.shown(one.path)
    parts = [_CONTENTS[one.kind or "claude_md"], one.reason, *([of] if of else [])]
    if one.link is not None:
        parts.append(f"a symlink to {printable(one.link)}")
    out.result(_fields(one, owners), f"tracked: {printable(one.path)}: {', '.join(parts)}")


def _fields(one: "Reason", owners: "Owners") -> dict[str, Any]:
    from atlas_sdk.files import to_text

    owner = owners.find(one.path)
    return {
        "path": to_text(one.path),
        "tracked": one.tracked,
        "kind": one.kind,
        "reason": one.reason,
        "link": None if one.link is None else to_text(one.link),
        "memory_of": None if owner is None else to_text(owner),
    }
