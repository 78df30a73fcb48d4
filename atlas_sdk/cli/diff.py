"""`atlasctl diff`: show the differences between two states."""

from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.command import UTF8, Command
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_diff
from atlas_sdk.text import printable, visible

if TYPE_CHECKING:
    from atlas_sdk import FileDiff

_PATHS = "atlas_sdk.cli.diff.paths"
#: The numbers of the lines that name the two sides.
_NAMES = range(2)
_COLORS = {"+": "green", "-": "red", "@": "cyan"}


class _DiffCommand(Command):
    """A command whose arguments are references before `--` and paths after it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the arguments after `--` as paths."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_PATHS] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


@click.command(
    cls=_DiffCommand,
    options_metavar="[OPTIONS] [A] [B] [-- PATH...]",
    examples=(
        "atlasctl diff",
        "atlasctl diff before-refactor",
        "atlasctl diff v1 v2 --stat",
        "atlasctl diff '@{yesterday}' -- CLAUDE.md",
    ),
)
@click.argument("a", metavar="", default="latest", type=UTF8)
@click.argument("b", metavar="", required=False, type=UTF8)
@click.option("--stat", is_flag=True, help="Only count lines.")
@pass_run
def diff(run: Invocation, a: str, b: str | None, *, stat: bool) -> None:
    """Show what differs between two states.

    Compares A with B. Without B, compares A with the folder. Without both, compares the newest versions with the
    folder. A and B are checkpoints, versions, moments such as '@{2h ago}', or FILE@REF. Exits with 0 also if something
    differs.

    On a terminal, characters that hide or reorder text, such as zero-width spaces, right-to-left overrides and tags,
    are shown as escapes. A pipe gets the unchanged bytes, so that a patch applies; the program that reads them may hide
    some.
    """
    paths = click.get_current_context().meta[_PATHS]
    with run.opened() as atlas:
        project = run.project(atlas)
        found = atlas.memory.diff(project, a, b, paths=[run.path(project, path) for path in paths])
    if run.out.json:
        for one in found:
            run.out.record(of_diff(one))
    elif stat:
        _show_counts(run, found)
    else:
        for one in found:
            _show(run, one)
    if not found:
        run.out.note("no differences")


def _show_counts(run: Invocation, found: "list[FileDiff]") -> None:
    run.out.table(
        [
            (
                one.change,
                printable(one.path),
                "no text" if one.text is None else f"+{one.added_lines}",
                "" if one.text is None else f"-{one.removed_lines}",
            )
            for one in found
        ],
        styles=("bold", "", "green", "red"),
    )


def _show(run: Invocation, one: "FileDiff") -> None:
    out = run.out
    if one.problem is not None:
        out.warn(one.problem)
        return
    if one.text is None:
        out.line(f"{printable(one.path)}: {one.change}; no text to compare (binary, or over the size limit)")
        return
    for number, line in enumerate(one.text.removesuffix("\n").split("\n") if one.text else ()):
        if not out.terminal:
            # Print bytes that are not UTF-8 unchanged, so that a patch applies.
            out.write(line.encode("utf-8", "surrogateescape") + b"\n")
            continue
        shown = visible(line, keep="\t")
        out.line(out.style(shown, bold=True) if number in _NAMES else out.style(shown, fg=_COLORS.get(line[:1])))
