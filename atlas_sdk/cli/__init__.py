"""The command line `atlasctl`. `atlasctl` imports the file of a command only when the command is called.

::

    program.py     the group, its table of commands, the global options
    command.py     the parts of every command: the global options, and the examples in the help
    invocation.py  one run of a command: the settings, the database, the acting user, the project
    output.py      data on stdout, the rest on stderr; JSON, tables, colours
    json_output.py the fields of each object as JSON
    progress.py    the progress of a long command
    failures.py    one sentence and an exit code for an exception
    advice.py      the command that helps after an error
"""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        from atlas_sdk.cli.failures import guarded
        from atlas_sdk.cli.program import run

        return guarded(run, given)
    except Exception as problem:
        # Memory is short or a library is broken, so do not load the module that explains errors.
        if "--verbose" in given:
            raise
        sys.stderr.write(f"atlasctl: cannot start ({type(problem).__name__}): --verbose shows where\n")
        return 1
    except KeyboardInterrupt:
        # Ctrl-C during imports or at exit: there is nothing to clean up.
        return 130
