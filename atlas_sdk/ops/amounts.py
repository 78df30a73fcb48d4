"""Amounts of the quota topics: checked here, so that a wrong one is named before the database is asked."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Final

from atlas_sdk._plan import Json
from atlas_sdk.errors import InvalidInput

__all__ = [
    "INTEGER_MAX",
    "LIMIT_MAX",
    "TOKENS_MAX",
    "UNCHANGED",
    "Money",
    "Unchanged",
    "as_json",
    "count",
    "money",
    "ttl_of",
]

#: US dollars: exact, so no float.
Money = Decimal | int | str

#: The bounds of one call, as the functions in the database have them.
TOKENS_MAX = 10**12
_COST_MAX = 10**9
_COUNT_MAX = 10**6
_TTL_MAX = timedelta(hours=24)
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


def count(name: str, value: int, maximum: int = _COUNT_MAX, *, least: int = 0) -> int:
    """Return a whole number within its bounds. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{name} must be a whole number, not {value!r}", field=name)
    if not least <= value <= maximum:
        raise InvalidInput(f"{name} must be from {least} to {maximum}, not {value}", field=name)
    return value


def money(name: str, value: Money, maximum: int = _COST_MAX) -> Decimal:
    """Return an amount of dollars. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(f"{name} must be a Decimal, a whole number or a text, not {value!r}", field=name)
    try:
        amount = Decimal(value)
    except InvalidOperation as exc:
        raise InvalidInput(f"{name} must be a number of dollars, not {value!r}", field=name) from exc
    # NaN cannot be compared.
    if not amount.is_finite() or not 0 <= amount <= maximum:
        raise InvalidInput(f"{name} must be from 0 to {maximum} dollars, not {value}", field=name)
    return amount


def ttl_of(value: timedelta) -> timedelta:
    """Return how long a promise lasts. Raises InvalidInput."""
    if not timedelta() < value <= _TTL_MAX:
        raise InvalidInput(f"ttl must be more than 0 and at most 24 hours, not {value}", field="ttl")
    return value


def as_json(meta: Mapping[str, object] | None) -> Json | None:
    """Return what goes into a jsonb column."""
    return None if meta is None else Json(dict(meta))
