"""`atlasctl completion`: complete commands and options in a shell."""

import click

from atlas_sdk.cli.command import Command, Flags


@click.command(
    cls=Command,
    examples=(
        "atlasctl completion bash > ~/.local/share/bash-completion/completions/atlasctl",
        "atlasctl completion zsh > ~/.zfunc/_atlasctl",
        "atlasctl completion fish > ~/.config/fish/completions/atlasctl.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(flags: Flags, shell: str) -> None:
    """Print the completion script of a shell.

    Put it where the shell looks for such scripts, as in the examples, and open a new shell.
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    from atlas_sdk.cli.output import Output
    from atlas_sdk.cli.program import COMPLETE_VARIABLE, program

    kinds: dict[str, type[BashComplete | ZshComplete | FishComplete]] = {
        "bash": BashComplete,
        "zsh": ZshComplete,
        "fish": FishComplete,
    }
    script = kinds[shell](program, {}, "atlasctl", COMPLETE_VARIABLE).source()
    out = Output(json=flags.json)
    if flags.json:
        out.record({"shell": shell, "script": script})
    else:
        out.line(script.strip())
