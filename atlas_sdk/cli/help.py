"""`atlasctl help`: the help of a command."""

import click

from atlas_sdk.cli.command import Command, Flags


@click.command(
    cls=Command,
    examples=("atlasctl help", "atlasctl help restore", "atlasctl help db maintain", "atlasctl help log --json"),
)
@click.argument("command", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def help(ctx: click.Context, command: tuple[str, ...]) -> None:  # noqa: A001  # the command's name
    """Show the help of a command.

    What `atlasctl COMMAND --help` shows; without COMMAND, the list of all commands.
    """
    from atlas_sdk.cli.output import Output

    flags: Flags = ctx.obj
    shown = ctx.find_root()
    for word in command:
        if not isinstance(shown.command, click.Group):
            raise click.UsageError(f"{shown.command_path} has no commands of its own", shown)
        name, found, _ = shown.command.resolve_command(shown, [word])
        assert found is not None  # noqa: S101  # resolve_command raises
        shown = click.Context(found, info_name=name, parent=shown)
    out = Output(json=flags.json)
    if flags.json:
        out.record({"command": shown.command_path, "help": shown.get_help()})
    else:
        out.line(shown.get_help())
