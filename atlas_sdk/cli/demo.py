"""`atlasctl demo`: show the product in a temporary folder, with a real server and the real watcher."""

from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.command import Command, Flags

if TYPE_CHECKING:
    from atlas_sdk.cli.demo_runner import DemoRunner

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
    one, and restores it. Takes a few seconds, changes nothing of yours, and exits with 0 only if every step succeeded.
    """
    from atlas_sdk.cli.demo_runner import DemoRunner

    with DemoRunner(flags, keep=keep) as runner:
        runner.run_steps(_STEPS)
    return runner.report()


def _protect(runner: "DemoRunner") -> None:
    runner.open()
    runner.write("CLAUDE.md", _RULES)
    runner.atlasctl("init", "app", path=True)


def _watch(runner: "DemoRunner") -> None:
    runner.say("$ atlas-watcher &")
    runner.start_watcher()


def _plain_write(runner: "DemoRunner") -> None:
    runner.say("An agent rewrites CLAUDE.md in place.")
    runner.write("CLAUDE.md", _MORE)
    runner.wait_for("CLAUDE.md")


def _atomic_rename(runner: "DemoRunner") -> None:
    runner.say("An editor writes a new file and renames it over CLAUDE.md.")
    fresh = runner.app / "CLAUDE.md.new"
    fresh.write_text(_MORE + "- Ask before you add a dependency.\n", encoding="utf-8")
    fresh.replace(runner.app / "CLAUDE.md")
    runner.wait_for("CLAUDE.md")


def _shell_append(runner: "DemoRunner") -> None:
    runner.shell("echo '- parser done, printer next' >> NOTES.md")
    runner.wait_for("NOTES.md")
    runner.shell("echo '- printer done' >> NOTES.md")
    runner.wait_for("NOTES.md")


def _timeline(runner: "DemoRunner") -> None:
    runner.atlasctl("log")
    found = [version.seq for version in runner.atlas.memory.history(runner.project, "CLAUDE.md")]
    runner.expect(found == [3, 2, 1], f"three versions of CLAUDE.md, not {len(found)}")


def _checkpoint(runner: "DemoRunner") -> None:
    runner.atlasctl("checkpoint", "before-refactor")


def _gut(runner: "DemoRunner") -> None:
    runner.good = (runner.app / "CLAUDE.md").read_bytes()
    runner.say("An agent “shortens” CLAUDE.md.")
    runner.write("CLAUDE.md", _GUTTED)
    runner.wait_for("CLAUDE.md")
    runner.atlasctl("diff", "before-refactor")


def _restore(runner: "DemoRunner") -> None:
    runner.atlasctl("restore", "before-refactor", "--yes", shown=2)
    runner.expect_content("CLAUDE.md", runner.good)


def _undo(runner: "DemoRunner") -> None:
    runner.atlasctl("undo", "--yes", shown=1)
    runner.expect_content("CLAUDE.md", _GUTTED.encode())


def _redo(runner: "DemoRunner") -> None:
    runner.atlasctl("redo", "--yes", shown=1)
    runner.expect_content("CLAUDE.md", runner.good)


def _verify(runner: "DemoRunner") -> None:
    runner.atlasctl("verify")


def _status(runner: "DemoRunner") -> None:
    runner.atlasctl("status")


def _stop(runner: "DemoRunner") -> None:
    runner.say("$ kill %1")
    runner.stop_watcher()


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
