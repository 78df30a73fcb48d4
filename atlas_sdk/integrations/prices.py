"""Prices of usage by model, in a table that the platform provides.

::

    prices = Prices({
        "small-model": Price(input="0.25", output="1.25"),
        "big-model": Price(input=3, output=15, cache_read="0.30", cache_write="3.75", web_search=10),
        "big-model-*": Price(input=5, output=25),                               # every other model of this name
    })

A name in the table is exact. With a `*` at its end it stands for all names that begin so. `price_list.PriceList` is a
maintained list. A subclass of `Prices` may use everything that a call tells: see `CallFacts`.
"""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from typing import Any, TypedDict, Unpack

from attrs import evolve, field, frozen

from atlas_sdk import InvalidInput
from atlas_sdk.integrations.usage import TokenUsage
from atlas_sdk.integrations.usage_fields import STANDARD_REGIONS, STANDARD_TIERS

__all__ = ["CallFacts", "Price", "Prices", "ledger_cost"]

#: Enough digits for 10^15 tokens at any price that `_dollars` accepts, so that nothing is rounded.
_EXACT = Context(prec=80)
#: The ledger counts billionths of a dollar.
_LEDGER = Decimal("0.000000001")
#: The highest price in dollars. It is far above real prices, so a higher one probably has a misplaced decimal point.
_MOST = 10**6
_DIGITS = 30
#: Tiers that a provider uses only for requests that name them. It may choose the others by itself.
_BY_REQUEST = frozenset({"batch", "fast", "ultrafast"})


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
        raise InvalidInput(f"a price must be from 0 to {_MOST} dollars, not {value}", field="price")
    return price


def _needed(value: Decimal | int | str) -> Decimal:
    price = _dollars(value)
    if price is None:
        raise InvalidInput("give a price for input and one for output", field="price")
    return price


def _factors(given: Mapping[str, Decimal | int | str]) -> Mapping[str, Decimal]:
    return {name: _needed(value) for name, value in given.items()}


def ledger_cost(cost: Decimal) -> Decimal:
    """Return a cost rounded up to a billionth of a dollar, the unit of the ledger: a cost above 0 is never 0 there."""
    return cost.quantize(_LEDGER, rounding=ROUND_CEILING, context=_EXACT)


class CallFacts(TypedDict, total=False):
    """The facts about a call that may change its price."""

    #: "anthropic" or "openai".
    provider: str
    #: The service tier or speed: that of the answer, for an estimate that of the request. None is the normal one.
    tier: str | None
    #: The region that the answer or the request names.
    region: str | None
    #: The usage as the provider reports it; for an estimate {}.
    raw: Mapping[str, Any]
    #: The request's JSON.
    request: Mapping[str, Any]
    #: For an estimate: the parts beside input, output and the usual cache that the request may use.
    uses: frozenset[str]
    #: For an estimate: the searches that the request allows.
    searches: int


