"""Prices from `genai-prices`, a list that pydantic maintains. It needs the extra `prices`.

::

    prices = PriceList({"my-model": Price(input=1, output=4)})        # your own prices have precedence

The list of the installed package is used, or a newer one that `genai_prices.UpdatePrices` has downloaded. Update the
package when providers change their prices.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

from genai_prices import data_snapshot, types

from atlas_sdk.integrations.prices import Price, Prices

__all__ = ["PriceList"]

#: The endings of a name that stand for a version of the same model.
_VERSION = re.compile(r"(?:[-@]\d{8}|-\d{4}-\d{2}-\d{2}|-latest)")
#: A price is read again after this time, because some prices change with the time of day.
_KEPT = timedelta(minutes=1)
_KEPT_MOST = 1000
#: The resolution of a price per minute that is given per hour.
_FINE = Decimal("1e-12")
#: The names of prices in the list, and in `Price`.
_NAMES = {
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_long",
    "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "web_searches_kcount": "web_search",
}
#: Prices that are read under another name, or need no mark: cached audio and images are charged like others, which cost
#: more, and every file search is marked.
_COVERED = frozenset(
    {
        *("input_mtok", "output_mtok", "audio_hours", "input_audio_hours"),
        *("cache_audio_read_mtok", "cache_image_read_mtok", "storage_searches_kcount"),
    }
)


def _now() -> datetime:
    return datetime.now(UTC)


class PriceList(Prices):
    """The prices of `genai-prices`, for exact names and aliases of models only.

    The list itself finds a price for many unknown names, by the beginning of a neighbour's name. This class ignores
    such a price, unless the rest of the name is a date or "latest".
    """

    def __init__(
        self,
        prices: Mapping[str, Price] | None = None,
        *,
        provider: str | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Use the list. `prices` are your own, which have precedence.

        `provider` is the list's name of the company that sends the bill, such as "aws", "azure" or "openrouter"; the
        default is the provider of the client library. Some prices depend on the time, which `clock` tells.
        """
        super().__init__(prices or {})
        self._provider = provider
        self._clock = clock
        self._found: dict[tuple[str, str | None], tuple[object, datetime, Price | None]] = {}

    def of(self, model: str, *, provider: str | None = None) -> Price | None:
        """Return the price of a model; None if the list does not have exactly this model."""
        own = super().of(model)
        if own is not None:
            return own
        key, now, snapshot = (model.lower(), self._provider or provider), self._clock(), data_snapshot.get_snapshot()
        kept = self._found.get(key)
        if kept is not None and kept[0] is snapshot and abs(now - kept[1]) < _KEPT:
            return kept[2]
        found = _find(*key, snapshot)
        price = None if found is None else _whole_price(found, now)
        if len(self._found) >= _KEPT_MOST:
            # Names come from requests, so they are not bounded.
            self._found.clear()
        self._found[key] = (snapshot, now, price)
        return price


def _find(model: str, provider_id: str | None, snapshot: data_snapshot.DataSnapshot) -> types.ModelInfo | None:
    for provider in snapshot.providers:
        if provider_id is None or provider.id == provider_id:
            models = provider.models
            exact = next((one for one in models if one.id == model or _equals(one.match, model)), None)
            found = exact or next((one for one in models if _dated(one.match, model)), None)
            if found is not None:
                return found
    return None


def _clauses(match: Any) -> Iterator[Any]:
    """Yield the alternatives of a match. A conjunction is none: its parts alone do not match."""
    if isinstance(match, types.ClauseOr):
        for part in match.or_:
            yield from _clauses(part)
    else:
        yield match


def _equals(match: Any, model: str) -> bool:
    return any(isinstance(clause, types.ClauseEquals) and clause.is_match(model) for clause in _clauses(match))


def _dated(match: Any, model: str) -> bool:
    """Return whether the model is a version of a listed one."""
    for clause in _clauses(match):
        if isinstance(clause, types.ClauseStartsWith):
            start = clause.starts_with
            if model == start or (model.startswith(start) and _VERSION.fullmatch(model.removeprefix(start))):
                return True
        elif isinstance(clause, types.ClauseRegex):
            whole = clause.regex.startswith("^") and clause.regex.endswith("$")
            if whole and clause.is_match(model):
                return True
    return False


def _whole_price(model: types.ModelInfo, now: datetime) -> Price | None:
    normal = _price(model.get_prices(now))
    if normal is None:
        return None
    tiers: dict[str, Price] = {}
    for variant in model.price_variants or ():
        for kind, name in variant.when.items():
            if kind in {"service_tier", "speed", "processing"} and name != "default" and len(variant.when) == 1:
                price = _price(model.get_prices(now, variant.when))
                if price is not None:
                    tiers.setdefault(name, price)
    return _price(model.get_prices(now), tiers=tiers)


def _price(listed: types.ModelPrice, *, tiers: Mapping[str, Price] | None = None) -> Price | None:
    """Return a listed price; None if it has no price for input tokens."""
    starts = [price.tiers[0].start for price in vars(listed).values() if isinstance(price, types.TieredPrices)]
    values = {name: _base(price) for name, price in vars(listed).items()}
    if values.get("input_mtok") is None and not any("hours" in name for name in values):
        return None
    if not starts:
        return _of_values(values, tiers=tiers or {})
    # A threshold of the list counts all input. With several, the dearest price counts from the first one on.
    above = {name: _highest(price) for name, price in vars(listed).items()}
    return _of_values(values, tiers=tiers or {}, long_context=_of_values(above), long_context_above=min(starts))


def _of_values(values: Mapping[str, Decimal | None], **more: Any) -> Price:
    parts: dict[str, Any] = {ours: values.get(theirs) for theirs, ours in _NAMES.items()}
    hours = values.get("audio_hours") or values.get("input_audio_hours")
    return Price(
        input=values.get("input_mtok") or Decimal(),
        output=values.get("output_mtok") or Decimal(),
        unread=tuple(sorted(name for name, price in values.items() if price and name not in _NAMES.keys() | _COVERED)),
        audio_minute=None if hours is None else (hours / 60).quantize(_FINE, ROUND_CEILING),
        **parts,
        **more,
    )


def _base(price: Any) -> Decimal | None:
    return price.base if isinstance(price, types.TieredPrices) else price


def _highest(price: Any) -> Decimal | None:
    return max(tier.price for tier in price.tiers) if isinstance(price, types.TieredPrices) else price
