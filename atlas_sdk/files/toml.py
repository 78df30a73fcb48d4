"""Parse untrusted TOML within limits, so that no text makes parsing slow or endless.

`tomllib` takes quadratic time and memory for long keys (24 s and 3.4 GB for 60 KB of `x.x.x…`), and recurses for nested
values. So this module first counts the signs that make `tomllib` slow. Outside of strings and comments, an ordinary
file has a few dozen brackets, dots and equals signs, and a comma per glob.
"""

import re
from typing import Any, Final

from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import named

__all__ = ["LIMIT_BYTES", "parse_toml"]

#: The largest file. Settings that people write have a few hundred bytes.
LIMIT_BYTES: Final = 64 * 2**10
#: The most occurrences of each sign outside of strings and comments.
_MOST_SIGNS = {"[": 64, "{": 64, "=": 64, ".": 64, ",": 1024}
#: Matches strings and comments, closed or not. The content of a string in three quotes may itself end with two quotes.
_STRINGS_AND_COMMENTS = re.compile(
    r'''
    """ [^"\\]* (?: (?: \\. | "(?!"") ) [^"\\]* )* (?:"{3,5})?
    | \'\'\' [^']* (?: '(?!'') [^']* )* (?:'{3,5})?
    | " [^"\\\n]* (?: \\[^\n] [^"\\\n]* )* "?
    | ' [^'\n]* '?
    | \# [^\n]*
    ''',
    re.VERBOSE | re.DOTALL,
)


def parse_toml(raw: bytes, *, name: str) -> dict[str, Any]:
    """Return the tables of a settings file. Raises InvalidInput with a short message that begins with `name`.

    The call refuses a text that is longer than 64 KiB, not UTF-8 or not TOML, or that has more than 64 brackets, dots
    or equals signs, or 1,024 commas, outside of strings and comments. The time is proportional to the length.
    """
    if len(raw) > LIMIT_BYTES:
        raise InvalidInput(f"{name} is larger than {LIMIT_BYTES:,} bytes", field=name)
    try:
        # Editors on Windows begin a text with a byte order mark; TOML knows none.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{name} is not TOML: byte {exc.start:,} is not UTF-8", field=name) from None
    _check_signs(text, name)
    # Import `tomllib` only when needed: most projects have no settings, and a hook has only a few milliseconds.
    import tomllib  # noqa: PLC0415

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        # `named` escapes the reason, which quotes the file.
        raise InvalidInput(f"{name} is not TOML: {named(str(exc))}", field=name) from None
    except (ValueError, RecursionError):
        # A number has more digits than Python accepts, or the call stack is deep already.
        raise InvalidInput(f"{name} is not TOML: a value in it is too long", field=name) from None


def _check_signs(text: str, name: str) -> None:
    # Replace line ends as `tomllib` does, so that both see the same lines.
    rest = _STRINGS_AND_COMMENTS.sub("", text.replace("\r\n", "\n"))
    for sign, most in _MOST_SIGNS.items():
        if rest.count(sign) > most:
            raise InvalidInput(
                f"{name} has more than {most:,} of the sign {sign} outside strings; settings need a few tables only",
                field=name,
            )
