"""`atlasctl show`: print the content of a version."""

from typing import TYPE_CHECKING

import click

from atlas_sdk import InvalidInput, NotFound
from atlas_sdk.cli.command import Command
from atlas_sdk.cli.invocation import Invocation, pass_run
from atlas_sdk.cli.json_output import of_version
from atlas_sdk.text import named, quoted, visible

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project, Snapshot
    from atlas_sdk.results import VersionSet

_LISTED = 5
_COLONS_MAX = 32


@click.command(
    cls=Command,
    examples=(
        "atlasctl show before-refactor:CLAUDE.md",
        "atlasctl show CLAUDE.md@before-refactor",
        "atlasctl show '@{2h ago}:CLAUDE.md' > old.md",
        "atlasctl show CLAUDE.md",
    ),
)
@click.argument("ref", metavar="REF[:PATH]")
@pass_run
def show(run: Invocation, ref: str) -> None:
    """Print the content of a version.

    Prints the exact bytes; on a terminal, control and hidden characters are shown as escapes. REF is a checkpoint, a
    version's id, a time such as '@{2h ago}' or latest, with the file after a colon. FILE@REF means the same. A file
    alone means its newest version. With --json the version is described instead.
    """
    with run.opened() as atlas:
        project = run.project(atlas)
        version = _version(atlas, project, ref, run.path(project, ref))
        if run.out.json:
            run.out.record(of_version(version))
            return
        content = atlas.memory.content(version)
    if run.out.terminal:
        _show_on_terminal(run, content)
    else:
        run.out.write(content)


def _show_on_terminal(run: Invocation, content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    shown = visible(text, keep="\n\t")
    run.out.write(shown.encode())
    if shown != text:
        run.out.note("some characters are shown as escapes; into a file or a pipe the bytes go as they are")


def _version(atlas: "Atlas", project: "Project", ref: str, path: str) -> "Snapshot":
    """Return the one version that REF names; a reference takes precedence over a file name."""
    try:
        state = _state(atlas, project, ref)
    except (NotFound, InvalidInput) as problem:
        failure = problem
    else:
        if len(state.versions) == 1 and not (state.whole and state.versions[0].deleted):
            return state.versions[0]
        listed = [named(version.path) for version in state.versions]
        more = ", …" if len(listed) > _LISTED else ""
        raise InvalidInput(
            f"{quoted(ref)} names {len(listed)} files ({', '.join(listed[:_LISTED])}{more}); "
            f"name one: {named(ref)}:PATH",
            field="ref",
        )
    # Checkpoint names, times and file names may contain colons.
    colons = [place for place, letter in enumerate(ref) if letter == ":" and 0 < place < len(ref) - 1]
    # Limit the attempts, because each is a query.
    for at in colons[:_COLONS_MAX]:
        try:
            return atlas.memory.version(project, ref[at + 1 :], ref[:at])
        except (NotFound, InvalidInput) as problem:
            failure = problem
    try:
        return atlas.memory.version(project, path)
    except (NotFound, InvalidInput):
        raise failure from None


def _state(atlas: "Atlas", project: "Project", ref: str) -> "VersionSet":
    try:
        ref.encode()
    except UnicodeEncodeError:
        # Only a file can have such a name: PostgreSQL's text is UTF-8.
        raise NotFound(f"no version is called {named(ref)}", kind="version", name=ref) from None
    return atlas.memory.resolve(project, ref)
