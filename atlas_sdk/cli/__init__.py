"""`atlasctl`, the command line: one file for each command, imported when the command is called.

::

    program.py     the group, its table of commands, the global options
    command.py     parts of every command: the global options again, examples in its help
    invocation.py  one run: settings, the database, the acting user, the project
    output.py      data on stdout, the rest on stderr; JSON, tables, colours
    json_output.py the fields of each object as JSON
    progress.py    the progress of a long command
    failures.py    turns an exception into one sentence and an exit code
    advice.py      adds the command that helps
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
