"""Streams of the OpenAI client are charged their usage, or the part that came before they were cut."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from openai_asks import ASK, CHAT, PRICES, USAGE
from provider_stub import Events, Stub, chunks, response_events
from sides import Ledger, Side

from atlas_sdk.integrations.bounds import input_bound


def test_chat_stream_is_asked_for_its_usage_and_hides_it(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Hel", "lo", usage=USAGE)))
    client = side.openai(prices=PRICES)
    events = side.read(lambda: client.chat.completions.create(**CHAT, stream=True))
    assert stub.requests[0].body["stream_options"] == {"include_usage": True}
    assert [bool(event.choices) for event in events] == [True, True, True]
    assert books.charged() == (52, Decimal(10 * 2 + 42 * 8) / 1_000_000)
    assert "estimated" not in books.entry().meta


def test_usage_that_the_caller_asked_for_is_shown(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Hello", usage=USAGE)))
    client = side.openai()
    options = {"include_usage": True, "include_obfuscation": False}
    events = side.read(lambda: client.chat.completions.create(**CHAT, stream=True, stream_options=options))
    assert stub.requests[0].body["stream_options"] == options
    assert events[-1].usage.completion_tokens == 42
    assert books.charged() == (52, 0)


def test_other_stream_options_stay(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Hello", usage=USAGE)))
    client = side.openai()
    options = {"include_obfuscation": False}
    side.read(lambda: client.chat.completions.create(**CHAT, stream=True, stream_options=options))
    assert stub.requests[0].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert books.charged() == (52, 0)


def test_caller_who_wants_no_usage_is_charged_by_bytes(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Grüße")))
    client = side.openai()
    ask = {**CHAT, "stream": True, "stream_options": {"include_usage": False}}
    side.read(lambda: client.chat.completions.create(**ask))
    assert books.charged() == (input_bound(ask) + 7, 0)
    assert books.entry().meta["estimated"] is True
    assert "cut" not in books.entry().meta


def test_chat_helper_is_charged_its_final_usage(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Hel", "lo", usage=USAGE)))
    client = side.openai()
    events = side.inside(lambda: client.chat.completions.stream(**CHAT))
    assert any(event.type == "content.done" for event in events)
    assert books.charged() == (52, 0)


def test_response_stream_is_charged_its_final_usage(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=response_events("Hel", "lo")))
    client = side.openai()
    events = side.read(lambda: client.responses.create(**ASK, stream=True))
    assert events[-1].type == "response.completed"
    assert books.charged() == (15, 0)


def test_response_helper_is_charged_its_final_usage(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=response_events("Hel", "lo")))
    client = side.openai()
    events = side.inside(lambda: client.responses.stream(**ASK))
    assert events[-1].type == "response.completed"
    assert books.charged() == (15, 0)


def test_chat_cut_in_the_middle_is_charged_what_came(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Hello", " world", "never", usage=USAGE), cut=2))
    client = side.openai(prices=PRICES)
    with pytest.raises(Exception, match="peer closed|incomplete|Connection error"):
        side.read(lambda: client.chat.completions.create(**CHAT, stream=True))
    bound = input_bound({**CHAT, "stream": True})
    assert books.charged() == (bound + 11, Decimal(bound * 2 + 11 * 8) / 1_000_000)
    assert (books.entry().meta["cut"], books.entry().meta["estimated"]) == (True, True)


def test_all_that_came_counts(side: Side, stub: Stub, books: Ledger) -> None:
    events = chunks("a", "b", "c", "d")
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "12345"},
        {"refusal": "678"},
        {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"function_call": {"name": "g", "arguments": "{}"}},
    ]
    for (_, event), delta in zip(events, deltas, strict=False):
        event["choices"][0]["delta"] = delta
    stub.script(Events(events=events, stop=4))
    client = side.openai()
    side.read(lambda: client.chat.completions.create(**CHAT, stream=True), take=4)
    assert books.charged() == (input_bound({**CHAT, "stream": True}) + 5 + 3 + 3 + 3, 0)


def test_response_cut_in_the_middle_is_charged_what_came(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=response_events("Hello", "never"), cut=4))
    client = side.openai()
    with pytest.raises(Exception, match="peer closed|incomplete|Connection error"):
        side.read(lambda: client.responses.create(**ASK, stream=True))
    assert books.charged() == (input_bound({**ASK, "stream": True}) + 5, 0)


def test_cut_while_reasoning_is_charged_all_of_the_output(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=response_events("Hello", reasons=True), cut=2))
    client = side.openai()
    with pytest.raises(Exception, match="peer closed|incomplete|Connection error"):
        side.read(lambda: client.responses.create(**ASK, stream=True))
    assert books.charged() == (input_bound({**ASK, "stream": True}) + 100, 0)


def test_cut_chat_that_was_asked_to_reason_is_charged_all_of_the_output(side: Side, stub: Stub, books: Ledger) -> None:
    ask = {**CHAT, "stream": True, "reasoning_effort": "low"}
    stub.script(Events(events=chunks("Hello"), cut=1))
    client = side.openai()
    with pytest.raises(Exception, match="peer closed|incomplete|Connection error"):
        side.read(lambda: client.chat.completions.create(**ask))
    assert books.charged() == (input_bound(ask) + 100, 0)


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_helper_left_early_is_charged_what_came(endpoint: str, side: Side, stub: Stub, books: Ledger) -> None:
    client = side.openai()
    if endpoint == "chat":
        stub.script(Events(events=chunks("Hello", " world"), stop=1))
        # Take a chunk and the event that the helper makes from its content.
        side.inside(lambda: client.chat.completions.stream(**CHAT), take=2)
        bound = input_bound({**CHAT, "stream": True})
    else:
        stub.script(Events(events=response_events("Hello", " world"), stop=4))
        side.inside(lambda: client.responses.stream(**ASK), take=4)
        bound = input_bound({**ASK, "stream": True})
    assert books.charged() == (bound + 5, 0)
