"""The real Anthropic client under guards: reservations before a call, and charges after it."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import anthropic
import pytest
from anthropic_asks import ASK, BOUND, ERROR, PRICES
from provider_stub import Events, Json, Stub, message, message_events
from sides import AsyncSide, Ledger, Side

from atlas_sdk import Atlas, InvalidInput, QuotaExceeded, User
from atlas_sdk.guards import current_guard
from atlas_sdk.integrations.anthropic import guarded
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.prices import Price, Prices


def test_call_is_charged_its_usage(side: Side, stub: Stub, books: Ledger) -> None:
    usage = {
        "input_tokens": 20,
        "output_tokens": 7,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 4000,
    }
    stub.script(Json(body=message("Hello", usage=usage)))
    client = side.anthropic(prices=PRICES, meta={"agent": "coder"})
    answer = side.do(lambda: client.messages.create(**ASK))
    assert answer.content[0].text == "Hello"
    # 20 x 3 + 7 x 15 + 4000 x 0.30 + 300 x 3.75 millionths of a dollar.
    assert books.charged() == (4327, Decimal("0.002490"))
    meta = books.entry().meta
    assert {name: meta[name] for name in ("provider", "model", "agent", "input", "output")} == {
        "provider": "anthropic",
        "model": "claude-test-1",
        "agent": "coder",
        "input": 20,
        "output": 7,
    }
    assert (meta["cache_read"], meta["cache_write"]) == (4000, 300)
    assert "estimated" not in meta
    assert stub.requests[0].body == ASK


def test_hold_is_the_bound_of_the_request(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=message()))
    client = side.anthropic()
    side.do(lambda: client.messages.create(**ASK))
    assert books.entry().granted == BOUND + 100


def test_refused_call_is_never_sent(side: Side, stub: Stub, atlas: Atlas, user: User, books: Ledger) -> None:
    atlas.quotas.set_limits(user, tokens=BOUND + 99)
    client = side.anthropic()
    with pytest.raises(QuotaExceeded) as refused:
        side.do(lambda: client.messages.create(**ASK))
    assert (refused.value.dimension, refused.value.asked) == ("tokens", BOUND + 100)
    assert stub.requests == []
    assert books.entries() == []


def test_cost_is_held_before_the_call(side: Side, stub: Stub, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, cost="0.0001")
    client = side.anthropic(prices=PRICES)
    with pytest.raises(QuotaExceeded) as refused:
        side.do(lambda: client.messages.create(**ASK))
    # The reservation assumes the highest input price for all input: that of a cache write.
    assert refused.value.dimension == "cost"
    assert refused.value.asked == (Decimal(BOUND) * Decimal("3.75") + 100 * 15) / 1_000_000
    assert stub.requests == []


def test_elastic_call_is_sent_with_what_is_left(
    side: Side, stub: Stub, atlas: Atlas, user: User, books: Ledger
) -> None:
    atlas.quotas.set_limits(user, tokens=BOUND + 30)
    stub.script(Json(body=message()))
    client = side.anthropic(min_output_tokens=10)
    side.do(lambda: client.messages.create(**ASK))
    assert stub.requests[0].body["max_tokens"] == 30
    assert books.entry().granted == BOUND + 30
    atlas.quotas.set_limits(user, tokens=15 + BOUND + 9)
    with pytest.raises(QuotaExceeded):
        side.do(lambda: client.messages.create(**ASK))


def test_elastic_limit_stays_above_the_thinking_budget(side: Side, stub: Stub, atlas: Atlas, user: User) -> None:
    ask = {**ASK, "max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    client = side.anthropic(min_output_tokens=10)
    atlas.quotas.set_limits(user, tokens=input_bound(ask) + 2000)
    with pytest.raises(QuotaExceeded):
        side.do(lambda: client.messages.create(**ask))
    atlas.quotas.set_limits(user, tokens=input_bound(ask) + 2001)
    stub.script(Json(body=message()))
    side.do(lambda: client.messages.create(**ask))
    assert stub.requests[0].body["max_tokens"] == 2001


def test_one_shot_messages_are_sent_whole(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=message()))
    client = side.anthropic()
    ask = {**ASK, "messages": (one for one in ASK["messages"])}
    side.do(lambda: client.messages.create(**ask))
    assert stub.requests[0].body == ASK
    assert books.entry().granted == BOUND + 100


def test_answer_can_be_sent_back(side: Side, stub: Stub) -> None:
    stub.script(Json(body=message()), Json(body=message()))
    client = side.anthropic()
    answer = side.do(lambda: client.messages.create(**ASK))
    turns = [*ASK["messages"], {"role": "assistant", "content": answer.content}, {"role": "user", "content": "And?"}]
    side.do(lambda: client.messages.create(**{**ASK, "messages": turns}))
    assert stub.requests[1].body["messages"][1]["content"][0]["text"] == "Hello"


def test_unknown_price_is_counted_in_tokens_and_marked(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=message()))
    client = side.anthropic(prices=Prices({"another": Price(1, 1)}))
    side.do(lambda: client.messages.create(**ASK))
    assert books.charged() == (15, 0)
    assert books.entry().meta["price_unknown"] is True


def test_unknown_price_stays_marked_when_the_outcome_is_unknown(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(status=408, body=ERROR))
    client = side.anthropic(prices=Prices({"another": Price(1, 1)}))
    with pytest.raises(anthropic.APIStatusError):
        side.do(lambda: client.messages.create(**ASK))
    assert books.entry().meta["price_unknown"] is True


def test_answer_may_tell_which_model_is_paid(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=message(model="claude-test-9")))
    client = side.anthropic(prices=PRICES)
    side.do(lambda: client.messages.create(**{**ASK, "model": "my-deployment"}))
    assert books.charged() == (15, Decimal(10 * 3 + 5 * 15) / 1_000_000)
    assert books.entry().meta["price_unknown"] is False
    assert books.entry().meta["answered_by"] == "claude-test-9"


def test_prices_that_fail_at_the_end_leave_what_progressed(side: Side, stub: Stub, books: Ledger) -> None:
    class Broken(Prices):
        def cost(self, model: str, usage: Any, **facts: Any) -> Decimal | None:
            raise ZeroDivisionError

    stub.script(Events(events=message_events("Hello")), Json(body=message()))
    client = side.anthropic(prices=Broken({"*": Price(0, 0)}))
    with pytest.raises(ZeroDivisionError):
        side.read(lambda: client.messages.create(**ASK, stream=True))
    assert books.charged() == (15, 0)
    with pytest.raises(ZeroDivisionError):
        side.do(lambda: client.messages.create(**ASK))
    # For a call without a stream no progress was reported, so the whole reservation is charged.
    assert books.entries()[-1].amount == BOUND + 100


def test_unknown_price_may_be_refused(side: Side, stub: Stub, books: Ledger) -> None:
    client = side.anthropic(prices=Prices({"another": Price(1, 1)}), unknown_price="refuse")
    with pytest.raises(InvalidInput, match="has no price"):
        side.do(lambda: client.messages.create(**ASK))
    assert stub.requests == []
    assert books.entries() == []


@pytest.mark.parametrize(
    "way",
    [
        lambda client: client.with_options(timeout=5).messages.create(**ASK),
        lambda client: client.copy().with_options(max_retries=0).messages.create(**ASK),
        lambda client: client.beta.messages.create(**ASK),
        lambda client: client.messages.with_raw_response.create(**ASK),
        lambda client: client.with_raw_response.messages.create(**ASK),
        lambda client: client.messages.parse(**ASK),
        lambda client: client.post("/v1/messages", body=ASK, cast_to=anthropic.types.Message),
        lambda client: client.post("/v1/messages?beta=true", body=ASK, cast_to=object),
        lambda client: client.messages.create(**{**ASK, "max_tokens": 1}, extra_body={"max_tokens": 100}),
        lambda client: client.beta.messages.tool_runner(**ASK, tools=[]).until_done(),
    ],
    ids=["with_options", "copy", "beta", "raw", "client_raw", "parse", "post", "post_object", "extra_body", "runner"],
)
def test_every_way_to_a_message_is_metered(way: Any, side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=message()))
    client = side.anthropic()
    side.do(lambda: way(client))
    assert books.charged() == (15, 0)
    assert books.entry().granted == input_bound(stub.requests[0].body) + 100
    assert stub.requests[0].body["max_tokens"] == 100


@pytest.mark.parametrize(
    "way",
    [
        lambda client: client.messages.batches.create(requests=[]),
        lambda client: client.beta.messages.batches.create(requests=[]),
        lambda client: client.messages.with_raw_response.create(**ASK, stream=True),
        lambda client: client.post("/v1/complete", body={}, cast_to=object),
        lambda client: client.with_options(timeout=5).messages.batches.create(requests=[]),
    ],
    ids=["batches", "beta_batches", "raw_stream", "unknown", "derived"],
)
def test_what_cannot_be_metered_is_refused(way: Any, side: Side, stub: Stub, books: Ledger) -> None:
    client = side.anthropic()
    with pytest.raises(InvalidInput):
        side.do(lambda: way(client))
    assert stub.requests == []
    assert books.entries() == []


def test_streaming_response_is_refused(side: Side, stub: Stub) -> None:
    client = side.anthropic()
    with pytest.raises(InvalidInput, match="raw stream"):
        side.inside(lambda: client.messages.with_streaming_response.create(**ASK))
    assert stub.requests == []


def test_what_uses_no_model_passes(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body={"input_tokens": 9}), Json(body={"data": [], "has_more": False}), Json(body={}))
    client = side.anthropic(unmetered=("/complete",))
    counted = side.do(lambda: client.messages.count_tokens(model="claude-test-1", messages=ASK["messages"]))
    assert counted.input_tokens == 9
    side.do(lambda: client.get("/v1/models", cast_to=object))
    side.do(lambda: client.post("/v1/complete", body={}, cast_to=object))
    assert len(stub.requests) == 3
    assert books.entries() == []


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
            "image",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
        ({"extra_body": {"container": "c1"}}, "container"),
    ],
)
def test_input_that_bytes_do_not_bound_needs_a_bound(
    more: Any, named: str, side: Side, stub: Stub, books: Ledger
) -> None:
    client = side.anthropic()
    with pytest.raises(InvalidInput, match=named):
        side.do(lambda: client.messages.create(**{**ASK, **more}))
    assert stub.requests == []
    stub.script(Json(body=message()))
    bounded = side.anthropic(input_tokens=lambda body: 5000)
    side.do(lambda: bounded.messages.create(**{**ASK, **more}))
    assert books.entry().granted == 5100


def test_guard_of_a_stream_is_not_the_callers(side: Side, stub: Stub) -> None:
    stub.script(Events(events=message_events("Hello")))
    client = side.anthropic()

    def nobody() -> None:
        with pytest.raises(InvalidInput, match="no guard"):
            current_guard()

    def blocking() -> None:
        for _ in client.messages.create(**ASK, stream=True):
            nobody()

    async def awaited() -> None:
        async for _ in await client.messages.create(**ASK, stream=True):
            nobody()

    side.do(blocking if side.name == "blocking" else awaited)


def test_user_may_be_found_at_every_call(atlas: Atlas, user: User, stub: Stub) -> None:
    other = atlas.users.create(f"{uuid.uuid4()}@example.com")
    payers = iter([user, other])
    stub.script(Json(body=message()), Json(body=message()))
    with anthropic.Anthropic(api_key="key", base_url=stub.url) as real:
        client = guarded(real, atlas.quotas, lambda: next(payers))
        for _ in range(2):
            client.messages.create(**ASK)
    assert atlas.quotas.usage(user).tokens_used == atlas.quotas.usage(other).tokens_used == 15


def test_guarded_client_is_a_client(side: Side) -> None:
    client = side.anthropic(settings={"timeout": 12.5})
    assert isinstance(client, anthropic.AsyncAnthropic if isinstance(side, AsyncSide) else anthropic.Anthropic)
    assert client.timeout == 12.5
    assert client.api_key == "key"


def test_wrong_kind_of_quotas_is_refused(atlas: Atlas, user: User) -> None:
    with pytest.raises(TypeError, match="asyncio"):
        guarded(anthropic.AsyncAnthropic(api_key="key"), atlas.quotas, user)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_output_tokens": 0},
        {"on_cut": "half"},
        {"unknown_price": "free"},
        {"min_output_tokens": True},
        {"input_tokens": 500},
    ],
)
def test_wrong_options_are_refused(wrong: Any, side: Side) -> None:
    with pytest.raises(InvalidInput):
        side.anthropic(**wrong)
    with pytest.raises(TypeError, match="nonsense"):
        side.anthropic(nonsense=1)
