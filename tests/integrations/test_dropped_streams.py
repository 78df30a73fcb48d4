"""Streams that are opened, never read and dropped. No code closes them, so the garbage collector ends their guards."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from patience import PATIENCE_S
from provider_stub import Events, Stub, chunks, message_events
from sides import AsyncSide, Ledger, Side

from atlas_sdk.integrations.bounds import input_bound

CHAT: dict[str, Any] = {
    "model": "gpt-test-1",
    "max_completion_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": True,
}
MESSAGE: dict[str, Any] = {"model": "claude-test-1", "max_tokens": 100, "messages": CHAT["messages"], "stream": True}


def until(side: Side, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s"
        # Run the tasks that the collector has given to the event loop.
        side.do(lambda: None)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_stream_that_is_dropped_unread_is_settled(provider: str, side: Side, stub: Stub, books: Ledger) -> None:
    if provider == "openai":
        stub.script(Events(events=chunks("Hello"), stop=1))
        client, ask = side.openai(), CHAT
        opened = side.do(lambda: client.chat.completions.create(**ask))
    else:
        stub.script(Events(events=message_events("Hello"), stop=1))
        client, ask = side.anthropic(), MESSAGE
        opened = side.do(lambda: client.messages.create(**ask))
    assert books.entries() == []
    del opened
    gc.collect()
    until(side, books.entries)
    assert books.charged() == (input_bound(ask), 0)
    assert (books.entry().meta["cut"], books.entry().meta["estimated"]) == (True, True)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_stream_that_is_dropped_half_read_needs_no_collector(
    provider: str, side: Side, stub: Stub, books: Ledger
) -> None:
    if provider == "openai":
        stub.script(Events(events=chunks("Hello"), stop=1))
        client = side.openai()
        kept = [side.do(lambda: client.chat.completions.create(**CHAT))]
    else:
        stub.script(Events(events=message_events("Hello"), stop=1))
        client = side.anthropic()
        kept = [side.do(lambda: client.messages.create(**MESSAGE))]
    gc.collect()
    gc.disable()
    try:
        side.do(lambda: anext(kept[0]) if isinstance(side, AsyncSide) else next(kept[0]))
        kept.clear()
        until(side, books.entries)
    finally:
        gc.enable()
    assert books.entry().meta["cut"] is True


def test_a_stream_that_was_closed_unread_is_settled_once(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Hello"), stop=1))
    client = side.openai()
    opened = side.do(lambda: client.chat.completions.create(**CHAT))
    side.do(opened.close)
    assert books.charged() == (input_bound(CHAT), 0)
    del opened
    gc.collect()
    side.do(lambda: None)
    assert len(books.entries()) == 1


def test_a_stream_that_outlives_its_event_loop_is_left_to_its_expiry(side: Side, stub: Stub, books: Ledger) -> None:
    if not isinstance(side, AsyncSide):
        return
    stub.script(Events(events=chunks("Hello"), stop=1))
    client = side.openai()
    opened = side.do(lambda: client.chat.completions.create(**CHAT))
    opened.watch._loop = type("Closed", (), {"call_soon_threadsafe": lambda *_: _closed()})()
    del opened
    gc.collect()
    assert books.entries() == []


def _closed() -> None:
    message = "Event loop is closed"
    raise RuntimeError(message)
