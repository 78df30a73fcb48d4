"""Parameter types for amounts: "10M" tokens, "$12.50", "1GiB", "unlimited", "30d"."""

import re
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import click

from atlas_sdk.text import quoted

#: The word for no limit; None would mean that the option was not given.
UNLIMITED: Final = "unlimited"
FOREVER: Final = "forever"
_NUMBER: Final = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([kKmMgGtT]?)")
_THOUSANDS: Final = {"": 0, "k": 3, "m": 6, "g": 9, "t": 12}
_SIZE: Final = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*(?:([kmgt])(i?)b|b)?", re.IGNORECASE | re.ASCII)
_WAIT: Final = re.compile(r"([0-9]{1,4})\s*([hdw])")
_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def _scaled(digits: str, unit: str) -> Decimal:
    return Decimal(digits.replace("_", "").replace(",", "")).scaleb(_THOUSANDS[unit.lower()])


class _Quantity(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """A number with a unit."""

    def read(self, text: str) -> object:
        """Return the value; None for a text that is not one."""
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the argument."""
        found = self.read(str(value).strip())
        if found is None:
            self.fail(f"{quoted(value)} is not {self.name}", param, ctx)
        return found


class _Count(_Quantity):
    name = "a whole number such as 5000, 1.5k or 10M"

    def read(self, text: str) -> int | None:
        found = _NUMBER.fullmatch(text)
        amount = None if found is None else _scaled(*found.groups())
        return int(amount) if amount is not None and amount == int(amount) else None


class _Money(_Quantity):
    name = "a number of dollars such as 10, 2.50 or 1.5k"

    def read(self, text: str) -> Decimal | None:
        found = _NUMBER.fullmatch(text.removeprefix("$"))
        return None if found is None else _scaled(*found.groups())


class Size(_Quantity):
    """A number of bytes."""

    name = "a size such as 500000, 100MiB or 1GB"

    def read(self, text: str) -> int | None:
        """Return the number of bytes that the text names; None if it is no size, or not a whole number of bytes."""
        found = _SIZE.fullmatch(text)
        if found is None:
            return None
        digits, unit, binary = found.groups()
        amount = _scaled(digits, "") * (1024 if binary else 1000) ** (" kmgt".index((unit or " ").lower()))
        return int(amount) if amount == int(amount) else None


class Limit(_Quantity):
    """An amount, or "unlimited"."""

    def __init__(self, amount: _Quantity) -> None:
        self._amount = amount
        self.name = f"{amount.name}, or {UNLIMITED}"

    def read(self, text: str) -> object:
        """Return the amount, or the word "unlimited"."""
        return UNLIMITED if text.lower() == UNLIMITED else self._amount.read(text)


class _Expiry(_Quantity):
    name = "a wait such as 12h, 30d or 4w, or a date such as 2026-12-31"

    def read(self, text: str) -> timedelta | datetime | None:
        wait = _WAIT.fullmatch(text)
        if wait is not None:
            return int(wait[1]) * _UNITS[wait[2]]
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        if len(text) == len("2026-12-31"):
            # Include the whole last day.
            moment = datetime.combine(moment, time.max)
        return moment.astimezone()


class _Age(_Quantity):
    name = "a time such as 12h, 30d or 4w, or forever"

    def read(self, text: str) -> timedelta | str | None:
        wait = _WAIT.fullmatch(text)
        if wait is not None:
            return int(wait[1]) * _UNITS[wait[2]]
        return FOREVER if text.lower() == FOREVER else None


AGE = _Age()
AMOUNT = _Count()
COUNT = Limit(AMOUNT)
MONEY = _Money()
EXPIRY = _Expiry()
