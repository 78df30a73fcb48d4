"""What a call is charged, for every shape of answer: the real endpoints and guards, without a network or a database."""

from __future__ import annotations

import logging
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.types import RawMessageStreamEvent
from anthropic.types.beta import BetaMessage
from memory_quotas import USER, MemoryQuotas
from openai.types.chat import ChatCompletionChunk
from provider_stub import chunks, completion, message, message_events, response, response_usage
from pydantic import TypeAdapter

from atlas_sdk import InvalidInput, QuotaExceeded
from atlas_sdk.integrations.anthropic.messages import Messages
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.metering import call as metered
from atlas_sdk.integrations.metering.call import MeteredCall
from atlas_sdk.integrations.metering.endpoint import Tally
from atlas_sdk.integrations.metering.options import read_options
from atlas_sdk.integrations.openai.chat import ChatCompletions
from atlas_sdk.integrations.openai.media import Embeddings, Images, Transcriptions
from atlas_sdk.integrations.openai.responses import Responses
from atlas_sdk.integrations.prices import Price, Prices

ASK: dict[str, Any] = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "Hi"}]}
PRICES = Prices({"m": Price(1, 2, cache_write=1)})
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def call(endpoint: Any, body: dict[str, Any], **options: Any) -> tuple[MeteredCall, MemoryQuotas]:
    quotas = MemoryQuotas(options.pop("limit", None))
    return MeteredCall(read_options(quotas, USER, options), endpoint, body), quotas


def answered(endpoint: Any, body: dict[str, Any], answer: Any, **options: Any) -> SimpleNamespace:
    """Return the charge of a complete answer."""
    made, quotas = call(endpoint, body, **options)
    with quotas.guard(USER, **made.reservation_options) as guard:
        made.granted(guard)
        made.answered(guard, answer)
    return quotas.entry


def streamed(endpoint: Any, body: dict[str, Any], events: Any, *, cut: bool = False, **options: Any) -> SimpleNamespace:
    """Return the charge of a stream."""
    made, quotas = call(endpoint, {**body, "stream": True}, **options)
    tally = Tally()
    with quotas.guard(USER, **made.reservation_options) as guard:
        made.granted(guard)
        for event in events:
            endpoint.see(tally, event)
            made.progress(guard, tally)
        made.ended(guard, tally, cut=cut)
    return quotas.entry


def chat(**options: Any) -> ChatCompletions:
    return ChatCompletions(**{"asks_usage": True, "compatible": False, **options})


def chat_events(*texts: str, usages: dict[int, Any], **more: Any) -> list[ChatCompletionChunk]:
    """Return chunks, some with a usage."""
    events = [event for _, event in chunks(*texts, **more) if event != "[DONE]"]
    return [
        ChatCompletionChunk.model_validate({**event, **({"usage": usages[at]} if at in usages else {})})
        for at, event in enumerate(events)
    ]


def tokens(sent: int, made: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made, **more}


TEXT = "x" * 500
BOUND = input_bound({**ASK, "stream": True})


def test_usage_in_the_first_chunk_is_not_final() -> None:
    entry = streamed(chat(), ASK, chat_events(TEXT, usages={0: tokens(9, 0)}))
    assert entry.amount == 9 + 500
    assert entry.meta["estimated"] is True


def test_the_larger_of_told_and_seen_is_charged() -> None:
    entry = streamed(chat(), ASK, chat_events("Hello", usages={0: tokens(9, 70)}), cut=True)
    assert entry.amount == 9 + 70
    assert (entry.meta["estimated"], entry.meta["cut"]) == (True, True)


@pytest.mark.parametrize("at", [1, 2])
def test_usage_with_the_finish_or_after_it_is_final(at: int) -> None:
    events = chat_events("Hello", usages={0: tokens(9, 1), 1: tokens(9, 3), at: tokens(9, 4)}, usage=tokens(9, 4))
    entry = streamed(chat(), ASK, events[: at + 1])
    assert entry.amount == 13
    assert "estimated" not in entry.meta


def test_usage_of_one_of_several_answers_is_not_final() -> None:
    events = chat_events("Hello", usages={1: tokens(9, 1)})
    entry = streamed(chat(), {**ASK, "n": 2}, events)
    assert entry.amount == 9 + 5
    assert entry.meta["estimated"] is True


def test_zero_beside_a_text_is_unknown() -> None:
    entry = answered(chat(), ASK, completion("y" * 900, usage=tokens(0, 0)), prices=PRICES)
    bound = input_bound(ASK)
    assert bound + 900 <= entry.amount <= bound + 920, "the bytes of the text, and of the role"
    assert entry.meta["estimated"] is True
    assert entry.cost > 0
    entry = streamed(chat(), ASK, chat_events(TEXT, usages={}, usage=tokens(0, 0)))
    assert entry.amount == BOUND + 500
    entry = answered(Messages(), ASK, message("y" * 900, usage={"input_tokens": 0, "output_tokens": 0}))
    assert bound + 900 <= entry.amount <= bound + 920


