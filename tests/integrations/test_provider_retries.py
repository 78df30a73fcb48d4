"""Client libraries try again by themselves. Each try that may have been billed was reserved before, and is charged."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import openai
import psycopg
import pytest
from provider_stub import Drop, Events, Hang, Json, Stub, chunks, completion, message
from sides import AsyncSide, Ledger, Side

from atlas_sdk import Atlas, QuotaExceeded, User
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.prices import Price, Prices

CHAT: dict[str, Any] = {
    "model": "gpt-test-1",
    "max_completion_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}
MESSAGE: dict[str, Any] = {"model": "claude-test-1", "max_tokens": 100, "messages": CHAT["messages"]}
#: The reservation for one try.
HOLD = input_bound(CHAT) + 100
MESSAGE_HOLD = input_bound(MESSAGE) + 100
PRICES = Prices({"gpt-test-*": Price("2", "8")})
HOLD_COST = Decimal(input_bound(CHAT) * 2 + 100 * 8) / 1_000_000
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
ERROR = {"error": {"message": "no", "type": "an_error", "code": None}}
AT_ONCE = {"retry-after-ms": "1"}
#: An answer after which nobody knows whether the provider bills the attempt.
FAILED = Json(status=408, body=ERROR, headers=AT_ONCE)
REFUSED = Json(status=429, body=ERROR, headers=AT_ONCE)
TRIES = {"timeout": 0.3, "max_retries": 2}


def chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(**CHAT, **more)


def test_tries_that_timed_out_are_charged_with_the_one_that_succeeded(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Hang(), Hang(), Json(body=completion(usage=USAGE)))
    client = side.openai(settings=TRIES, prices=PRICES)
    side.do(lambda: chat(client))
    assert books.charged() == (2 * HOLD + 15, 2 * HOLD_COST + Decimal(10 * 2 + 5 * 8) / 1_000_000)
    entry = books.entry()
    assert (entry.granted, entry.meta["unknown_attempts"]) == (3 * HOLD, 2)
    assert "overrun" not in entry.meta


def test_three_tries_that_timed_out_are_charged_three_times(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Hang(), Hang(), Hang())
    client = side.openai(settings=TRIES, prices=PRICES)
    with pytest.raises(openai.APITimeoutError):
        side.do(lambda: chat(client))
    assert books.charged() == (3 * HOLD, 3 * HOLD_COST)
    assert books.entry().meta["unknown_attempts"] == 3


def test_another_library_is_charged_the_same(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Hang(), FAILED, Json(body=message()))
    client = side.anthropic(settings=TRIES)
    side.do(lambda: client.messages.create(**MESSAGE))
    assert books.charged() == (2 * MESSAGE_HOLD + 15, 0)
    stub.script(Drop(), Drop(), Drop())
    with pytest.raises(anthropic.APIConnectionError):
        side.do(lambda: client.messages.create(**MESSAGE))
    assert [entry.amount for entry in books.entries()] == [2 * MESSAGE_HOLD + 15, 3 * MESSAGE_HOLD]


def test_tries_that_were_refused_cost_nothing_and_hold_nothing(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(REFUSED, REFUSED, Json(body=completion(usage=USAGE)))
    client = side.openai(settings=TRIES)
    side.do(lambda: chat(client))
    assert books.charged() == (15, 0)
    entry = books.entry()
    assert entry.granted == HOLD
    assert "unknown_attempts" not in entry.meta


def test_only_tries_of_unknown_outcome_are_charged(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(FAILED, REFUSED, REFUSED)
    client = side.openai(settings=TRIES)
    with pytest.raises(openai.RateLimitError):
        side.do(lambda: chat(client))
    entry = books.entry()
    assert (entry.amount, entry.granted) == (HOLD, 2 * HOLD)


def test_unknown_tries_may_be_given_back(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(FAILED, Json(body=completion(usage=USAGE)))
    client = side.openai(settings=TRIES, prices=PRICES, on_unknown="release")
    side.do(lambda: chat(client))
    assert books.charged() == (15, Decimal(60) / 1_000_000)
    assert books.entry().meta["unknown_attempts"] == 1


def test_a_token_that_is_refused_before_the_next_try_frees_no_earlier_one(
    side: Side, stub: Stub, books: Ledger
) -> None:
    asked = httpx2.Request("POST", "https://login.example.com/token")
    refused = openai.AuthenticationError("no", response=httpx2.Response(401, request=asked), body=None)
    tokens = iter(["token"])

    def token() -> str:
        for found in tokens:
            return found
        raise refused

    async def atoken() -> str:
        return token()

    stub.script(Hang())
    client = side.openai(settings={**TRIES, "api_key": atoken if isinstance(side, AsyncSide) else token})
    with pytest.raises(openai.AuthenticationError):
        side.do(lambda: chat(client))
    assert len(stub.requests) == 1
    assert books.charged() == (HOLD, 0)
    assert books.entry().meta["outcome"] == "no_answer"


def test_what_a_next_try_may_cost_is_held_before_it_is_sent(
    side: Side, stub: Stub, dsn: str, user: User, books: Ledger
) -> None:
    held: list[int] = []
    answer = stub.next

    def look(seen: Any) -> Any:
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute("SELECT tokens_held FROM user_quotas WHERE user_id = %s", (user.id,)).fetchone()
        assert row is not None
        held.append(row[0])
        return answer(seen)

    stub.next = look  # type: ignore[method-assign]  # looks at the call, then makes it
    stub.script(FAILED, FAILED, Json(body=completion(usage=USAGE)))
    client = side.openai(settings=TRIES)
    side.do(lambda: chat(client))
    assert held == [HOLD, 2 * HOLD, 3 * HOLD]


def test_a_try_that_cannot_be_held_is_not_sent(side: Side, stub: Stub, atlas: Atlas, user: User, books: Ledger) -> None:
    atlas.quotas.set_limits(user, tokens=2 * HOLD - 1)
    stub.script(FAILED, Json(body=completion(usage=USAGE)))
    client = side.openai(settings=TRIES)
    with pytest.raises(QuotaExceeded) as refused:
        side.do(lambda: chat(client))
    assert refused.value.dimension == "tokens"
    assert len(stub.requests) == 1
    assert books.charged() == (HOLD, 0)


def test_an_elastic_call_promises_what_it_was_granted_again(
    side: Side, stub: Stub, atlas: Atlas, user: User, books: Ledger
) -> None:
    atlas.quotas.set_limits(user, tokens=HOLD - 10)
    client = side.openai(settings=TRIES, min_output_tokens=5)
    stub.script(FAILED)
    with pytest.raises(QuotaExceeded):
        side.do(lambda: chat(client))
    assert stub.requests[0].body["max_completion_tokens"] == 90
    assert books.charged() == (HOLD - 10, 0)


def test_tries_before_a_stream_are_charged_with_it(side: Side, stub: Stub, books: Ledger) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 42, "total_tokens": 52}
    stub.script(FAILED, Events(events=chunks("Hel", "lo", usage=usage)))
    client = side.openai(settings=TRIES)
    side.read(lambda: chat(client, stream=True))
    hold = input_bound({**CHAT, "stream": True}) + 100
    assert books.charged() == (hold + 52, 0)
    assert books.entry().meta["unknown_attempts"] == 1


def test_an_answer_without_usage_after_a_try_is_charged_two_promises(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(FAILED, Json(body={**completion(""), "usage": None}))
    client = side.openai(settings=TRIES)
    side.do(lambda: chat(client))
    assert books.charged() == (2 * HOLD, 0)


def test_an_answer_without_usage_may_be_free_and_earlier_tries_are_charged(
    side: Side, stub: Stub, books: Ledger
) -> None:
    stub.script(FAILED, Json(body={**completion(""), "usage": None}))
    client = side.openai(settings=TRIES, prices=PRICES, on_unknown="release", on_no_answer="reservation")
    side.do(lambda: chat(client))
    assert books.charged() == (HOLD, HOLD_COST)
    assert books.entry().meta["unknown_attempts"] == 1


def test_tries_of_a_leased_call_are_charged_too(side: Side, stub: Stub, atlas: Atlas, user: User) -> None:
    client = side.openai(settings=TRIES, lease=True)
    for _ in range(25):
        stub.script(Json(body=completion(usage=USAGE)))
        side.do(lambda: chat(client))
    stub.script(FAILED, Json(body=completion(usage=USAGE)))
    side.do(lambda: chat(client))
    side.do(side.atlas.quotas.close)
    assert atlas.quotas.usage(user).tokens_used == 26 * 15 + HOLD
