"""The group of all commands. `atlasctl --help` imports no command, so that the help appears at once."""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from atlas_sdk.cli.command import Flags, global_options

_NAME: Final = "atlasctl"
#: A shell sets this variable to ask for completions.
COMPLETE_VARIABLE: Final = "_ATLASCTL_COMPLETE"

#: For each section and command: the module, and the first sentence of the command's docstring. A test compares the two.
COMMANDS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Start": {
        "demo": ("demo", "Show the product at work in a temporary folder."),
        "init": ("init", "Protect a folder: register it and capture its memory files."),
    },
    "Protect": {
        "files": ("files", "List the memory files and the rule that tracks each one."),
        "status": ("status", "Tell for every memory file whether it is protected now."),
        "snapshot": ("snapshot", "Capture what changed."),
        "checkpoint": ("checkpoints", "Name the state of all memory files."),
        "watch": ("watch", "Capture every change from now on, until interrupted."),
        "service": ("service", "Run the watcher as a service: it starts by itself, and again after a crash."),
    },
    "Look": {
        "log": ("log", "List versions, newest first."),
        "show": ("show", "Print the content of a version."),
        "diff": ("diff", "Show what differs between two states."),
        "checkpoints": ("checkpoints", "List checkpoints, newest first."),
    },
    "Bring back": {
        "restore": ("restore", "Bring files back; nothing is lost."),
        "undo": ("restore", "Take back the last restore."),
        "redo": ("restore", "Do the last undone restore again."),
    },
    "Manage": {
        "user": ("user", "Create, list, change and delete users."),
        "projects": ("projects", "List, move, archive and delete projects."),
        "plans": ("plans", "List and add plans."),
        "sessions": ("sessions", "List, issue and revoke the sign-ins of a user."),
        "quota": ("quota", "Show and set what users may use."),
    },
    "Operate": {
        "forget": ("forget", "Stop protecting a folder; its history is kept."),
        "doctor": ("doctor", "Check the whole way of a change: watcher, journal, database, and back."),
        "verify": ("verify", "Read back every version and hash it again."),
        "db": ("db", "Look after the database."),
        "completion": ("completion", "Print the completion script of a shell."),
        "help": ("help", "Show the help of a command."),
    },
}

_EPILOG: Final = """\b
Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 quota exceeded,
5 database unreachable, 6 not protected or verification failed,
130 interrupted.

Start with `atlasctl demo`, or `atlasctl init` in a project. `atlasctl COMMAND --help` has examples.
"""


class Program(click.Group):
    """A group that imports a command only when the user runs the command or asks for its help."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Make the context of a run, with new `Flags`."""
        extra.setdefault("obj", Flags())
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names in the order of the help."""
        return [name for section in COMMANDS.values() for name in section]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import a command and return it; return None for an unknown name."""
        for section in COMMANDS.values():
            if cmd_name in section:
                command: click.Command = getattr(import_module(f"atlas_sdk.cli.{section[cmd_name][0]}"), cmd_name)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. For an unknown command, raise UsageError that suggests the nearest name."""
        if args[0].startswith("-") or args[0] in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        from atlas_sdk.files import cut, quoted

        near = get_close_matches(cut(args[0]), self.list_commands(ctx), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise click.UsageError(f"no command is called {quoted(args[0])}{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of `COMMANDS`, with a column of names that has the same width in all sections."""
        width = max(map(len, self.list_commands(ctx)))
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in section.items()])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's signature
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"{_NAME} {version('atlasengine')}")
    ctx.exit()


program = Program(
    _NAME,
    help="Every version of your agents' memory files (CLAUDE.md, AGENTS.md, notes …), kept and restorable.",
    epilog=_EPILOG,
    params=[
        *global_options(everywhere=False),
        click.Option(
            ["-V", "--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Show the version and exit.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(arguments: Sequence[str]) -> int:
    """Parse and run one command line; return its exit code, or raise the error."""
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(program, {}, _NAME, COMPLETE_VARIABLE, instruction)
    if not arguments:
        arguments = ["--help"]
    with program.make_context(_NAME, list(arguments)) as ctx:
        code = program.invoke(ctx)
    return code if isinstance(code, int) else 0
