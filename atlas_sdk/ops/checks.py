"""Check arguments before a query, so that the error names the wrong argument."""

from collections.abc import Mapping
from datetime import datetime

from atlas_sdk._plan import Json
from atlas_sdk.errors import InvalidInput
from atlas_sdk.ops.amounts import count
from atlas_sdk.text import quoted

__all__ = ["bounded", "json_map", "moment", "page_size", "storable"]

#: The most rows of one page.
_LIMIT_MAX = 10_000


def page_size(limit: int) -> int:
    """Return a number of rows per page, after checking that it is from 1 to 10,000. Raises InvalidInput."""
    return count("limit", limit, _LIMIT_MAX, least=1)


def bounded(name: str, value: str | None, most: int, *, least: int = 1) -> str | None:
    """Return a text, after checking that its length is allowed and that it has no NUL. Raises InvalidInput."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be a str, not {quoted(value)}", field=name)
    if not least <= len(value) <= most or "\0" in value:
        raise InvalidInput(f"{name} must have {least} to {most} characters, no NUL, not {quoted(value)}", field=name)
    return value


def json_map(name: str, value: Mapping[str, object] | None) -> Json | None:
    """Return a mapping as the value of a jsonb column. Raises InvalidInput."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name} must be a mapping, not {quoted(value)}", field=name)
    return Json(dict(value))


def moment(name: str, value: datetime | None) -> datetime | None:
    """Return a time, after checking that it has a time zone. Raises InvalidInput."""
    if value is not None and value.tzinfo is None:
        raise InvalidInput(f"{name} needs a time zone", field=name)
    return value


def storable(text: str, most: int) -> tuple[str, int]:
    """Return the last `most` bytes of a text, and the size of the whole text in bytes.

    The text is the output of programs and must never be refused, so characters that UTF-8 or PostgreSQL cannot store
    become escapes.
    """
    data = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")
    # Ignore the remaining bytes of a character that was cut in two.
    return data[-most:].decode("utf-8", "ignore"), len(data)