@pytest.mark.parametrize(("told", "expected"), [((9, 0), 9 + 500), ((0, 7), BOUND + 7)])
def test_a_zero_beside_a_text_is_unknown_by_itself(told: tuple[int, int], expected: int) -> None:
    entry = streamed(chat(), ASK, chat_events(TEXT, usages={}, usage=tokens(*told)))
    assert (entry.amount, entry.meta["estimated"]) == (expected, True)


def test_zero_without_a_text_is_zero() -> None:
    entry = answered(chat(), ASK, completion("", usage=tokens(9, 0)))
    assert (entry.amount, "estimated" in entry.meta) == (9, False)


def test_an_answer_without_usage_is_charged_by_its_bytes() -> None:
    entry = answered(chat(), ASK, {**completion("y" * 900), "usage": None})
    assert input_bound(ASK) + 900 <= entry.amount <= input_bound(ASK) + 920
    assert entry.meta["estimated"] is True
    most = input_bound({**ASK, "reasoning_effort": "high"}) + 1000
    assert answered(chat(), {**ASK, "reasoning_effort": "high"}, {**completion("y"), "usage": None}).amount == most


def test_no_estimate_is_above_the_limit_of_the_output() -> None:
    assert streamed(chat(), {**ASK, "max_tokens": 10}, chat_events(TEXT, usages={})).amount < BOUND + 11


def test_an_answer_with_neither_usage_nor_output_is_charged_its_reservation() -> None:
    nothing = {**response(status="failed"), "output": []}
    body = {"model": "m", "input": "Hi", "max_output_tokens": 50}
    assert answered(Responses(), body, nothing).amount == input_bound(body) + 50
    assert answered(Responses(), body, nothing, on_unknown="release").kind == "released"


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


def test_writes_without_an_age_count_as_the_requested_one() -> None:
    body = {**ASK, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 70}
    assert answered(Messages(), body, message(usage=usage)).meta["cache_write_long"] == 70
    assert answered(Messages(), ASK, message(usage=usage)).meta["cache_write"] == 70


def test_later_events_of_a_stream_never_lower_a_total() -> None:
    start = {"input_tokens": 50, "output_tokens": 1, "cache_read_input_tokens": 7}
    end = {"output_tokens": 5, "input_tokens": 0}
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    events = [adapter.validate_python(event) for _, event in message_events("Hello", start=start, end=end)]
    assert streamed(Messages(), ASK, events).amount == 50 + 7 + 5


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


def test_an_unknown_field_is_marked_and_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    metered._warn_once.cache_clear()
    usage = {"input_tokens": 10, "output_tokens": 5, "dream_tokens": 100}
    with caplog.at_level(logging.WARNING, metered.__name__):
        entries = [answered(Messages(), ASK, message(usage=usage), prices=PRICES) for _ in range(3)]
    assert [entry.amount for entry in entries] == [115] * 3
    assert entries[0].meta["unknown_usage"] == ["dream_tokens"]
    assert entries[0].cost == Decimal(10 + 10 + 200) / 1_000_000, "at the highest price"
    assert len([record for record in caplog.records if "dream_tokens" in record.getMessage()]) == 1


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


@pytest.mark.parametrize("endpoint", [Messages(), chat()])
def test_a_limit_of_zero_is_zero(endpoint: Any) -> None:
    made, quotas = call(endpoint, {**ASK, "max_tokens": 0}, min_output_tokens=10)
    with quotas.guard(USER, **made.reservation_options) as guard:
        assert made.granted(guard)["max_tokens"] == 0
        guard.release()
    assert quotas.entry.granted == input_bound({**ASK, "max_tokens": 0})


def test_a_refusal_says_that_the_input_is_an_estimate() -> None:
    made, quotas = call(Messages(), ASK, limit=100)
    with pytest.raises(QuotaExceeded) as refused, quotas.guard(USER, **made.reservation_options):
        pass
    said = str(made.explained(refused.value))
    assert "estimate" in said
    assert "input_tokens=" in said
    assert str(input_bound(ASK)) in said


def test_stream_options_can_be_turned_off() -> None:
    body = {**ASK, "stream": True}
    assert "stream_options" not in chat(asks_usage=False).limited(body, 10)
    assert chat().limited({**body, "stream_options": None}, 10)["stream_options"] is None
    assert chat().limited(body, 10)["stream_options"] == {"include_usage": True}
    entry = streamed(chat(asks_usage=False), ASK, chat_events(TEXT, usages={}))
    assert (entry.amount, entry.meta["estimated"]) == (BOUND + 500, True)


def test_a_compatible_server_gets_older_fields_only() -> None:
    body = {"model": "m", "messages": [], "stream": True}
    made, _ = call(chat(), body, compatible=True)
    assert (made.meter.compatible, made.meter.stream_options) == (True, False)
    sent = chat(asks_usage=False, compatible=True).limited(body, 10)
    assert sent == {**body, "max_tokens": 10}


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


@pytest.mark.parametrize("endpoint", [Images(edits=True), Transcriptions()])
def test_a_file_needs_a_bound(endpoint: Any) -> None:
    with pytest.raises(InvalidInput, match="input_tokens="):
        call(endpoint, {"model": "m", "prompt": "x"})


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
