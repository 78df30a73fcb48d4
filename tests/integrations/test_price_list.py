"""The maintained list of prices, of which only exact names and aliases count."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage, calc_price, data_snapshot, types

from atlas_sdk.integrations.price_list import PriceList
from atlas_sdk.integrations.prices import Price
from atlas_sdk.integrations.usage import TokenUsage

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def price_list(**more: Any) -> PriceList:
    return PriceList(clock=lambda: NOW, **more)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "openai"),
        ("gpt-4o-2024-08-06", "openai"),
        ("gpt-4o-2024-05-13", "openai"),
        ("claude-sonnet-4-5", "anthropic"),
        ("claude-sonnet-4-5-20250929", "anthropic"),
        ("text-embedding-3-small", "openai"),
    ],
)
def test_a_listed_model_costs_what_the_list_says(model: str, provider: str) -> None:
    usage = Usage(input_tokens=1000, output_tokens=100)
    listed = calc_price(usage, model, provider_id=provider, genai_request_timestamp=NOW).total_price
    assert listed > 0
    assert price_list().cost(model, TokenUsage(input=1000, output=100), provider=provider) == listed


def test_parts_and_long_inputs_cost_what_the_list_says() -> None:
    usage = TokenUsage(
        input=150_000, cache_read=60_000, cache_write=5000, cache_write_long=7000, output=100, web_searches=3
    )
    listed = calc_price(
        Usage(
            input_tokens=222_000,
            cache_read_tokens=60_000,
            cache_write_tokens=12_000,
            cache_write_1h_tokens=7000,
            output_tokens=100,
            web_searches=3,
        ),
        "claude-sonnet-4-5",
        provider_id="anthropic",
        genai_request_timestamp=NOW,
    )
    price = price_list().of("claude-sonnet-4-5", provider="anthropic")
    assert price is not None
    assert price.long_context is not None
    assert price.cost(usage) == listed.total_price


def test_tiers_come_from_the_list() -> None:
    prices = price_list()
    assert prices.cost("claude-opus-5", TokenUsage(input=10**6), provider="anthropic", tier="fast") == 10
    assert prices.cost("claude-opus-5", TokenUsage(input=10**6), provider="anthropic") == 5
    assert prices.cost("gpt-4.1", TokenUsage(input=10**6), provider="openai", tier="priority") == Decimal("3.5")


@pytest.mark.parametrize(
    "model", ["claude-sonnet-4-5-pro", "claude-opus-4-8.5", "gpt-5-nano-x", "gpt-4o-audio-preview-2", "ada-2", ""]
)
def test_a_neighbours_price_is_refused(model: str) -> None:
    assert price_list().of(model) is None


def test_the_list_itself_would_answer_with_a_neighbour() -> None:
    answered = calc_price(Usage(input_tokens=1), "claude-sonnet-4-5-pro", provider_id="anthropic")
    assert answered.model.id == "claude-sonnet-4-5"


def test_a_listed_price_of_an_unknown_kind_is_marked() -> None:
    prices, usage = price_list(), TokenUsage(input=10)
    listed = calc_price(Usage(input_tokens=10), "sonar-pro", provider_id="perplexity").model_price
    assert vars(listed)["requests_kcount"] > 0
    assert prices.unpriced("sonar-pro", usage, provider="perplexity") == ("requests_kcount",)
    assert prices.unpriced("gpt-4o", usage, provider="openai") == ()
    assert prices.unpriced("claude-sonnet-4-5", TokenUsage(input=300_000), provider="anthropic") == ()


def test_own_prices_have_precedence() -> None:
    prices = price_list(prices={"gpt-4o": Price(1, 1), "mine-*": Price(2, 2)})
    assert prices.cost("gpt-4o", TokenUsage(input=10**6), provider="openai") == 1
    assert prices.cost("mine-1", TokenUsage(input=10**6), provider="openai") == 2


def test_the_bill_may_come_from_another_company() -> None:
    model = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    assert price_list().of(model, provider="anthropic") is None
    assert price_list().of("gpt-4o", provider="anthropic") is None
    assert price_list(provider="openai").of("gpt-4o", provider="anthropic") is not None


def test_a_price_is_read_again_when_it_may_have_changed() -> None:
    clock = [datetime(2025, 6, 9, 23, 59, 30, tzinfo=UTC)]
    prices = PriceList(clock=lambda: clock[0])
    usage = TokenUsage(input=10**6)
    assert prices.cost("o3", usage, provider="openai") == 10
    clock[0] = datetime(2025, 6, 10, 0, 1, tzinfo=UTC)
    assert prices.cost("o3", usage, provider="openai") == 2


def test_many_unknown_names_are_not_kept_for_ever() -> None:
    prices = price_list()
    for number in range(2100):
        assert prices.of(f"unknown-{number}", provider="voyageai") is None
    assert len(prices._found) <= 1000


def test_every_listed_price_can_be_read() -> None:
    prices, found = price_list(), 0
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            if provider.id in {"openai", "anthropic"} and isinstance(model.match, types.ClauseEquals):
                found += prices.of(model.match.equals, provider=provider.id) is not None
    assert found > 20
