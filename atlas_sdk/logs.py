"""Format log records, each on one line, even if names and errors in it have line ends."""

import logging
import sys
from typing import Final

from atlas_sdk.text import visible

__all__ = ["DAEMON_LAYOUT", "LogFormatter", "log_to_stderr"]

#: The layout of the watcher's lines.
DAEMON_LAYOUT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_INDENT: Final = "    "


class LogFormatter(logging.Formatter):
    """A formatter, with which no name or error in a record can forge a line, hide a text, or show a secret of the DSN.

    Line ends and other characters that a terminal obeys become escapes. A traceback keeps its lines. Each of them is
    indented, so that it does not look like a record.
    """

    def __init__(self, layout: str, *, dsn: str | None = None) -> None:
        super().__init__(layout)
        #: The address whose secrets are masked, because psycopg logs messages of the server that may quote it.
        self.dsn = dsn

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and the indented lines of its traceback."""
        record.message = self._masked(visible(record.getMessage(), keep="\t"))
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [self.formatMessage(record)]
        # Format the exception here: the text that another handler left in the record may not be escaped.
        if record.exc_info:
            lines += self._indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += self._indented(self.formatStack(record.stack_info))
        return "\n".join(lines)

    def _indented(self, text: str) -> list[str]:
        return [_INDENT + visible(line, keep="\t") for line in self._masked(text).split("\n")]

    def _masked(self, text: str) -> str:
        if self.dsn is None:
            return text
        # `scrubbed` loads psycopg, so import it only if there is a DSN.
        from atlas_sdk.dsn import scrubbed  # noqa: PLC0415

        return scrubbed(text, self.dsn)


def log_to_stderr(level: int | str, layout: str, *, dsn: str | None = None) -> LogFormatter:
    """Make the program log to stderr; return the formatter, whose `dsn` the caller may set later.

    If logging is set up already, this changes nothing.
    """
    formatter = LogFormatter(layout, dsn=dsn)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler])
    return formatter
