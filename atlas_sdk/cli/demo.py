"""`atlasctl demo`: the whole product in a temporary folder, on a real server and with the real watcher."""

from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.command import Command, Flags

if TYPE_CHECKING:
    from atlas_sdk.cli.demo_runner import Stage

__all__ = ["demo"]

_RULES = """\
# Rules

- Run the tests before you say "done".
- Never touch the migrations that are released.
"""
_MORE = _RULES + "- Money is a Decimal, never a float.\n"
_GUTTED = "# Rules\n\n[rest unchanged]\n"


@click.command(cls=Command, examples=("atlasctl demo", "atlasctl demo --keep", "atlasctl demo --json"))
@click.option("--keep", is_flag=True, help="Leave the folder and its database for a look.")
@click.pass_obj
def demo(flags: Flags, *, keep: bool) -> int:
    """Show the product at work in a temporary folder.

    Starts a PostgreSQL of its own and the watcher, edits memory files as an agent, an editor and a shell do, breaks
    one, and brings it back. Takes a few seconds, touches nothing of yours, and exits with 0 only if every step held.
    """
    from atlas_sdk.cli.demo_runner import Stage

    with Stage(flags, keep=keep) as stage:
        stage.play(_STEPS)
    return stage.conclude()


def _protect(stage: "Stage") -> None:
    stage.open()
    stage.write("CLAUDE.md", _RULES)
    stage.atlasctl("init", "app", path=True)


def _watch(stage: "Stage") -> None:
    stage.say("$ atlas-watcher &")
    stage.start_watcher()


def _plain_write(stage: "Stage") -> None:
    stage.say("An agent rewrites CLAUDE.md in place.")
    stage.write("CLAUDE.md", _MORE)
    stage.wait_for("CLAUDE.md")


def _atomic_rename(stage: "Stage") -> None:
    stage.say("An editor writes a new file and renames it over CLAUDE.md.")
    fresh = stage.app / "CLAUDE.md.new"
    fresh.write_text(_MORE + "- Ask before you add a dependency.\n", encoding="utf-8")
    fresh.replace(stage.app / "CLAUDE.md")
    stage.wait_for("CLAUDE.md")


def _shell_append(stage: "Stage") -> None:
    stage.shell("echo '- parser done, printer next' >> NOTES.md")
    stage.wait_for("NOTES.md")
    stage.shell("echo '- printer done' >> NOTES.md")
    stage.wait_for("NOTES.md")


def _timeline(stage: "Stage") -> None:
    stage.atlasctl("log")
    found = [version.seq for version in stage.atlas.memory.history(stage.project, "CLAUDE.md")]
    stage.expect(found == [3, 2, 1], f"three versions of CLAUDE.md, not {len(found)}")


def _checkpoint(stage: "Stage") -> None:
    stage.atlasctl("checkpoint", "before-refactor")


def _gut(stage: "Stage") -> None:
    stage.good = (stage.app / "CLAUDE.md").read_bytes()
    stage.say("An agent “shortens” CLAUDE.md.")
    stage.write("CLAUDE.md", _GUTTED)
    stage.wait_for("CLAUDE.md")
    stage.atlasctl("diff", "before-refactor")


def _restore(stage: "Stage") -> None:
    stage.atlasctl("restore", "before-refactor", "--yes", shown=2)
    stage.expect_content("CLAUDE.md", stage.good)


def _undo(stage: "Stage") -> None:
    stage.atlasctl("undo", "--yes", shown=1)
    stage.expect_content("CLAUDE.md", _GUTTED.encode())


def _redo(stage: "Stage") -> None:
    stage.atlasctl("redo", "--yes", shown=1)
    stage.expect_content("CLAUDE.md", stage.good)


def _verify(stage: "Stage") -> None:
    stage.atlasctl("verify")


def _status(stage: "Stage") -> None:
    stage.atlasctl("status")


def _stop(stage: "Stage") -> None:
    stage.say("$ kill %1")
    stage.stop_watcher()


_STEPS = (
    ("a PostgreSQL of its own, the folder protected", _protect),
    ("the watcher runs", _watch),
    ("a plain write is captured", _plain_write),
    ("an atomic rename is captured", _atomic_rename),
    ("appends by a shell are captured", _shell_append),
    ("the timeline has every version", _timeline),
    ("the state has a name", _checkpoint),
    ("the damage shows", _gut),
    ("the file is back, byte for byte", _restore),
    ("the restore can be undone", _undo),
    ("and done again", _redo),
    ("every version reads back as it was stored", _verify),
    ("every file is protected", _status),
    ("the watcher stops cleanly", _stop),
)
