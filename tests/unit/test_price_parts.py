"""Prices of the parts of usage beside text: long cache writes, audio, images, searches, tiers, regions, long inputs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from attrs import fields
from hypothesis import given
from hypothesis import strategies as st

from atlas_sdk import InvalidInput
from atlas_sdk.integrations.prices import Price, Prices, ledger_cost
from atlas_sdk.integrations.usage import TokenUsage

MILLION = 1_000_000
FULL = Price(
    1,
    2,
    "0.1",
    "1.25",
    cache_write_long=3,
    input_audio=4,
    input_image=5,
    output_audio=6,
    output_image=7,
    web_search=10,
    audio_minute="0.6",
)


@pytest.mark.parametrize(
    ("part", "cost"),
    [
        ("input", 1),
        ("output", 2),
        ("cache_read", "0.1"),
        ("cache_write", "1.25"),
        ("cache_write_long", 3),
        ("input_audio", 4),
        ("input_image", 5),
        ("output_audio", 6),
        ("output_image", 7),
        ("other", 7),
        ("web_searches", 10_000),
        ("audio_seconds", 10_000),
    ],
)
def test_every_part_has_a_price(part: str, cost: Any) -> None:
    usage = TokenUsage(**{part: MILLION})
    assert FULL.cost(usage) == Decimal(cost)
    assert FULL.unpriced(usage) == ()


def test_the_test_above_has_every_part() -> None:
    cases = test_every_part_has_a_price.pytestmark[0].args[1]
    assert {case[0] for case in cases} == {part.name for part in fields(TokenUsage)}


def test_a_part_without_a_price_costs_the_highest_that_is_known() -> None:
    price = Price(3, 15)
    assert price.cost(TokenUsage(cache_write_long=MILLION)) == 6, "Anthropic's factor for an hour is 2"
    assert price.cost(TokenUsage(input_image=MILLION)) == 3
    for part in ("input_audio", "output_audio", "output_image", "other"):
        assert price.cost(TokenUsage(**{part: MILLION})) == 15
    assert price.unpriced(
        TokenUsage(input_audio=1, output_audio=1, output_image=1, web_searches=1, audio_seconds=1)
    ) == (
        "input_audio",
        "output_audio",
        "output_image",
        "web_search",
        "audio_minute",
    )


def test_tiers_are_whole_prices() -> None:
    price = Price(1, 2, tiers={"priority": Price(2, 4), "flex": Price("0.5", 1)})
    usage = TokenUsage(input=MILLION, output=MILLION)
    assert [price.cost(usage, tier=tier) for tier in (None, "default", "priority", "flex", "ultra")] == [
        3, 3, 6, Decimal("1.5"), 3,
    ]  # fmt: skip
    assert price.unpriced(usage, tier="ultra") == ("tier=ultra",)
    assert price.unpriced(usage, tier="flex") == price.unpriced(usage, tier="default") == ()


def test_a_region_multiplies_tokens_only() -> None:
    price = Price(1, 2, web_search=10, regions={"us": "1.1"})
    usage = TokenUsage(input=MILLION, web_searches=1000)
    assert price.cost(usage, region="us") == Decimal("11.1")
    assert price.unpriced(usage, region="mars") == ("region=mars",)
    assert price.unpriced(usage, region="global") == ()


def test_long_inputs_have_a_price_of_their_own() -> None:
    price = Price(1, 2, long_context=Price(2, 3), long_context_above=1000)
    assert price.cost(TokenUsage(input=600, cache_read=400, output=10)) == Decimal(1020) / MILLION
    assert price.cost(TokenUsage(input=600, cache_read=401, output=10)) == Decimal(2032) / MILLION
    assert price.estimate(input_tokens=1000, output_tokens=10) == Decimal(1020) / MILLION
    assert price.estimate(input_tokens=1001, output_tokens=10) == Decimal(2032) / MILLION


def test_the_estimate_covers_what_the_request_may_use() -> None:
    def estimate(price: Price, **facts: Any) -> Decimal:
        return price.estimate(input_tokens=MILLION, output_tokens=MILLION, **facts)

    assert estimate(FULL) == Decimal("3.25")
    assert estimate(FULL, uses=frozenset({"cache_write_long"})) == 5
    assert estimate(FULL, uses=frozenset({"output_audio"})) == Decimal("7.25")
    assert estimate(FULL, uses=frozenset({"input_audio", "output_image"})) == 11
    assert estimate(FULL, searches=5) == Decimal("3.30")
    tiers = Price(1, 1, tiers={"priority": Price(2, 2), "flex": Price(0, 0), "fast": Price(9, 9), "batch": Price(7, 7)})
    names = (None, "auto", "default", "standard_only", "flex", "priority", "fast")
    assert [estimate(tiers, tier=tier) for tier in names] == [4, 4, 2, 2, 2, 4, 18]
    regions = Price(1, 1, regions={"us": "1.5", "eu": "0.5"})
    assert [estimate(regions, region=region) for region in (None, "us", "eu", "mars")] == [3, 3, 1, 2]


counts = st.integers(min_value=0, max_value=10**9)
dollars = st.decimals(min_value=0, max_value=1000, places=4, allow_nan=False)
prices = st.builds(
    Price,
    dollars,
    dollars,
    st.none() | dollars,
    st.none() | dollars,
    cache_write_long=st.none() | dollars,
    output_audio=dollars,
)


@given(
    price=prices,
    priority=prices,
    above=prices,
    parts=st.tuples(counts, counts, counts, counts),
    made=st.tuples(counts, counts),
    tier=st.sampled_from([None, "priority", "default"]),
)
def test_no_cost_is_above_its_estimate(
    price: Price, priority: Price, above: Price, parts: Any, made: Any, tier: str | None
) -> None:
    names = ("input", "cache_read", "cache_write", "cache_write_long")
    usage = TokenUsage(**dict(zip(names, parts, strict=True)), output=made[0], output_audio=made[1])
    whole = Price(
        price.input,
        price.output,
        price.cache_read,
        price.cache_write,
        cache_write_long=price.cache_write_long,
        output_audio=price.output_audio,
        tiers={"priority": priority},
        long_context=above,
    )
    uses = frozenset({"cache_write_long", "output_audio"})
    most = whole.estimate(input_tokens=sum(parts), output_tokens=sum(made), uses=uses)
    assert whole.cost(usage, tier=tier) <= most


def test_a_small_cost_is_never_zero_in_the_ledger() -> None:
    assert ledger_cost(Decimal("0.0000000004")) == Decimal("0.000000001")
    assert ledger_cost(Decimal("0.0000000010")) == Decimal("0.000000001")
    assert ledger_cost(Decimal("0.0000000011")) == Decimal("0.000000002")
    assert ledger_cost(Decimal(0)) == 0


def test_prices_get_all_facts_of_a_call() -> None:
    seen: dict[str, Any] = {}

    class Mine(Prices):
        def of(self, model: str, *, provider: str | None = None) -> Price | None:
            seen.update(model=model, provider=provider)
            return super().of(model)

    mine = Mine({"m": FULL})
    assert mine.cost("m", TokenUsage(input=MILLION), provider="openai", raw={"x": 1}, request={}) == 1
    assert seen == {"model": "m", "provider": "openai"}
    assert mine.unpriced("m", TokenUsage(), tier="odd") == ("tier=odd",)
    assert mine.unpriced("unknown", TokenUsage(), tier="odd") == ()


@pytest.mark.parametrize("wrong", [0.1, "NaN", -1, True])
@pytest.mark.parametrize("name", ["cache_write_long", "input_audio", "output_image", "web_search", "audio_minute"])
def test_wrong_prices_of_parts_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(InvalidInput):
        Price(1, 1, **{name: wrong})
    with pytest.raises(InvalidInput):
        Price(1, 1, regions={"us": wrong})
