"""TOML that an agent or a stranger wrote: read within limits, so that no text makes reading slow or endless.

`tomllib` recurses for every bracket, and takes quadratic time for a dotted key: `[a.a.a …]` of 120 KB took ten seconds.
So both are counted first, in one pass over the text.
"""

import re
from typing import Any, Final

from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import named

__all__ = ["LIMIT_BYTES", "parse_toml"]

#: Settings that people write have a few hundred bytes.
LIMIT_BYTES: Final = 64 * 2**10
#: The deepest settings that Atlas knows are `table.key = [list]`.
_DEPTH_MAX: Final = 32
_PARTS_MAX: Final = 16
#: Comments and strings, in which nothing counts. One without an end goes to the end of the line or of the text: or each
#: quotation mark in it would be looked for again.
_QUOTED: Final = re.compile(
    r"""\#[^\n]* | \"{3}(?:[^\\]|\\.?)*?(?:\"{3}|\Z) | '{3}.*?(?:'{3}|\Z) | "(?:[^"\\\n]|\\[^\n])*"? | '[^'\n]*'?""",
    re.VERBOSE | re.DOTALL,
)
_LONG_KEY: Final = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{_PARTS_MAX}}}[\w-]")
_BRACKET: Final = re.compile(r"[\[\]{}]")


def parse_toml(raw: bytes, *, name: str) -> dict[str, Any]:
    """Return the tables of a file of settings. Raises InvalidInput whose sentence is short and begins with `name`.

    `raw` is refused when it is longer than 64 KiB, not UTF-8, not TOML, nested deeper than 32 brackets, or has a key of
    more than 16 parts. Takes time in proportion to its length.
    """
    if len(raw) > LIMIT_BYTES:
        raise InvalidInput(f"{name} is larger than {LIMIT_BYTES:,} bytes", field=name)
    # Most projects have no settings, and a hook has few milliseconds.
    import tomllib  # noqa: PLC0415

    try:
        text = raw.decode()
        if (reason := _excess(text)) is not None:
            raise InvalidInput(f"{name} {reason}", field=name)
        return tomllib.loads(text)
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{name} is not TOML: byte {exc.start:,} is not UTF-8", field=name) from None
    except tomllib.TOMLDecodeError as exc:
        # A key or a character of the file is in the reason.
        raise InvalidInput(f"{name} is not TOML: {named(str(exc))}", field=name) from None
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, InvalidInput):
            raise
        # A number of more digits than Python reads.
        raise InvalidInput(f"{name} is not TOML: a value in it is too long", field=name) from None


def _excess(text: str) -> str | None:
    """Return what is too much in a text: brackets within brackets, or parts of one key."""
    text = _QUOTED.sub("q", text)
    if _LONG_KEY.search(text) is not None:
        return f"has a key of more than {_PARTS_MAX} parts"
    depth = 0
    for bracket in _BRACKET.findall(text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        if depth > _DEPTH_MAX:
            return f"is nested deeper than {_DEPTH_MAX} brackets"
    return None
