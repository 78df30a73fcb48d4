"""Data on stdout, everything else on stderr; JSON, plain text, or tables and colours on a terminal."""

import errno
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from atlas_sdk.text import visible

if TYPE_CHECKING:
    from rich.text import Text

T = TypeVar("T")

#: The colours of `style`: no other escape sequence is printed.
_COLOR = re.compile(r"(\x1b\[(?:0|1|2|3[0-7]|9[0-7])m)")
_KIB = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB")
#: Wider than any table, because rich would cut a wider table.
_WIDEST: Final = 100_000
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


class Output:
    """The output of one run: streams, format and colours."""

    def __init__(self, *, json: bool = False, color: str = "auto") -> None:
        self.json = json
        self.terminal = sys.stdout is not None and sys.stdout.isatty()
        wanted = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.colored = not json and (color == "always" or (color == "auto" and wanted))

    def style(self, text: str, **how: Any) -> str:
        """Colour a text, where colours are wanted."""
        return click.style(text, **how) if self.colored else text

    def line(self, text: str = "") -> None:
        """Print lines of data, with hidden and control characters escaped."""
        self.write(f"{self._safe(text)}\n".encode("utf-8", "backslashreplace"))

    def _safe(self, text: str) -> str:
        if not self.colored:
            return visible(text, keep="\n\t")
        # Every second part of the text is a colour sequence.
        parts = enumerate(_COLOR.split(text))
        return "".join(part if number % 2 else visible(part, keep="\n\t") for number, part in parts)

    def write(self, raw: bytes) -> None:
        """Print bytes as they are."""
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        sys.stdout.flush()
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()

    def record(self, fields: Mapping[str, Any]) -> None:
        r"""Print one JSON object on one line, in ASCII without control characters.

        A lone surrogate, which other readers of JSON refuse, becomes the letters `\udcNN`.
        """
        self.line(json.dumps(_characters(fields), default=_to_json))

    def result(self, fields: Mapping[str, Any], text: str) -> None:
        """Print a result: a JSON object, or lines for people."""
        if self.json:
            self.record(fields)
        else:
            self.line(text)

    def details(self, fields: Mapping[str, Any], rows: Iterable[Sequence[str]]) -> None:
        """Print what is known of one thing: a JSON object, or rows of a name and a value."""
        if self.json:
            self.record(fields)
        else:
            self.table(rows, styles=("bold", ""))

    def listing(
        self,
        found: Iterable[T],
        fields: Callable[[T], Mapping[str, Any]],
        row: Callable[[T], Sequence[str]],
        *,
        styles: Sequence[str],
    ) -> None:
        """Print each of the things found: a JSON object on a line of its own, or a row of a table."""
        if not self.json:
            self.table(map(row, found), styles=styles)
            return
        for one in found:
            self.record(fields(one))

    def note(self, text: str) -> None:
        """Print a remark on stderr; not with `--json`."""
        if not self.json:
            click.echo(self._safe(text), err=True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr."""
        click.echo(f"atlasctl: warning: {plain(text)}", err=True)

    def table(self, rows: Iterable[Sequence[str]], *, styles: Sequence[str] = ()) -> None:
        """Print rows in columns; `styles` are rich's, one a column, for terminals.

        Where a terminal is too narrow, columns with the style "dim" are left out, the last ones first. The others are
        never folded, because people copy ids and paths out of them.
        """
        cells = [[visible(cell) for cell in row] for row in rows]
        if not cells:
            return
        columns = list(zip(*cells, strict=True))
        styled = [(*styles, *[""] * len(columns))[at] for at in range(len(columns))]
        if self.terminal:
            self._drop_columns(columns, styled)
        if self.terminal and self.colored:
            self._rich_table(columns, styled)
            return
        widths = [max(map(len, column)) for column in columns]
        for row in zip(*columns, strict=True):
            self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    @property
    def width(self) -> int:
        """The number of characters that a line of the terminal has."""
        return shutil.get_terminal_size().columns

    def _drop_columns(self, columns: list[tuple[str, ...]], styles: list[str]) -> None:
        """Take away dim columns until the rest fits, or none is left."""
        from rich.cells import cell_len

        while sum(max(map(cell_len, column)) + 2 for column in columns) - 2 > self.width and "dim" in styles:
            last = len(styles) - 1 - styles[::-1].index("dim")
            del columns[last], styles[last]

    def _rich_table(self, columns: list[tuple[str, ...]], styles: list[str]) -> None:
        from rich.text import Text

        # Use `Text`, which reads no markup: a file may be called "[red]".
        styled = ([Text(cell, style=style) for cell in column] for column, style in zip(columns, styles, strict=True))
        self.grid(zip(*styled, strict=True))

    def grid(self, rows: "Iterable[Sequence[Text]]") -> None:
        """Print styled texts in columns; the terminal wraps a line that is too long."""
        from rich.console import Console
        from rich.table import Table

        shown = [list(row) for row in rows]
        grid = Table.grid(padding=(0, 2))
        for _ in shown[0]:
            grid.add_column(no_wrap=True)
        for row in shown:
            grid.add_row(*row)
        Console(file=sys.stdout, highlight=False, width=_WIDEST).print(grid, crop=False, soft_wrap=True)

    def when(self, moment: datetime) -> str:
        """Return a time for people: relative on a terminal, else local to the second."""
        if self.terminal:
            return ago(moment, datetime.now(UTC))
        return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _characters(value: Any) -> Any:
    """Return a JSON value whose texts have no lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_characters(key): _characters(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_characters(one) for one in value]
    return value


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    # Dollars are a text: a reader of JSON may turn numbers into floats.
    return exact(value) if isinstance(value, Decimal) else str(value)


def exact(amount: Decimal) -> str:
    """Return a number with all its digits, and no others."""
    return f"{amount.normalize():f}"


def plain(text: str) -> str:
    """Return a text on one line, with hidden characters escaped."""
    return visible(" ".join(text.split("\n")), keep="\t")


def iso(moment: datetime) -> str:
    """Return a time in UTC, ISO 8601."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def ago(moment: datetime, now: datetime) -> str:
    """Return the time since a moment, in one unit."""
    seconds = max(0, int((now - moment).total_seconds()))
    if seconds < _MINUTE:
        return f"{seconds} s ago"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min ago"
    if seconds < _DAY:
        return f"{seconds // _HOUR} h ago"
    days = seconds // _DAY
    return f"{days} day{'s' * (days > 1)} ago"


def size(amount: int) -> str:
    """Return a number of bytes for people."""
    if amount < _KIB:
        return f"{amount} B"
    power = min(int(math.log(amount, _KIB)), len(_UNITS))
    return f"{amount / _KIB**power:.1f} {_UNITS[power - 1]}"


def signed(amount: int | None) -> str:
    """Return a difference with its sign."""
    return "" if amount is None else f"{amount:+,}"


def count(amount: int, noun: str) -> str:
    """Return a number with its noun: "1 file", "2 files"."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"
