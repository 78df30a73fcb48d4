"""`atlasctl`, the command line: one file a command, each imported when it is asked for.

::

    program.py     the group, its table of commands, the global options
    command.py     what every command has: the global options again, examples in its help
    invocation.py  one run: settings, the database, who acts, which project
    output.py      data on stdout, the rest on stderr; JSON, tables, colours
    failures.py    from an exception to one sentence and an exit code
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
        # With too little memory, or a library that is broken, nothing is there yet that explains errors.
        if "--verbose" in given:
            raise
        sys.stderr.write(f"atlasctl: cannot start ({type(problem).__name__}): --verbose shows where\n")
        return 1
    except KeyboardInterrupt:
        # Before or after anything of substance: nothing to clean up, nothing to explain.
        return 130
