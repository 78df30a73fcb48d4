"""Turn an exception into one sentence on stderr and an exit code."""

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence

import click

from atlas_sdk.errors import AtlasError

FAILED = 1
USAGE = 2
NOT_PROTECTED = 6
INTERRUPTED = 130
#: The longest sentence: it may quote an argument or an error of any length.
_LETTERS = 2_000
#: The dynamic linker's errors when memory is short (glibc, musl, macOS).
_NO_MEMORY = re.compile(r"failed to map segment|[Cc]annot allocate memory|mmap")
#: 128 + SIGPIPE, the exit code of other programs when nobody reads their output any more.
_NO_READER = 141


def guarded(run: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code. Print an error as one sentence, and with --verbose a traceback."""
    _prepare_streams()
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json, verbose = "--json" in options, "--verbose" in options
    try:
        try:
            code = run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        # The terminal prints ^C without a newline.
        if sys.stderr is not None and sys.stderr.isatty():
            click.echo(err=True)
        _say("interrupted", kind="Interrupted", as_json=as_json)
        return INTERRUPTED
    except Exception as problem:  # noqa: BLE001  # the last place that can report an error
        if isinstance(problem, OSError) and problem.errno == errno.EPIPE:
            _drop_output()
            return _NO_READER
        if verbose:
            _show_traceback(problem)
        sentence, code = _explain(problem)
        _say(sentence, kind=type(problem).__name__, as_json=as_json)
        return code
    return code


def _show_traceback(problem: Exception) -> None:
    """Print a traceback with control characters escaped."""
    import traceback

    from atlas_sdk.text import visible

    click.echo(visible("".join(traceback.format_exception(problem)), keep="\n\t"), err=True, nl=False)


def _explain(problem: Exception) -> tuple[str, int]:
    if isinstance(problem, click.ClickException):
        sentence = problem.format_message().rstrip(".")
        sentence = sentence[:1].lower() + sentence[1:]
        ctx = getattr(problem, "ctx", None)
        hint = "" if ctx is None else f"; see: {ctx.command_path} --help"
        # The sentence may quote an argument that is an address with a password.
        from atlas_sdk.dsn import without_addresses

        return without_addresses(sentence) + hint, problem.exit_code
    if isinstance(problem, AtlasError):
        from atlas_sdk.cli.advice import advice

        return str(problem) + advice(problem), problem.exit_code
    if isinstance(problem, MemoryError) or (isinstance(problem, ImportError) and _NO_MEMORY.search(str(problem))):
        return "out of memory: end other programs, or raise the limit (ulimit -v), then try again", FAILED
    if isinstance(problem, RecursionError):
        return "something is nested too deep: run again with --verbose to see what", FAILED
    detail = str(problem) or "no details"
    return f"unexpected {type(problem).__name__}: {detail}; run again with --verbose to see where", FAILED


def _say(sentence: str, *, kind: str, as_json: bool) -> None:
    from atlas_sdk.cli.output import plain
    from atlas_sdk.text import cut

    sentence = plain(cut(sentence, _LETTERS))
    if as_json:
        import json

        click.echo(json.dumps({"error": sentence, "kind": kind}), err=True)
        return
    click.echo(f"atlasctl: {sentence}", err=True)


def _prepare_streams() -> None:
    """Open missing standard streams, and make every text printable.

    A file that is opened later must not become stdout or stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # open() returns the lowest free descriptor: this one.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send the rest of the output to /dev/null: nobody reads it any more, and the interpreter flushes at exit."""
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123  # only the descriptor is used
        os.dup2(nothing.fileno(), 1)
