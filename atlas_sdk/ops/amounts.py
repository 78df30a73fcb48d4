"""Amounts of the quota topics: checked here, so that a wrong one is named before the database is asked."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Final

from atlas_sdk._plan import Json
from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import quoted

__all__ = [
    "COUNT_MAX",
    "INTEGER_MAX",
    "LIMIT_MAX",
    "TOKENS_MAX",
    "UNCHANGED",
    "Money",
    "Unchanged",
    "as_json",
    "count",
    "meta_text",
    "money",
    "ttl_of",
]

#: US dollars: exact, so no float.
Money = Decimal | int | str

#: The bounds of one call, as the functions in the database have them.
TOKENS_MAX = 10**12
_COST_MAX = 10**9
COUNT_MAX = 10**6
_TTL_MAX = timedelta(hours=24)
_META_MAX_BYTES = 16_384
#: A float that may be written with an exponent: a hint, since texts may look like one.
_EXPONENT = re.compile(r"\de[-+]?\d")
#: An escape of NUL whose backslash is not itself escaped.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
#: Of a limit of tokens or bytes: with a million top-ups of the largest size it still fits a bigint.
LIMIT_MAX = 10**18
#: What an integer column holds.
INTEGER_MAX = 2**31 - 1


class Unchanged(Enum):
    """The type of UNCHANGED."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


#: What is not named stays as it is; None is a value, "unlimited".
UNCHANGED: Final = Unchanged.UNCHANGED


def count(name: str, value: int, maximum: int = COUNT_MAX, *, least: int = 0) -> int:
    """Return a whole number within its bounds. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{name} must be a whole number, not {quoted(value)}", field=name)
    if not least <= value <= maximum:
        raise InvalidInput(f"{name} must be from {least} to {maximum}, not {value}", field=name)
    return value


def money(name: str, value: Money, maximum: int = _COST_MAX) -> Decimal:
    """Return an amount of dollars. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(f"{name} must be a Decimal, a whole number or a text, not {quoted(value)}", field=name)
    try:
        amount = Decimal(value)
    except InvalidOperation as exc:
        raise InvalidInput(f"{name} must be a number of dollars, not {quoted(value)}", field=name) from exc
    # NaN cannot be compared.
    if not amount.is_finite() or not 0 <= amount <= maximum:
        raise InvalidInput(f"{name} must be from 0 to {maximum} dollars, not {value}", field=name)
    return amount


def ttl_of(value: timedelta) -> timedelta:
    """Return how long a promise lasts. Raises InvalidInput."""
    if not isinstance(value, timedelta):
        raise InvalidInput(f"ttl must be a timedelta, not {quoted(value)}", field="ttl")
    if not timedelta() < value <= _TTL_MAX:
        raise InvalidInput(f"ttl must be more than 0 and at most 24 hours, not {value}", field="ttl")
    return value


def meta_text(meta: Mapping[str, object]) -> str:
    """Return the JSON of what goes into the ledger. Raises InvalidInput for all that the database would refuse.

    That is what is no JSON object, what a jsonb cannot hold (NaN, NUL, half a surrogate pair, a nesting that is too
    deep), and what is longer than 16,384 bytes there (`quota_check_amounts` in `sql/migrations/0005_quotas.sql`).
    """
    if not isinstance(meta, Mapping):
        raise InvalidInput(f"meta must be a mapping, not {quoted(meta)}", field="meta")
    try:
        # With the spaces that a jsonb is shown with.
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
    """Return how many more bytes numbers take when they are written out, as a jsonb does with 1e300."""
    more = 0

    def note(number: str) -> float:
        nonlocal more
        more += len(format(Decimal(number), "f")) - len(number)
        return 0.0

    json.loads(text, parse_float=note)
    return more


def as_json(meta: Mapping[str, object] | None) -> Json | None:
    """Return what goes into a jsonb column. Raises InvalidInput."""
    if meta is None:
        return None
    meta_text(meta)
    return Json(dict(meta))
