"""`atlasctl restore`, `undo` and `redo`: restore files, undo a restore, and do it again."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from atlas_sdk import NotFound
from atlas_sdk.cli.command import UTF8, Command
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_plan, of_restore
from atlas_sdk.cli.output import count, size
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project, Restore, RestorePlan
    from atlas_sdk.results import RestoreStep

_dry_run = click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask; without a terminal nothing is asked anyway.")


@click.command(
    cls=Command,
    examples=(
        "atlasctl restore before-refactor",
        "atlasctl restore before-refactor CLAUDE.md --dry-run",
        "atlasctl restore CLAUDE.md@before-refactor --yes",
        "atlasctl restore '@{2h ago}' --delete",
    ),
)
@click.argument("ref", type=UTF8)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@_dry_run
@click.option("--delete", is_flag=True, help="Delete tracked files that REF does not have; unless set they are kept.")
@_yes
@pass_run
def restore(run: Invocation, ref: str, paths: tuple[str, ...], *, dry_run: bool, delete: bool, yes: bool) -> int:
    """Bring files back; nothing is lost.

    REF is a checkpoint, a version's id, a moment such as '@{2h ago}', or FILE@REF. The present content of each file is
    stored first, under a checkpoint of its own. A file that changes meanwhile stops the command before it writes
    anything. Exits with 3 when there were no memory files at that moment, and with 1 when something else, such as a
    folder, is in the place of a file; the others are restored.
    """

    def make_plan(atlas: "Atlas", project: "Project") -> "RestorePlan":
        _expect_files(atlas, project, ref)
        return atlas.memory.plan_restore(project, ref, paths=[run.path(project, path) for path in paths], delete=delete)

    return _carry_out(run, make_plan, dry_run=dry_run, ask=not yes)


@click.command(cls=Command, examples=("atlasctl undo", "atlasctl undo --dry-run"))
@_dry_run
@_yes
@pass_run
def undo(run: Invocation, *, dry_run: bool, yes: bool) -> int:
    """Take back the last restore.

    The files are again what they were just before it. Later edits are stored first; `redo` restores again.
    """
    return _carry_out(run, lambda atlas, project: atlas.memory.plan_undo(project), dry_run=dry_run, ask=not yes)


@click.command(cls=Command, examples=("atlasctl redo", "atlasctl redo --dry-run"))
@_dry_run
@_yes
@pass_run
def redo(run: Invocation, *, dry_run: bool, yes: bool) -> int:
    """Do the last undone restore again.

    Later edits are stored first; `undo` takes it back again.
    """
    return _carry_out(run, lambda atlas, project: atlas.memory.plan_redo(project), dry_run=dry_run, ask=not yes)


def _expect_files(atlas: "Atlas", project: "Project", ref: str) -> None:
    """Raise NotFound for a moment when the project had no memory files: such a restore is surely a mistake."""
    # Check only moments. A moment begins with "@{", and no name of a checkpoint does.
    if not ref.startswith("@{") or atlas.memory.resolve(project, ref).versions:
        return

    raise NotFound(
        f"{printable(project.name)} had no memory file on record at {ref}; it is kept since "
        f"{project.created_at.astimezone():%Y-%m-%d %H:%M:%S}, and `atlasctl log` lists its versions",
        kind="version",
        name=ref,
    )


def _carry_out(
    run: Invocation, make_plan: "Callable[[Atlas, Project], RestorePlan]", *, dry_run: bool, ask: bool
) -> int:
    with run.opened() as atlas:
        project = run.project(atlas)
        plan = make_plan(atlas, project)
        if not run.out.json:
            _show_plan(run, plan)
        if dry_run:
            _finish(run, plan, None)
            return 0
        ask = ask and bool(plan.changes) and run.interactive
        if ask and not click.confirm(f"{plan.reason.capitalize()} now?", default=True, err=True):
            run.out.note("nothing was written")
            return FAILED
        _finish(run, plan, atlas.memory.restore(project, plan))
    return FAILED if any(step.action == "blocked" for step in plan.steps) else 0


def _finish(run: Invocation, plan: "RestorePlan", done: "Restore | None") -> None:
    safety = done.safety if done is not None and plan.changes else None
    if run.out.json:
        carried_out = None if done is None else of_restore(done)
        run.out.record({**of_plan(plan), "restore": carried_out, "safety": safety})
        return
    if not plan.changes:
        blocked = any(step.action == "blocked" for step in plan.steps)
        run.out.note("nothing else to do" if blocked else "nothing to do: the files already match")
    elif done is None:
        run.out.note(f"{count(len(plan.changes), 'file')} would change; nothing was written")
    else:
        back = {"restore": "undo", "undo": "redo", "redo": "undo"}[plan.reason]
        verb = {"restore": "restored", "undo": "undone", "redo": "redone"}[plan.reason]
        run.out.line(f"{verb}: {count(len(plan.changes), 'file')}; what was there before is {safety}")
        run.out.note(f"{back} with: atlasctl {back}")


def _show_plan(run: Invocation, plan: "RestorePlan") -> None:
    run.out.table([_row(step) for step in plan.steps], styles=("bold", "", "dim", ""))
    for step in plan.steps:
        if step.problem is not None:
            run.out.warn(f"not restored: {step.problem}")


def _row(step: "RestoreStep") -> tuple[str, str, str, str]:
    before = "none" if step.present_size is None else size(step.present_size)
    after = "none" if step.size is None or step.action == "delete" else size(step.size)
    changes = step.action in {"write", "delete"}
    lines = "" if step.added_lines is None else f"+{step.added_lines} -{step.removed_lines} lines"
    if step.action == "kept":
        lines = "not in the target; --delete would delete it"
    if step.action == "unkept":
        lines = "over the size limit then: only its hash was kept; stays as it is"
    if step.action == "blocked":
        lines = "something else is in its place; stays as it is"
    return step.action, printable(step.path), f"{before} -> {after}" if changes else before, lines
