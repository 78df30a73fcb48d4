"""Prices of tokens by model: a table that the platform gives.

::

    prices = Prices({
        "small-model": Price(input="0.25", output="1.25"),
        "big-model": Price(input=3, output=15, cache_read="0.30", cache_write="3.75"),
    })

No price list is shipped: it would be wrong soon, and wrong silently. Tiers by context length, priority or batch are
not modelled: give the dearest one, or subclass `Prices`.
"""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation

from attrs import field, frozen

from atlas_sdk import InvalidInput
from atlas_sdk.integrations.usage import TokenUsage

__all__ = ["Price", "Prices"]

#: Digits enough for 10^15 tokens at any price that `_dollars` lets in, so that nothing is rounded.
_EXACT = Context(prec=80)
#: The ledger counts billionths of a dollar.
_LEDGER = Decimal("0.000000001")
#: Dollars per million tokens, far above any real price: more is a slip of the decimal point.
_MOST = 10**6
_DIGITS = 30


def _dollars(value: Decimal | int | str | None) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput(f"a price must be a Decimal, a whole number or a text, not {value!r}", field="price")
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
        raise InvalidInput("a price for input and one for output are needed", field="price")
    return price


@frozen
class Price:
    """US dollars per million tokens. A part of the input without a price of its own costs as `input` does."""

    input: Decimal = field(converter=_needed)
    output: Decimal = field(converter=_needed)
    cache_read: Decimal | None = field(default=None, converter=_dollars)
    cache_write: Decimal | None = field(default=None, converter=_dollars)

    def cost(self, usage: TokenUsage) -> Decimal:
        """Return the cost in US dollars, exact."""
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
        """Return what a call can cost at most, rounded up to a billionth of a dollar.

        Which part of the input meets a cache is not known before, so all of it counts at the dearest of the three.
        """
        dearest = max(price for price in (self.input, self.cache_read, self.cache_write) if price is not None)
        most = Price(input=dearest, output=self.output).cost(TokenUsage(input=input_tokens, output=output_tokens))
        return most.quantize(_LEDGER, rounding=ROUND_CEILING, context=_EXACT)


class Prices:
    """Prices by the beginning of a model's name; the longest one that fits wins."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        """Take the table; it is copied. `""` fits every model: give it to have no unknown ones."""
        self._prices = dict(sorted(prices.items(), key=lambda entry: len(entry[0]), reverse=True))

    def of(self, model: str) -> Price | None:
        """Return the price of a model; None when nothing fits."""
        return next((price for prefix, price in self._prices.items() if model.startswith(prefix)), None)

    def cost(self, model: str, usage: TokenUsage) -> Decimal | None:
        """Return the exact cost in US dollars; None, which is not 0, when the model has no price."""
        price = self.of(model)
        return None if price is None else price.cost(usage)

    def estimate(self, model: str, *, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Return what a call can cost at most, rounded up; None when the model has no price."""
        price = self.of(model)
        return None if price is None else price.estimate(input_tokens=input_tokens, output_tokens=output_tokens)
