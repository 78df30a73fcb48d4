"""Streams of the Anthropic client are charged their usage, or the part that came before they were cut."""

from __future__ import annotations

import asyncio
import gc
from decimal import Decimal
from typing import Any

import anthropic
import pytest
from anthropic_asks import ASK, ERROR, PRICES
from patience import PATIENCE_S
from provider_stub import Events, Stub, message_events
from sides import Ledger, Side

from atlas_sdk import AsyncAtlas, Atlas, User
from atlas_sdk.integrations.anthropic import guarded
from atlas_sdk.integrations.bounds import input_bound


def test_stream_is_charged_its_final_usage(side: Side, stub: Stub, books: Ledger) -> None:
    start = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 50, "cache_creation_input_tokens": 0}
    stub.script(Events(events=message_events("Hel", "lo", start=start, end={"output_tokens": 42})))
    client = side.anthropic(prices=PRICES)
    events = side.read(lambda: client.messages.create(**ASK, stream=True))
    assert [event.type for event in events][-1] == "message_stop"
    assert books.charged() == (102, Decimal(10 * 3 + 42 * 15 + 50 * Decimal("0.3")) / 1_000_000)
    assert "estimated" not in books.entry().meta


def test_stream_helper_is_charged_its_final_usage(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hel", "lo", end={"output_tokens": 42})))
    client = side.anthropic()
    events = side.inside(lambda: client.messages.stream(**ASK))
    assert events[-1].type == "message_stop"
    assert books.charged() == (52, 0)


def test_final_message_of_a_helper_is_charged(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hello")))
    client = side.anthropic()
    if side.name == "blocking":
        with client.messages.stream(**ASK) as stream:
            assert stream.get_final_text() == "Hello"
    else:

        async def work() -> str:
            async with client.messages.stream(**ASK) as stream:
                return await stream.get_final_text()

        assert side.do(work) == "Hello"
    assert books.charged() == (15, 0)


def test_stream_cut_in_the_middle_is_charged_what_came(side: Side, stub: Stub, books: Ledger) -> None:
    # message_start, content_block_start, then two of four pieces: 5 + 6 bytes.
    stub.script(Events(events=message_events("Hello", " world", "never", "seen"), cut=4))
    client = side.anthropic(prices=PRICES)
    with pytest.raises(Exception, match="peer closed|incomplete"):
        side.read(lambda: client.messages.create(**ASK, stream=True))
    assert books.charged() == (10 + 11, Decimal(10 * 3 + 11 * 15) / 1_000_000)
    meta = books.entry().meta
    assert (meta["cut"], meta["estimated"]) == (True, True)


def test_stream_closed_early_is_charged_what_came(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hello", " world", "more"), stop=4))
    client = side.anthropic()
    events = side.read(lambda: client.messages.create(**ASK, stream=True), take=4)
    assert len(events) == 4
    assert books.charged() == (21, 0)


def test_helper_left_early_is_charged_what_came(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hello", " world"), stop=3))
    client = side.anthropic()
    side.inside(lambda: client.messages.stream(**ASK), take=3)
    assert books.charged() == (15, 0)


def test_opened_stream_that_is_never_read_is_charged_its_input(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hello"), stop=3))
    client = side.anthropic()
    if side.name == "blocking":
        client.messages.create(**ASK, stream=True).close()
    else:

        async def work() -> None:
            await (await client.messages.create(**ASK, stream=True)).close()

        side.do(work)
    assert books.charged() == (input_bound({**ASK, "stream": True}), 0)


def test_dropped_stream_is_settled(side: Side, stub: Stub, user: User, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hello"), stop=3))
    client = side.anthropic()

    def blocking() -> None:
        for event in client.messages.create(**ASK, stream=True):
            if event.type == "content_block_delta":
                return

    async def awaited() -> None:
        async for event in await client.messages.create(**ASK, stream=True):
            if event.type == "content_block_delta":
                break
        gc.collect()
        # The event loop closes the dropped stream in another task.
        async with asyncio.timeout(PATIENCE_S):
            while await side.atlas.quotas.reservations(user):
                pass

    side.do(blocking if side.name == "blocking" else awaited)
    gc.collect()
    assert books.charged() == (15, 0)


def test_cut_while_thinking_is_charged_all_of_the_output(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hello", thinking="…"), cut=3))
    client = side.anthropic()
    with pytest.raises(Exception, match="peer closed|incomplete"):
        side.read(lambda: client.messages.create(**ASK, stream=True))
    assert books.charged() == (10 + 100, 0)


def test_platform_may_charge_the_hold_of_a_cut_stream(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hello"), cut=3))
    client = side.anthropic(on_cut="reservation")
    with pytest.raises(Exception, match="peer closed|incomplete"):
        side.read(lambda: client.messages.create(**ASK, stream=True))
    assert books.charged() == (10 + 100, 0)


def test_error_inside_of_a_stream_is_charged_what_came(side: Side, stub: Stub, books: Ledger) -> None:
    broken = [*message_events("Hello")[:3], ("error", ERROR)]
    stub.script(Events(events=broken))
    client = side.anthropic()
    with pytest.raises(anthropic.APIStatusError):
        side.read(lambda: client.messages.create(**ASK, stream=True))
    assert books.charged() == (15, 0)


def test_cancelled_stream_is_charged_what_came(dsn: str, atlas: Atlas, user: User, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=message_events("Hello", "never"), stop=3))

    async def work() -> None:
        came = asyncio.Event()

        async def reader(client: Any) -> None:
            async for event in await client.messages.create(**ASK, stream=True):
                if event.type == "content_block_delta":
                    came.set()

        async with (
            AsyncAtlas.open(dsn) as awaited,
            anthropic.AsyncAnthropic(api_key="key", base_url=stub.url, max_retries=0) as real,
        ):
            task = asyncio.create_task(reader(guarded(real, awaited.quotas, user)))
            await came.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(work())
    assert books.charged() == (15, 0)
