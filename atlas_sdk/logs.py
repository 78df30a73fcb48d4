"""Format log records, each on one line, even if a name or an error in the record has line ends."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from atlas_sdk.text import visible

__all__ = ["DAEMON_LAYOUT", "JsonFormatter", "LogFormatter", "log_to_stderr"]

#: The layout of the watcher's lines.
DAEMON_LAYOUT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_INDENT: Final = "    "


class LogFormatter(logging.Formatter):
    """A formatter that stops a name or an error in a record from forging a line, hiding text, or showing a secret.

    Line ends and other characters that a terminal obeys become escapes. The secrets of the DSN are masked. A traceback
    keeps its lines; each line is indented, so that it does not look like a record.
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


class JsonFormatter(LogFormatter):
    """A formatter that writes each record as one JSON object on one line, in ASCII.

    An ordinary record has the keys `event` ("log"), `at`, `level`, `logger` and `message`, and `traceback` if it has
    one. A record with the attribute `fields`, a dictionary, becomes that dictionary.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is None:
            fields = {
                "event": "log",
                "at": datetime.fromtimestamp(record.created, UTC),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": self._masked(visible(record.getMessage(), keep="\t")),
            }
            if record.exc_info:
                fields["traceback"] = [
                    line.strip("\n") for line in self._indented(self.formatException(record.exc_info))
                ]
        return json.dumps(fields, default=_to_json)


def _to_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return str(value)


def log_to_stderr(level: int | str, layout: str, *, dsn: str | None = None, as_json: bool = False) -> LogFormatter:
    """Make the program log to stderr; return the formatter, whose `dsn` the caller may set later.

    With `as_json`, each line is a JSON object. If logging is set up already, this changes nothing.
    """
    formatter = JsonFormatter(layout, dsn=dsn) if as_json else LogFormatter(layout, dsn=dsn)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler])
    return formatter