@frozen
class Price:
    """The prices of a model in US dollars: per million tokens, per thousand searches, per minute of audio.

    A part without a price costs the highest price that the part can have as far as this class knows: see `rates`.
    """

    input: Decimal = field(converter=_needed)
    output: Decimal = field(converter=_needed)
    cache_read: Decimal | None = field(default=None, converter=_dollars)
    cache_write: Decimal | None = field(default=None, converter=_dollars)
    cache_write_long: Decimal | None = field(default=None, converter=_dollars, kw_only=True)
    input_audio: Decimal | None = field(default=None, converter=_dollars, kw_only=True)
    input_image: Decimal | None = field(default=None, converter=_dollars, kw_only=True)
    output_audio: Decimal | None = field(default=None, converter=_dollars, kw_only=True)
    output_image: Decimal | None = field(default=None, converter=_dollars, kw_only=True)
    web_search: Decimal | None = field(default=None, converter=_dollars, kw_only=True)
    audio_minute: Decimal | None = field(default=None, converter=_dollars, kw_only=True)
    #: The whole price in other service tiers and at other speeds, by the provider's names: "priority", "flex", "fast".
    #: These prices and `long_context` inherit only `regions`, `web_search` and `audio_minute`. They do not inherit
    #: prices of tokens, because a part without a price depends on the `input` and `output` of the same Price.
    tiers: Mapping[str, "Price"] = field(factory=dict, kw_only=True)
    #: Factors on the prices of tokens by region, as in `inference_geo`: {"us": "1.1"}.
    regions: Mapping[str, Decimal] = field(factory=dict, converter=_factors, kw_only=True)
    #: The whole price of a call with more input tokens than `long_context_above`.
    long_context: "Price | None" = field(default=None, kw_only=True)
    long_context_above: int = field(default=200_000, kw_only=True)
    #: Names of further prices of the model, of kinds that this class does not have. `unpriced` returns them always.
    unread: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def rates(self) -> dict[str, Decimal]:
        """The price of each part of `TokenUsage` that is counted in tokens.

        Cache reads, usual cache writes and images default to the price of `input`; long cache writes to twice that
        price, which is Anthropic's; audio, and images that the model makes, to the highest price of all.
        """
        write = self.input if self.cache_write is None else self.cache_write
        known = {
            "input": self.input,
            "output": self.output,
            "cache_read": self.input if self.cache_read is None else self.cache_read,
            "cache_write": write,
            "cache_write_long": max(2 * self.input, write) if self.cache_write_long is None else self.cache_write_long,
            "input_image": self.input if self.input_image is None else self.input_image,
        }
        given = {name: getattr(self, name) for name in ("input_audio", "output_audio", "output_image")}
        highest = max(*known.values(), *(price for price in given.values() if price is not None))
        return {
            **known,
            **{name: highest if price is None else price for name, price in given.items()},
            "other": highest,
        }

    def unpriced(self, usage: TokenUsage, *, tier: str | None = None, region: str | None = None) -> tuple[str, ...]:
        """Return the parts, tier and region of a usage without a price of their own, whose cost may be higher."""
        price = self._chosen(usage, tier)
        parts = ("input_audio", "output_audio", "output_image")
        found = [*price.unread, *(name for name in parts if getattr(usage, name) and getattr(price, name) is None)]
        if usage.web_searches and price.web_search is None:
            found.append("web_search")
        if usage.audio_seconds and price.audio_minute is None:
            found.append("audio_minute")
        if tier is not None and tier not in STANDARD_TIERS and tier not in self.tiers:
            found.append(f"tier={tier}")
        if region is not None and region not in STANDARD_REGIONS and region not in price.regions:
            found.append(f"region={region}")
        return tuple(found)

    def _chosen(self, usage: TokenUsage, tier: str | None) -> "Price":
        """Return the Price of a usage: that of its tier, that of its long context, or this one."""
        price = self if tier is None or tier not in self.tiers else self._inside(self.tiers[tier])
        while price.long_context is not None and usage.sent > price.long_context_above:
            price = price._inside(price.long_context)  # noqa: SLF001  # of this class
        return price

    def _inside(self, price: "Price") -> "Price":
        """Return a price of `tiers`, or `long_context`, with the values that it inherits."""
        return evolve(
            price,
            regions={**self.regions, **price.regions},
            web_search=self.web_search if price.web_search is None else price.web_search,
            audio_minute=self.audio_minute if price.audio_minute is None else price.audio_minute,
        )

    def cost(self, usage: TokenUsage, *, tier: str | None = None, region: str | None = None) -> Decimal:
        """Return the exact cost of a usage in US dollars."""
        price = self._chosen(usage, tier)
        total = Decimal()
        for name, rate in price.rates.items():
            total = _EXACT.add(total, _EXACT.multiply(Decimal(getattr(usage, name)), rate))
        if region is not None and region in price.regions:
            total = _EXACT.multiply(total, price.regions[region])
        searches = _EXACT.multiply(Decimal(usage.web_searches), price.web_search or Decimal())
        # A minute has 60 seconds. Multiply first, and round the quotient up.
        seconds = _EXACT.multiply(Decimal(usage.audio_seconds), price.audio_minute or Decimal())
        audio = Context(prec=80, rounding=ROUND_CEILING).divide(seconds, Decimal(60))
        return _EXACT.add(_EXACT.scaleb(total, -6), _EXACT.add(_EXACT.scaleb(searches, -3), audio))

    def estimate(self, *, input_tokens: int, output_tokens: int, **facts: Unpack[CallFacts]) -> Decimal:
        """Return the highest possible cost of a call, rounded up to a billionth of a dollar.

        Before the call it is unknown how much of the input is cached, so all input counts at the highest input price.
        The provider may choose the tier, so the dearest that it may choose counts.
        """
        possible = [self._most(input_tokens, output_tokens, **facts)]
        if self.long_context is not None and input_tokens > self.long_context_above:
            inner = self._inside(self.long_context)
            possible.append(inner.estimate(input_tokens=input_tokens, output_tokens=output_tokens, **facts))
        asked = facts.get("tier")
        for name, price in self.tiers.items():
            if name == asked or (asked in {None, "auto"} and name not in _BY_REQUEST) or asked == "fast":
                inner = self._inside(price)
                possible.append(inner.estimate(input_tokens=input_tokens, output_tokens=output_tokens, **facts))
        return ledger_cost(max(possible))

    def _most(self, input_tokens: int, output_tokens: int, **facts: Unpack[CallFacts]) -> Decimal:
        """Return the highest possible cost at these prices, without tiers."""
        rates, uses = self.rates, facts.get("uses", frozenset())
        sent = max(rates[name] for name in ("input", "cache_read", "cache_write", *_of(uses, "cache", "input")))
        made = max(rates[name] for name in ("output", *_of(uses, "output")))
        tokens = Price(input=sent, output=made).cost(TokenUsage(input=input_tokens, output=output_tokens))
        factor = max([Decimal(1), *self.regions.values()])
        if (region := facts.get("region")) is not None:
            factor = self.regions.get(region, Decimal(1))
        searches = _EXACT.multiply(Decimal(facts.get("searches", 0)), self.web_search or Decimal())
        return _EXACT.add(_EXACT.multiply(tokens, factor), _EXACT.scaleb(searches, -3))


