"""The parts that every command has: the global options, and examples in its help."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])


class _Utf8(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """A text for the database, which must be UTF-8. File names may be any bytes and do not use this type."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse bytes that are not UTF-8."""
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("it is not UTF-8; give a file of such a name after --, or with snapshot, log or show", param, ctx)
        return text


UTF8 = _Utf8()

#: The last line of every command's help.
GLOBAL_OPTIONS = "Also after the command: the global options --project, --dsn, --home … of `atlasctl --help`."


class Flags:
    """The global options of one run; they may stand before or after the command."""

    def __init__(self) -> None:
        #: A folder in the project; None means the current folder.
        self.project: str | None = None
        self.dsn: str | None = None
        self.home: str | None = None
        self.json = False
        self.no_color = False
        self.verbose = False


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    name = param.name or ""
    if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT and isinstance(ctx.obj, Flags):
        setattr(ctx.obj, name, value)
    return value


def global_options(*, everywhere: bool) -> list[click.Parameter]:
    """Return the global options. The help of a command shows only `--json`; `atlasctl --help` shows all."""

    def option(*names: str, help: str, **more: Any) -> click.Option:  # noqa: A002  # click's own word
        hidden = everywhere and "--json" not in names
        return click.Option(names, help=help, expose_value=False, callback=_keep, hidden=hidden, **more)

    return [
        option("--project", metavar="PATH", help="A folder in the project.  [default: the current one]"),
        option("--dsn", metavar="URL", help="PostgreSQL to use.  [default: ATLAS_DATABASE_URL, else the embedded one]"),
        option(
            "--home",
            metavar="PATH",
            help="Use the embedded PostgreSQL of this folder, whatever ATLAS_DATABASE_URL says; not with --dsn.  "
            "[default: ATLAS_HOME]",
        ),
        option("--json", is_flag=True, help="Print JSON: one object, or one a line for listings."),
        option("--no-color", is_flag=True, help="No colours; NO_COLOR does the same."),
        option("--verbose", is_flag=True, help="Log to stderr, and show the traceback of an error."),
    ]


class Command(click.Command):
    """A command with the global options and with examples, which the tests parse."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.extend(global_options(everywhere=True))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        with formatter.section("Examples"):
            for example in self.examples:
                # Do not wrap: a wrapped line cannot be copied.
                formatter.write(f"{' ' * formatter.current_indent}{example}\n")
        formatter.write_paragraph()
        formatter.write_text(GLOBAL_OPTIONS)
        super().format_epilog(ctx, formatter)


class Group(click.Group):
    """A group whose commands are of the class `Command`."""

    command_class = Command


def command_group(function: Callable[[], None]) -> click.Group:
    """Make a group of commands, which takes the global options too."""
    return click.group(cls=Group, params=global_options(everywhere=True), epilog=GLOBAL_OPTIONS)(function)


def yes_option(command: F) -> F:
    """Add `--yes`, for a command that deletes for good; see `Invocation.confirm`."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask; without a terminal it has to be given.")(command)


def user_option(command: F) -> F:
    """Add `--user`, for a command about another user; the parameter is `email`."""
    return click.option("--user", "email", metavar="EMAIL", type=UTF8, help="Of this user.  [default: you]")(command)
