"""The cost that a call is charged, and reserved before, for every part of its usage."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from anthropic.types.beta import BetaMessage
from attrs import evolve
from metered_calls import ASK, PRICES, TEXT, answered, call, chat, chat_events, streamed, tokens
from openai.types.responses import ResponseOutputItemAddedEvent
from provider_stub import completion, message, response, response_usage

from atlas_sdk import InvalidInput
from atlas_sdk.integrations.anthropic.messages import Messages
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.openai.media import Embeddings, Images, Transcriptions
from atlas_sdk.integrations.openai.responses import Responses
from atlas_sdk.integrations.prices import Price, Prices
from atlas_sdk.integrations.usage import TokenUsage


def test_compaction_is_charged() -> None:
    none = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    rounds = [
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500, **none},
        {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000, **none},
    ]
    told = {"input_tokens": 23_000, "output_tokens": 1_000, "iterations": rounds}
    answer = BetaMessage.model_validate({**message(), "usage": told})
    entry = answered(Messages(), ASK, answer, prices=PRICES)
    assert entry.amount == 207_500
    assert entry.cost == Decimal(203_000 + 2 * 4_500) / 1_000_000


def test_lines_of_other_models_have_their_own_price() -> None:
    none = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    advice = {"type": "advisor_message", "input_tokens": 100, "output_tokens": 10, **none}
    told = {"input_tokens": 10, "output_tokens": 5, "iterations": [{**advice, "model": "dear"}]}
    prices = Prices({"m": Price(1, 2), "dear": Price(100, 200)})
    entry = answered(Messages(), ASK, {**message(model="m"), "usage": told}, prices=prices)
    assert entry.cost == Decimal(20 + 12_000) / 1_000_000
    assert "unpriced" not in entry.meta
    told["iterations"] = [{**advice, "model": "unlisted"}]
    entry = answered(Messages(), ASK, {**message(model="m"), "usage": told}, prices=prices)
    assert entry.meta["unpriced"] == ["model=unlisted"]
    assert entry.cost == Decimal(20 + 120) / 1_000_000


def test_a_long_cache_write_a_search_a_tier_and_a_region_have_their_price() -> None:
    price = Price(
        1,
        2,
        cache_write_long=8,
        web_search=10,
        tiers={"priority": Price(10, 20, cache_write_long=80, web_search=10)},
        regions={"us": 2},
    )
    usage = {
        "input_tokens": 100,
        "output_tokens": 10,
        "cache_creation_input_tokens": 1000,
        "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 0},
        "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1},
    }
    prices = Prices({"m": price})
    entry = answered(Messages(), ASK, {**message(), "usage": usage}, prices=prices)
    assert entry.cost == Decimal(100 + 20 + 8000) / 1_000_000 + Decimal("0.03")
    assert (entry.amount, entry.meta["cache_write_long"], entry.meta["web_searches"]) == (1110, 1000, 3)
    entry = answered(Messages(), ASK, {**message(), "usage": {**usage, "service_tier": "priority"}}, prices=prices)
    assert entry.cost == Decimal(1000 + 200 + 80_000) / 1_000_000 + Decimal("0.03")
    assert entry.meta["tier"] == "priority"
    entry = answered(Messages(), ASK, {**message(), "usage": {**usage, "inference_geo": "us"}}, prices=prices)
    assert entry.cost == Decimal(2 * (100 + 20 + 8000)) / 1_000_000 + Decimal("0.03")
    entry = answered(Messages(), ASK, {**message(), "usage": {**usage, "speed": "fast"}}, prices=prices)
    assert (entry.meta["tier"], entry.meta["unpriced"]) == ("fast", ["tier=fast"])


def test_tiers_and_long_contexts_inherit_regions_and_searches() -> None:
    price = Price(3, 15, web_search=10, tiers={"priority": Price(6, 30)}, regions={"us": "1.1"})
    usage = TokenUsage(input=10**6, web_searches=3)
    assert price.cost(usage, tier="priority", region="us") == Decimal("6.63")
    assert price.unpriced(usage, tier="priority", region="us") == ()
    sizes = {"input_tokens": 10**6, "output_tokens": 0}
    assert price.estimate(**sizes, tier="priority", region="us", searches=3) == Decimal("6.63")
    long = Price(3, 15, web_search=10, audio_minute=6, long_context=Price(6, "22.5"), regions={"us": "1.1"})
    assert long.cost(evolve(usage, audio_seconds=10), region="us") == Decimal("7.63")
    assert long.estimate(**sizes, region="us", searches=3) == Decimal("6.63")
    own = Price(3, 15, web_search=10, regions={"us": 2}, long_context=Price(6, 0, web_search=0, regions={"us": 1}))
    assert own.cost(usage, region="us") == 6


def test_what_a_tier_or_a_long_context_does_not_price_is_marked() -> None:
    price = Price(1, 2, output_audio=80, tiers={"priority": Price(2, 4)}, long_context=Price(2, 4))
    usage = TokenUsage(output_audio=1)
    assert price.unpriced(usage) == ()
    assert price.unpriced(usage, tier="priority", region="us") == ("output_audio", "region=us")
    assert price.unpriced(evolve(usage, input=200_001)) == ("output_audio",)


def test_the_reservation_covers_what_the_request_asks_for() -> None:
    def reserved(**more: Any) -> Decimal:
        made, _ = call(Messages(), {**ASK, **more}, prices=prices, input_tokens=lambda body: 1_000_000)
        return made.reservation_options["cost"]  # type: ignore[return-value]  # set by the call

    most = {"priority": Price(2, 0), "fast": Price(9, 0)}
    prices = Prices({"m": Price(1, 0, cache_write_long=5, web_search=10, tiers=most)})
    assert reserved() == 2, "the provider may choose the priority tier"
    assert reserved(service_tier="standard_only") == 1
    assert reserved(speed="fast") == 9
    hour = {"type": "ephemeral", "ttl": "1h"}
    assert reserved(cache_control=hour, service_tier="standard_only") == 5
    for part in ("system", "messages"):
        blocks = [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": hour}]}]
        given = blocks if part == "messages" else blocks[0]["content"]
        assert reserved(**{part: given}, service_tier="standard_only") == 5
    assert reserved(tools=[{"name": "f", "cache_control": {**hour, "ttl": "5m"}}], service_tier="standard_only") == 1
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    assert reserved(tools=[search], service_tier="standard_only") == Decimal("1.05")


def test_audio_output_is_refused_without_a_price() -> None:
    body = {**ASK, "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "mp3"}}
    made, _ = call(chat(), body, prices=PRICES)
    with pytest.raises(InvalidInput, match="no output_audio"):
        assert made.reservation_options
    priced = Prices({"m": Price(1, 2, output_audio=80)})
    usage = tokens(10, 50, completion_tokens_details={"audio_tokens": 40, "text_tokens": 10})
    entry = answered(chat(), body, completion(usage=usage), prices=priced)
    assert entry.cost == Decimal(10 + 20 + 40 * 80) / 1_000_000
    assert entry.granted_cost >= Decimal(1000 * 80) / 1_000_000
    assert answered(chat(), body, completion(usage=usage)).amount == 60, "tokens alone need no price"


def test_output_that_no_text_shows_is_charged_in_full_at_its_price() -> None:
    body = {**ASK, "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
    priced = Prices({"m": Price(0, 2, output_audio=80, output_image=40)})
    entry = streamed(chat(), body, chat_events("Hi", usages={})[:1], cut=True, prices=priced)
    assert (entry.meta["output_audio"], entry.cost) == (1000, Decimal(80_000) / 1_000_000)
    entry = streamed(Images(edits=False), {"model": "m", "prompt": "x"}, [], cut=True, prices=priced)
    assert (entry.meta["output_image"], entry.cost) == (8192, Decimal(8192 * 40) / 1_000_000)


def test_without_usage_the_requested_tier_counts() -> None:
    prices = Prices({"m": Price(1, 2, tiers={"priority": Price(10, 20)})})
    ask = {**ASK, "service_tier": "priority"}
    entry = streamed(chat(), ask, chat_events(TEXT, usages={}), prices=prices)
    sent = input_bound({**ask, "stream": True})
    assert (entry.meta["tier"], entry.cost) == ("priority", Decimal(10 * sent + 20 * 500) / 1_000_000)
    entry = streamed(chat(), {**ask, "service_tier": "auto"}, chat_events(TEXT, usages={}), prices=prices)
    assert "tier" not in entry.meta


def test_a_part_without_a_price_may_be_refused() -> None:
    made, _ = call(Messages(), {**ASK, "speed": "fast"}, prices=PRICES, unknown_price="refuse")
    with pytest.raises(InvalidInput, match="tier=fast"):
        assert made.reservation_options


def test_the_smallest_cost_is_not_zero() -> None:
    cheap = Prices({"m": Price("0.0004", 0)})
    entry = answered(Messages(), ASK, message(usage={"input_tokens": 1, "output_tokens": 0}), prices=cheap)
    assert entry.cost == Decimal("0.000000001")


def test_prices_get_the_raw_usage_and_the_request() -> None:
    seen: list[Any] = []

    class Mine(Prices):
        def cost(self, model: str, usage: Any, **facts: Any) -> Decimal | None:
            seen.append((model, facts))
            return super().cost(model, usage, **facts)

    usage = tokens(10, 5, cost=0.25)
    told = {**completion(usage=usage), "service_tier": "flex"}
    answered(chat(), ASK, told, prices=Mine({"m": Price(1, 1)}))
    model, facts = seen[0]
    assert (model, facts["provider"], facts["tier"], facts["request"]) == ("m", "openai", "flex", ASK)
    assert facts["raw"]["cost"] == 0.25


def test_embeddings_images_and_transcriptions_are_charged_their_usage() -> None:
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    entry = answered(
        Embeddings(), {"model": "m", "input": ["Hi", "you"]}, {"model": "m", "usage": usage}, prices=PRICES
    )
    assert (entry.amount, entry.cost) == (8, Decimal(8) / 1_000_000)
    assert entry.granted == input_bound({"model": "m", "input": ["Hi", "you"]})
    usage = {
        "input_tokens": 50,
        "output_tokens": 4000,
        "total_tokens": 4050,
        "input_tokens_details": {"text_tokens": 50},
    }
    prices = Prices({"m": Price(5, 10, output_image=40)})
    entry = answered(Images(edits=False), {"model": "m", "prompt": "a cat"}, {"usage": usage}, prices=prices)
    assert (entry.amount, entry.cost) == (4050, Decimal(250 + 160_000) / 1_000_000)
    assert entry.granted >= 8192
    told = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    told["input_token_details"] = {"audio_tokens": 14, "text_tokens": 0}
    prices = Prices({"m": Price(1, 2, input_audio=6, audio_minute="0.006")})
    bound = {"input_tokens": lambda body: 5000}
    entry = answered(Transcriptions(), {"model": "m"}, {"text": "Hi", "usage": told}, prices=prices, **bound)
    assert (entry.amount, entry.cost) == (59, Decimal(14 * 6 + 90) / 1_000_000)
    told = {"type": "duration", "seconds": 89.5}
    entry = answered(Transcriptions(), {"model": "m"}, {"text": "Hi", "usage": told}, prices=prices, **bound)
    assert (entry.meta["audio_seconds"], entry.cost) == (90, Decimal("0.009"))


def test_tools_of_a_response_are_charged() -> None:
    tools = {
        "web_search": {"num_requests": 2},
        "image_gen": {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        },
    }
    answer = {**response(usage=response_usage(100, 20)), "tool_usage": tools, "service_tier": "priority"}
    prices = Prices({"m": Price(1, 2, web_search=10, tiers={"priority": Price(2, 4, web_search=10)})})
    entry = answered(Responses(), {"model": "m", "input": "Hi", "max_output_tokens": 50}, answer, prices=prices)
    assert entry.cost == Decimal(200 + 80) / 1_000_000 + Decimal("0.02")
    assert (entry.amount, entry.meta["tier"], entry.meta["web_searches"]) == (120, "priority", 2)


def test_tools_of_a_response_without_their_usage_are_counted_or_marked() -> None:
    def acted(kind: str) -> dict[str, Any]:
        return {"id": "w", "type": "web_search_call", "status": "completed", "action": {"type": kind, "query": "x"}}

    others = [{"id": "x", "type": kind} for kind in ("file_search_call", "code_interpreter_call")]
    drawn = {"id": "i", "type": "image_generation_call", "status": "completed"}
    shown = [acted("search"), acted("open_page"), acted("search"), *others, drawn]
    answer = response(usage=response_usage(100, 20))
    answer["output"] += shown
    prices = Prices({"m": Price(1, 2, web_search=10)})
    ask = {"model": "m", "input": "Hi", "max_output_tokens": 50}
    entry = answered(Responses(), ask, answer, prices=prices)
    assert entry.cost == Decimal(140) / 1_000_000 + Decimal("0.02")
    assert (entry.meta["web_searches"], entry.meta["estimated"]) == (2, True)
    assert entry.meta["unpriced"] == ["code_interpreter_call", "file_search_call", "image_generation_call"]
    entry = answered(Responses(), ask, {**answer, "tool_usage": {"image_gen": {"output_tokens": 9}}}, prices=prices)
    assert entry.meta["web_searches"] == 2
    assert "image_generation_call" not in entry.meta["unpriced"]
    entry = answered(Responses(), ask, {**answer, "tool_usage": {"web_search": {"num_requests": 5}}}, prices=prices)
    assert entry.meta["web_searches"] == 5
    item = ResponseOutputItemAddedEvent.model_validate(
        {"type": "response.output_item.added", "output_index": 0, "sequence_number": 0, "item": acted("search")}
    )
    entry = streamed(Responses(), ask, [item], cut=True, prices=prices)
    assert (entry.meta["web_searches"], entry.meta["cut"]) == (1, True)


@pytest.mark.parametrize("options", [{}, {"search_context_size": "low"}])
def test_a_chat_that_searches_pays_one_search(options: dict[str, Any]) -> None:
    ask = {**ASK, "web_search_options": options}
    with pytest.raises(InvalidInput, match="web_search_options"):
        call(chat(), ask, prices=PRICES)
    bound = {"input_tokens": lambda body: 0}
    prices = Prices({"m": Price(0, 0, web_search=10)})
    entry = answered(chat(), ask, completion(), prices=prices, **bound)
    assert (entry.granted_cost, entry.cost, entry.meta["web_searches"]) == (Decimal("0.01"), Decimal("0.01"), 1)
    entry = streamed(chat(), ask, chat_events(TEXT, usages={}), prices=prices, **bound)
    assert entry.cost == Decimal("0.01")
    assert answered(chat(), ask, completion(), prices=PRICES, **bound).meta["unpriced"] == ["web_search"]
    refusing, _ = call(chat(), ask, prices=PRICES, unknown_price="refuse", **bound)
    with pytest.raises(InvalidInput, match="has no web_search"):
        assert refusing.reservation_options


def test_a_transcription_as_plain_text_is_output() -> None:
    bound = {"input_tokens": lambda body: 50}
    entry = answered(Transcriptions(), {"model": "m", "response_format": "text"}, "Grüße", prices=PRICES, **bound)
    assert (entry.amount, entry.cost) == (57, Decimal(50 + 14) / 1_000_000)
    assert entry.meta["estimated"] is True


def test_audio_by_the_minute_needs_no_price_of_audio_tokens() -> None:
    options: dict[str, Any] = {"unknown_price": "refuse", "input_tokens": lambda body: 50}
    told = {"type": "duration", "seconds": 60}
    prices = Prices({"m": Price(0, 0, audio_minute="0.006")})
    entry = answered(Transcriptions(), {"model": "m"}, {"text": "Hi", "usage": told}, prices=prices, **options)
    assert (entry.granted_cost, entry.cost) == (0, Decimal("0.006"))
    assert "unpriced" not in entry.meta
    made, _ = call(Transcriptions(), {"model": "m"}, prices=PRICES, **options)
    with pytest.raises(InvalidInput, match="has no input_audio"):
        assert made.reservation_options