def _of(uses: frozenset[str], *kinds: str) -> list[str]:
    return [name for name in uses if name.startswith(kinds)]


class Prices:
    """Prices by the name of a model."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        """Copy the table. "small-model" fits this name only, "small-*" every name that begins so, "*" every name.

        The exact name wins, then the longest beginning. Raises InvalidInput for an empty name, and for another `*`.
        """
        self._exact: dict[str, Price] = {}
        wide: dict[str, Price] = {}
        for name, price in prices.items():
            if not name or "*" in name[:-1]:
                raise InvalidInput(
                    f'a table of prices has names of models, and a * only at the end of a name ("*" fits every model), '
                    f"not {name!r}",
                    field="prices",
                )
            if name.endswith("*"):
                wide[name.removesuffix("*")] = price
            else:
                self._exact[name] = price
        self._wide = dict(sorted(wide.items(), key=lambda entry: len(entry[0]), reverse=True))

    def of(self, model: str, *, provider: str | None = None) -> Price | None:  # noqa: ARG002  # for subclasses
        """Return the price of a model; None if it is not in the table."""
        if model in self._exact:
            return self._exact[model]
        return next((price for start, price in self._wide.items() if model.startswith(start)), None)

    def cost(self, model: str, usage: TokenUsage, **facts: Unpack[CallFacts]) -> Decimal | None:
        """Return the exact cost in US dollars; None (not 0) if the model has no price."""
        price = self.of(model, provider=facts.get("provider"))
        return None if price is None else price.cost(usage, tier=facts.get("tier"), region=facts.get("region"))

    def estimate(
        self, model: str, *, input_tokens: int, output_tokens: int, **facts: Unpack[CallFacts]
    ) -> Decimal | None:
        """Return the highest possible cost of a call, rounded up; None if the model has no price."""
        price = self.of(model, provider=facts.get("provider"))
        return (
            None if price is None else price.estimate(input_tokens=input_tokens, output_tokens=output_tokens, **facts)
        )

    def unpriced(self, model: str, usage: TokenUsage, **facts: Unpack[CallFacts]) -> tuple[str, ...]:
        """Return what `cost` cannot price of a usage. The ledger marks it as `unpriced`."""
        price = self.of(model, provider=facts.get("provider"))
        return () if price is None else price.unpriced(usage, tier=facts.get("tier"), region=facts.get("region"))
