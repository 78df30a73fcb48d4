"""Progress of a long command, on stderr."""

import sys
import time
from typing import Final, Self

import click

from atlas_sdk.cli.output import Output

#: Without a terminal, the seconds between two lines.
_QUIET_S: Final = 10.0
#: On a terminal, the seconds between two updates of the line.
_BLINK_S: Final = 0.1
_CLEAR: Final = "\r\x1b[K"


class ProgressLine:
    """Shows progress: on a terminal as one line that changes, else as a new line every few seconds."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._live = sys.stderr is not None and sys.stderr.isatty() and not out.json
        self._next = 0.0 if self._live else time.monotonic() + _QUIET_S

    def show(self, text: str, *, is_news: bool = False) -> None:
        """Show a text if the last one is old enough; news are shown at once on a terminal."""
        now = time.monotonic()
        if now < self._next and not (is_news and self._live):
            return
        self._next = now + (_BLINK_S if self._live else _QUIET_S)
        if self._live:
            click.echo(f"{_CLEAR}{text}", err=True, nl=False)
        else:
            self._out.note(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            click.echo(_CLEAR, err=True, nl=False)
