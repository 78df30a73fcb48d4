"""The tokens that a call is charged, for every shape of answer."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest
from anthropic.types import RawMessageStreamEvent
from memory_quotas import USER
from metered_calls import ASK, BOUND, PRICES, TEXT, answered, call, chat, chat_events, streamed, tokens
from provider_stub import completion, message, message_events, response
from pydantic import TypeAdapter

from atlas_sdk import InvalidInput, QuotaExceeded
from atlas_sdk.integrations.anthropic.messages import Messages
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.metering import call as metered
from atlas_sdk.integrations.openai.media import Images, Transcriptions
from atlas_sdk.integrations.openai.responses import Responses


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


def test_an_unknown_field_is_marked_and_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    metered._warn_once.cache_clear()
    usage = {"input_tokens": 10, "output_tokens": 5, "dream_tokens": 100}
    with caplog.at_level(logging.WARNING, metered.__name__):
        entries = [answered(Messages(), ASK, message(usage=usage), prices=PRICES) for _ in range(3)]
    assert [entry.amount for entry in entries] == [115] * 3
    assert entries[0].meta["unknown_usage"] == ["dream_tokens"]
    assert entries[0].cost == Decimal(10 + 10 + 200) / 1_000_000, "at the highest price"
    assert len([record for record in caplog.records if "dream_tokens" in record.getMessage()]) == 1


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


@pytest.mark.parametrize("endpoint", [Images(edits=True), Transcriptions()])
def test_a_file_needs_a_bound(endpoint: Any) -> None:
    with pytest.raises(InvalidInput, match="input_tokens="):
        call(endpoint, {"model": "m", "prompt": "x"})


@pytest.mark.parametrize("fallbacks", ["default", [{"model": "dear", "max_tokens": 10**6}]])
def test_fallbacks_to_other_models_are_refused(fallbacks: Any) -> None:
    with pytest.raises(InvalidInput, match="send it to the next model yourself") as refused:
        call(Messages(), {**ASK, "fallbacks": fallbacks}, prices=PRICES, input_tokens=lambda body: 1)
    assert refused.value.field == "fallbacks"
    assert call(Messages(), {**ASK, "fallbacks": None})[0].output == 1000
