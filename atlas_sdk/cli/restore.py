"""`atlasctl restore`, `undo` and `redo`: bring files back, and walk back and forth."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.command import UTF8, Command, Flags
from atlas_sdk.cli.failures import FAILED

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project, Restore, RestorePlan, RestoreStep
    from atlas_sdk.cli.invocation import Invocation

__all__ = ["redo", "restore", "undo"]

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
@click.pass_obj
def restore(flags: Flags, ref: str, paths: tuple[str, ...], *, dry_run: bool, delete: bool, yes: bool) -> int:
    """Bring files back; nothing is lost.

    REF is a checkpoint, a version's id, a moment such as '@{2h ago}', or FILE@REF. What stands there now is put on
    record first, under a checkpoint of its own; a file that changes while this runs stops it before anything is
    written. Exits with 3 when nothing was on record at that moment.
    """
    from atlas_sdk.cli.invocation import Invocation

    run = Invocation(flags)
    with run.opened() as atlas:
        project = run.project(atlas)
        _expect_files(atlas, project, ref)
        plan = atlas.memory.plan_restore(project, ref, paths=[run.path(project, path) for path in paths], delete=delete)
        return _carry_out(run, atlas, project, plan, dry_run=dry_run, ask=not yes)


@click.command(cls=Command, examples=("atlasctl undo", "atlasctl undo --dry-run"))
@_dry_run
@_yes
@click.pass_obj
def undo(flags: Flags, *, dry_run: bool, yes: bool) -> int:
    """Take back the last restore.

    The files are again what they were just before it. What was edited since is put on record first; `redo` goes forth
    again.
    """
    return _walk(flags, "plan_undo", dry_run=dry_run, ask=not yes)


@click.command(cls=Command, examples=("atlasctl redo", "atlasctl redo --dry-run"))
@_dry_run
@_yes
@click.pass_obj
def redo(flags: Flags, *, dry_run: bool, yes: bool) -> int:
    """Do the last undone restore again.

    What was edited since is put on record first; `undo` goes back again.
    """
    return _walk(flags, "plan_redo", dry_run=dry_run, ask=not yes)


def _expect_files(atlas: "Atlas", project: "Project", ref: str) -> None:
    """Refuse a moment at which nothing was on record: a slip, and no wish to have no files."""
    # No checkpoint's name begins so.
    if not ref.startswith("@{") or atlas.memory.resolve(project, ref).versions:
        return
    from atlas_sdk import NotFound
    from atlas_sdk.files import printable

    raise NotFound(
        f"{printable(project.name)} had no memory file on record at {ref}; it is kept since "
        f"{project.created_at.astimezone():%Y-%m-%d %H:%M:%S}, and `atlasctl log` lists its versions",
        kind="version",
        name=ref,
    )


def _walk(flags: Flags, planning: str, *, dry_run: bool, ask: bool) -> int:
    from atlas_sdk.cli.invocation import Invocation

    run = Invocation(flags)
    with run.opened() as atlas:
        project = run.project(atlas)
        make_plan: Callable[[Project], RestorePlan] = getattr(atlas.memory, planning)
        return _carry_out(run, atlas, project, make_plan(project), dry_run=dry_run, ask=ask)


def _carry_out(
    run: "Invocation", atlas: "Atlas", project: "Project", plan: "RestorePlan", *, dry_run: bool, ask: bool
) -> int:
    if not run.flags.json:
        _show_plan(run, plan)
    if dry_run:
        _finish(run, plan, None, None)
        return 0
    ask = ask and bool(plan.changes) and _someone_answers(run)
    if ask and not click.confirm(f"{plan.reason.capitalize()} now?", default=True, err=True):
        run.out.note("nothing was written")
        return FAILED
    done = atlas.memory.restore(project, plan)
    if done is None and plan.reason != "restore":
        # Every file is so already; the walk itself is still to be recorded.
        done = atlas.memory.undo(project) if plan.reason == "undo" else atlas.memory.redo(project)
    _finish(run, plan, done, done.safety if done is not None and plan.changes else None)
    return 0


def _someone_answers(run: "Invocation") -> bool:
    return not run.flags.json and run.out.terminal and sys.stdin is not None and sys.stdin.isatty()


def _finish(run: "Invocation", plan: "RestorePlan", done: "Restore | None", safety: str | None) -> None:
    from atlas_sdk.cli.json_output import of_plan, of_restore
    from atlas_sdk.cli.output import count

    if run.flags.json:
        carried_out = None if done is None else of_restore(done)
        run.out.record({**of_plan(plan), "restore": carried_out, "safety": safety})
        return
    if not plan.changes:
        run.out.note("nothing to do: every file is so already")
    elif done is None:
        run.out.note(f"{count(len(plan.changes), 'file')} would change; nothing was written")
    else:
        back = {"restore": "undo", "undo": "redo", "redo": "undo"}[plan.reason]
        verb = {"restore": "restored", "undo": "undone", "redo": "redone"}[plan.reason]
        run.out.line(f"{verb}: {count(len(plan.changes), 'file')}; what was there before is {safety}")
        run.out.note(f"{back} with: atlasctl {back}")


def _show_plan(run: "Invocation", plan: "RestorePlan") -> None:
    run.out.table([_row(step) for step in plan.steps], styles=("bold", "", "dim", ""))


def _row(step: "RestoreStep") -> tuple[str, str, str, str]:
    from atlas_sdk.cli.output import size
    from atlas_sdk.files import printable

    before = "none" if step.present_size is None else size(step.present_size)
    after = "none" if step.size is None or step.action == "delete" else size(step.size)
    changes = step.action in {"write", "delete"}
    lines = "" if step.added_lines is None else f"+{step.added_lines} -{step.removed_lines} lines"
    if step.action == "kept":
        lines = "not in the target; --delete would delete it"
    if step.action == "unkept":
        lines = "over the size limit then: only its hash was kept; stays as it is"
    return step.action, printable(step.path), f"{before} -> {after}" if changes else before, lines
