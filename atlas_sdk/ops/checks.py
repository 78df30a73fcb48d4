"""Arguments of the product's topics: checked here, so that a wrong one is named before the database is asked."""

from collections.abc import Mapping
from datetime import datetime

from atlas_sdk._plan import Json
from atlas_sdk.errors import InvalidInput
from atlas_sdk.ops.amounts import count
from atlas_sdk.text import quoted

__all__ = ["bounded", "json_map", "moment", "page_size", "storable"]

#: Of one page.
_LIMIT_MAX = 10_000


def page_size(limit: int) -> int:
    """Return how many rows a page has. Raises InvalidInput."""
    return count("limit", limit, _LIMIT_MAX, least=1)


def bounded(name: str, value: str | None, most: int, *, least: int = 1) -> str | None:
    """Return a text of so many characters, or None. Raises InvalidInput."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is a text, not {quoted(value)}", field=name)
    if not least <= len(value) <= most or "\0" in value:
        raise InvalidInput(f"{name} has {least} to {most} characters without NUL, not {quoted(value)}", field=name)
    return value


def json_map(name: str, value: Mapping[str, object] | None) -> Json | None:
    """Return what goes into a jsonb column of objects. Raises InvalidInput."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name} is a mapping, not {quoted(value)}", field=name)
    return Json(dict(value))


def moment(name: str, value: datetime | None) -> datetime | None:
    """Return a time that has a zone, or None. Raises InvalidInput."""
    if value is not None and value.tzinfo is None:
        raise InvalidInput(f"{name} needs a time zone", field=name)
    return value


def storable(text: str, most: int) -> tuple[str, int]:
    """Return the end of a text that a column of so many bytes holds, and the bytes of the whole text.

    For what programs print, which must not be refused: what UTF-8 or PostgreSQL cannot hold is written as an escape.
    """
    data = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")
    # A character that was cut in two has no beginning: it is left out.
    return data[-most:].decode("utf-8", "ignore"), len(data)
