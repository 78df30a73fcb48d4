"""The output of `atlasctl watch`: a line for each capture, and on a terminal a last line with a summary."""

import logging
import sys
import threading
from typing import TYPE_CHECKING, Final

from atlas_sdk.cli.output import Output
from atlas_sdk.text import cut, visible

if TYPE_CHECKING:
    from watcher.status import Status

_CLEAR: Final = "\r\x1b[K"
_COLORS: Final = {"new": "green", "changed": "yellow", "deleted": "red"}


class WatchConsole(logging.Handler):
    """A handler that prints captures and summaries on stdout.

    On a terminal, the last line is the newest summary. `LogAbove` keeps lines of the log out of it.
    """

    def __init__(self, out: Output, *, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self._out = out
        #: True if a person looks at the lines: they are short then, and the last one changes.
        self.live = out.terminal and formatter is None
        self._summary = ""
        #: Lines of the log and of captures come from several threads.
        self._turn = threading.RLock()
        if formatter is not None:
            self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a capture or a summary."""
        with self._turn:
            self._raw(_CLEAR if self.live else "")
            try:
                self._out.line(self._line(record))
            except OSError:
                # Nobody reads the output any more. Go on: `atlasctl watch | head` is no reason to lose changes.
                self._summary = ""
            self._draw()

    def _line(self, record: logging.LogRecord) -> str:
        if self.formatter is not None:
            return self.format(record)
        text = record.getMessage()
        news = getattr(record, "news", None)
        if news is None:
            return text
        when = news.at.astimezone()
        if not self.live:
            return f"{when:%Y-%m-%d %H:%M:%S}  {text}"
        # The line has no colours of its own, because names in it are escaped.
        colored = text.replace(f"  {news.change}  ", f"  {self._out.style(news.change, fg=_COLORS[news.change])}  ", 1)
        return f"{when:%H:%M:%S}  {colored}"

    def report(self, status: "Status") -> None:
        """Show a status in the last line of a terminal."""
        if not self.live:
            return
        from watcher.captures import summary_of

        summary = visible(cut(summary_of(status), max(20, self._out.width - 1)))
        with self._turn:
            if summary != self._summary:
                self._summary = summary
                self._raw(_CLEAR)
                self._draw()

    def close(self) -> None:
        """Remove the last line."""
        with self._turn:
            if self._summary:
                self._summary = ""
                self._raw(_CLEAR)
        super().close()

    def write_above(self, text: str) -> None:
        """Print a line of the log on stderr, above the last line."""
        with self._turn:
            self._raw(_CLEAR)
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
            self._draw()

    def _draw(self) -> None:
        if self.live and self._summary:
            self._raw(self._out.style(self._summary, dim=True))

    def _raw(self, text: str) -> None:
        try:
            self._out.write(text.encode("utf-8", "backslashreplace"))
        except OSError:
            self._summary = ""


class LogAbove(logging.Handler):
    """A handler that prints lines of the log above the last line of a console."""

    def __init__(self, console: WatchConsole, formatter: logging.Formatter) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        self._console.write_above(self.format(record))
