"""Prices of tokens by model, in a table that the platform provides.

::

    prices = Prices({
        "small-model": Price(input="0.25", output="1.25"),
        "big-model": Price(input=3, output=15, cache_read="0.30", cache_write="3.75"),
    })

This package has no price list, because it would soon be wrong without notice. It does not model tiers by context
length, priority or batch: give the highest price, or subclass `Prices`.
"""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation

from attrs import field, frozen

from atlas_sdk import InvalidInput
from atlas_sdk.integrations.usage import TokenUsage

__all__ = ["Price", "Prices"]

#: Enough digits for 10^15 tokens at any price that `_dollars` accepts, so that nothing is rounded.
_EXACT = Context(prec=80)
#: The ledger counts billionths of a dollar.
_LEDGER = Decimal("0.000000001")
#: The highest price in dollars per million tokens. It is far above real prices, so a higher one probably has a
#: misplaced decimal point.
_MOST = 10**6
_DIGITS = 30


def _dollars(value: Decimal | int | str | None) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(f"a price must be a Decimal, an int or a str, not {value!r}", field="price")
    try:
        price = Decimal(value)
    except InvalidOperation as exc:
        raise InvalidInput(f"a price must be a number of dollars, not {value!r}", field="price") from exc
    if not price.is_finite() or not 0 <= price <= _MOST or len(price.as_tuple().digits) > _DIGITS:
        raise InvalidInput(f"a price must be from 0 to {_MOST} dollars per million tokens, not {value}", field="price")
    return price


def _needed(value: Decimal | int | str) -> Decimal:
    price = _dollars(value)
    if price is None:
        raise InvalidInput("give a price for input and one for output", field="price")
    return price


@frozen
class Price:
    """The prices of a model, in US dollars per million tokens. The cache prices default to the price of `input`."""

    input: Decimal = field(converter=_needed)
    output: Decimal = field(converter=_needed)
    cache_read: Decimal | None = field(default=None, converter=_dollars)
    cache_write: Decimal | None = field(default=None, converter=_dollars)

    def cost(self, usage: TokenUsage) -> Decimal:
        """Return the exact cost of a usage in US dollars."""
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        total = Decimal()
        for tokens, price in (
            (usage.input, self.input),
            (usage.output, self.output),
            (usage.cache_read, read),
            (usage.cache_write, write),
        ):
            total = _EXACT.add(total, _EXACT.multiply(Decimal(tokens), price))
        return _EXACT.scaleb(total, -6)

    def estimate(self, *, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the highest possible cost of a call, rounded up to a billionth of a dollar.

        Before the call it is unknown how much of the input is cached, so all input counts at the highest input price.
        """
        dearest = max(price for price in (self.input, self.cache_read, self.cache_write) if price is not None)
        most = Price(input=dearest, output=self.output).cost(TokenUsage(input=input_tokens, output=output_tokens))
        return most.quantize(_LEDGER, rounding=ROUND_CEILING, context=_EXACT)


class Prices:
    """Prices by prefix of the model's name; the longest prefix that fits wins."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        """Copy the table. The prefix `""` fits every model, so no price is unknown then."""
        self._prices = dict(sorted(prices.items(), key=lambda entry: len(entry[0]), reverse=True))

    def of(self, model: str) -> Price | None:
        """Return the price of a model; None if no prefix fits."""
        return next((price for prefix, price in self._prices.items() if model.startswith(prefix)), None)

    def cost(self, model: str, usage: TokenUsage) -> Decimal | None:
        """Return the exact cost in US dollars; None (not 0) if the model has no price."""
        price = self.of(model)
        return None if price is None else price.cost(usage)

    def estimate(self, model: str, *, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Return the highest possible cost of a call, rounded up; None if the model has no price."""
        price = self.of(model)
        return None if price is None else price.estimate(input_tokens=input_tokens, output_tokens=output_tokens)
