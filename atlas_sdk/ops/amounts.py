"""Check amounts of the quota topics before a query, so that the error names the wrong argument."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Final

from atlas_sdk._plan import Json
from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import digits, quoted

__all__ = [
    "COUNT_MAX",
    "INTEGER_MAX",
    "LIMIT_MAX",
    "TOKENS_MAX",
    "UNCHANGED",
    "Money",
    "Unchanged",
    "as_json",
    "at_most",
    "count",
    "meta_text",
    "money",
    "ttl_of",
]

#: US dollars. A float is not accepted, because amounts are exact.
Money = Decimal | int | str

#: The bounds of one call, the same as in the functions of the database.
TOKENS_MAX = 10**12
_COST_MAX = 10**9
COUNT_MAX = 10**6
_TTL_MAX = timedelta(hours=24)
_META_MAX_BYTES = 16_384
#: A float with an exponent, or a text that looks like one.
_EXPONENT = re.compile(r"\de[-+]?\d")
#: An escaped NUL whose backslash is not itself escaped.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
#: The largest limit of tokens or bytes. The sum of this limit and a million of the largest top-ups fits a bigint.
LIMIT_MAX = 10**18
#: The largest value of an integer column.
INTEGER_MAX = 2**31 - 1


class Unchanged(Enum):
    """The type of UNCHANGED."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


#: The default of optional arguments: the stored value does not change. None would mean "unlimited".
UNCHANGED: Final = Unchanged.UNCHANGED


def count(name: str, value: int, maximum: int = COUNT_MAX, *, least: int = 0) -> int:
    """Return the value if it is a whole number within the bounds. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{name} must be a whole number, not {quoted(value)}", field=name)
    if not least <= value <= maximum:
        raise InvalidInput(f"{name} must be from {least} to {maximum}, not {value}", field=name)
    return value


def at_most(name: str, value: int, of: str, amount: int, *, least: int = 0) -> int:
    """Return the minimum `value` if it does not exceed `amount`, the argument called `of`. Raises InvalidInput."""
    minimum = count(name, value, TOKENS_MAX, least=least)
    if minimum > amount:
        raise InvalidInput(f"{name} ({minimum}) must not exceed {of} ({amount})", field=name)
    return minimum


def money(name: str, value: Money, maximum: int = _COST_MAX) -> Decimal:
    """Return the value as an amount of dollars. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(f"{name} must be a Decimal, an int or a str, not {quoted(value)}", field=name)
    try:
        amount = Decimal(value)
    except InvalidOperation as exc:
        raise InvalidInput(f"{name} must be a number of dollars, not {quoted(value)}", field=name) from exc
    # Test for NaN first, because a comparison with NaN raises.
    if not amount.is_finite() or not 0 <= amount <= maximum:
        raise InvalidInput(f"{name} must be from 0 to {maximum} dollars, not {digits(value)}", field=name)
    return amount


def ttl_of(value: timedelta) -> timedelta:
    """Return the lifetime of a reservation if it is within the bounds. Raises InvalidInput."""
    if not isinstance(value, timedelta):
        raise InvalidInput(f"ttl must be a timedelta, not {quoted(value)}", field="ttl")
    if not timedelta() < value <= _TTL_MAX:
        raise InvalidInput(f"ttl must be more than 0 and at most 24 hours, not {value}", field="ttl")
    return value


def meta_text(meta: Mapping[str, object]) -> str:
    """Return `meta` as JSON text. Raises InvalidInput for everything that the database would refuse.

    The database refuses values that are not a JSON object, values that a jsonb cannot store (NaN, NUL, half a surrogate
    pair, deep nesting), and more than 16,384 bytes (`quota_check_amounts` in `sql/migrations/0005_quotas.sql`).
    """
    if not isinstance(meta, Mapping):
        raise InvalidInput(f"meta must be a mapping, not {quoted(meta)}", field="meta")
    try:
        # Keep the default separators: the database limits the size of its own text, which has the same spaces.
        text = json.dumps(dict(meta), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
        if _EXPONENT.search(text):
            size += _digits(text)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidInput(f"meta is not JSON that can be stored: {exc}", field="meta") from exc
    if _NUL.search(text):
        raise InvalidInput("meta must not hold the character NUL", field="meta")
    if size > _META_MAX_BYTES:
        raise InvalidInput(f"meta must be at most {_META_MAX_BYTES} bytes of JSON, not {size}", field="meta")
    return text


def _digits(text: str) -> int:
    """Return the number of bytes that a jsonb adds, because it writes numbers such as 1e300 without an exponent."""
    more = 0

    def note(number: str) -> float:
        nonlocal more
        more += len(format(Decimal(number), "f")) - len(number)
        return 0.0

    json.loads(text, parse_float=note)
    return more


def as_json(meta: Mapping[str, object] | None) -> Json | None:
    """Return `meta` as the value of a jsonb column. Raises InvalidInput."""
    if meta is None:
        return None
    meta_text(meta)
    return Json(dict(meta))
