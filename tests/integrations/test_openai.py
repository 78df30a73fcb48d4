"""The real OpenAI client under guards: chat completions and responses."""

from __future__ import annotations

import socket
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai_asks import ASK, CHAT, PRICES, USAGE
from provider_stub import Drop, Events, Hang, Json, Stub, chunks, completion, response, response_usage
from sides import AsyncSide, Ledger, Side

from atlas_sdk import Atlas, InvalidInput, QuotaExceeded, User
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.openai import guarded

CHAT_BOUND = input_bound(CHAT)
ASK_BOUND = input_bound(ASK)
ERROR = {"error": {"message": "no", "type": "an_error", "code": None}}
AT_ONCE = {"retry-after-ms": "1"}


def test_chat_is_charged_its_usage(side: Side, stub: Stub, books: Ledger) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60},
        "completion_tokens_details": {"reasoning_tokens": 15},
    }
    stub.script(Json(body=completion(usage=usage)))
    client = side.openai(prices=PRICES)
    answer = side.do(lambda: client.chat.completions.create(**CHAT))
    assert answer.choices[0].message.content == "Hello"
    # Cached tokens are a part of the prompt, and reasoning tokens a part of the completion.
    assert books.charged() == (120, Decimal(40 * 2 + 20 * 8 + 60 * Decimal("0.5")) / 1_000_000)
    assert books.entry().granted == CHAT_BOUND + 100
    assert stub.requests[0].body == CHAT


def test_response_is_charged_its_usage(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=response(usage=response_usage(100, 20, cached=60))))
    client = side.openai(prices=PRICES)
    answer = side.do(lambda: client.responses.create(**ASK))
    assert answer.output_text == "Hello"
    assert books.charged() == (120, Decimal(40 * 2 + 20 * 8 + 60 * Decimal("0.5")) / 1_000_000)
    assert books.entry().granted == ASK_BOUND + 100
    assert stub.requests[0].body == ASK


def test_request_without_a_limit_gets_one(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=completion()), Json(body=response(usage=response_usage())))
    client = side.openai(max_output_tokens=77)
    side.do(lambda: client.chat.completions.create(model="gpt-test-1", messages=CHAT["messages"]))
    side.do(lambda: client.responses.create(model="gpt-test-1", input="Hi"))
    assert stub.requests[0].body["max_completion_tokens"] == 77
    assert stub.requests[1].body["max_output_tokens"] == 77


def test_older_name_of_the_limit_stays(side: Side, stub: Stub) -> None:
    stub.script(Json(body=completion()))
    client = side.openai()
    side.do(lambda: client.chat.completions.create(model="gpt-test-1", messages=CHAT["messages"], max_tokens=50))
    assert stub.requests[0].body["max_tokens"] == 50
    assert "max_completion_tokens" not in stub.requests[0].body


def test_every_answer_counts(side: Side, stub: Stub, atlas: Atlas, user: User, books: Ledger) -> None:
    bound = input_bound({**CHAT, "n": 3})
    atlas.quotas.set_limits(user, tokens=bound + 100)
    client = side.openai(min_output_tokens=10)
    stub.script(Json(body=completion()))
    side.do(lambda: client.chat.completions.create(**CHAT, n=3))
    # Each of the three choices gets a third of the tokens that are left, rounded down.
    assert stub.requests[0].body["max_completion_tokens"] == 33


def test_elastic_response_is_sent_with_what_is_left(side: Side, stub: Stub, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, tokens=ASK_BOUND + 30)
    stub.script(Json(body=response(usage=response_usage())))
    client = side.openai(min_output_tokens=10)
    side.do(lambda: client.responses.create(**ASK))
    assert stub.requests[0].body["max_output_tokens"] == 30
    atlas.quotas.set_limits(user, tokens=15 + ASK_BOUND + 9)
    with pytest.raises(QuotaExceeded):
        side.do(lambda: client.responses.create(**ASK))
    assert len(stub.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429])
def test_refused_by_the_provider_is_given_back(status: int, side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(status=status, body=ERROR))
    client = side.openai()
    with pytest.raises(openai.APIStatusError):
        side.do(lambda: client.chat.completions.create(**CHAT))
    assert books.entry().kind == "released"


@pytest.mark.parametrize("reply", [Json(status=408, body=ERROR), Drop()])
def test_unknown_outcome_is_charged_in_full(reply: Any, side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(reply)
    client = side.openai(prices=PRICES)
    with pytest.raises(openai.APIError):
        side.do(lambda: client.responses.create(**ASK))
    assert books.charged() == (ASK_BOUND + 100, Decimal(ASK_BOUND * 2 + 800) / 1_000_000)


def test_time_out_is_charged_in_full(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Hang())
    client = side.openai(settings={"timeout": 0.2})
    with pytest.raises(openai.APITimeoutError):
        side.do(lambda: client.chat.completions.create(**CHAT))
    assert books.charged() == (CHAT_BOUND + 100, 0)


def test_no_connection_is_given_back(side: Side, books: Ledger) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        client = side.openai(settings={"base_url": url, "max_retries": 1})
        with pytest.raises(openai.APIConnectionError):
            side.do(lambda: client.chat.completions.create(**CHAT))
    assert books.entry().kind == "released"


def test_every_try_must_have_been_free(side: Side, stub: Stub, atlas: Atlas, user: User, books: Ledger) -> None:
    limited = Json(status=429, body=ERROR, headers=AT_ONCE)
    stub.script(limited, limited)
    client = side.openai(settings={"max_retries": 1})
    with pytest.raises(openai.RateLimitError):
        side.do(lambda: client.chat.completions.create(**CHAT))
    assert books.entry().kind == "released"
    stub.script(Json(status=408, body=ERROR, headers=AT_ONCE), limited)
    with pytest.raises(openai.RateLimitError):
        side.do(lambda: client.chat.completions.create(**CHAT))
    assert atlas.quotas.usage(user).tokens_used == CHAT_BOUND + 100


def test_answer_without_usage_and_output_is_charged_in_full(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body={**response(status="failed"), "output": []}))
    client = side.openai()
    side.do(lambda: client.responses.create(**ASK))
    assert books.charged() == (ASK_BOUND + 100, 0)


@pytest.mark.parametrize(
    "way",
    [
        lambda client: client.with_options(timeout=5).chat.completions.create(**CHAT),
        lambda client: client.copy().chat.completions.create(**CHAT),
        lambda client: client.chat.completions.with_raw_response.create(**CHAT),
        lambda client: client.with_raw_response.chat.completions.create(**CHAT),
        lambda client: client.chat.completions.parse(**CHAT),
        lambda client: client.post("/chat/completions", body=CHAT, cast_to=object),
    ],
    ids=["with_options", "copy", "raw", "client_raw", "parse", "post"],
)
def test_every_way_to_a_completion_is_metered(way: Any, side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=completion()))
    client = side.openai()
    side.do(lambda: way(client))
    assert books.charged() == (15, 0)
    assert books.entry().granted == input_bound(stub.requests[0].body) + 100


@pytest.mark.parametrize(
    "way",
    [
        lambda client: client.audio.speech.create(model="m", input="x", voice="alloy"),
        lambda client: client.completions.create(model="m", prompt="x"),
        lambda client: client.post("/images/variations", body={"image": "x"}, cast_to=object),
        lambda client: client.batches.create(completion_window="24h", endpoint="/v1/responses", input_file_id="f"),
        lambda client: client.responses.create(**ASK, background=True),
        lambda client: client.responses.create(**ASK, previous_response_id="resp_0"),
        lambda client: client.chat.completions.with_raw_response.create(**CHAT, stream=True),
        lambda client: client.realtime.connect(model="m"),
        lambda client: client.with_options(timeout=5).completions.create(model="m", prompt="x"),
    ],
    ids=[
        *("speech", "completions", "images", "batches", "background", "previous", "raw_stream", "realtime"),
        "derived",
    ],
)
def test_what_cannot_be_metered_is_refused(way: Any, side: Side, stub: Stub, books: Ledger) -> None:
    client = side.openai()
    with pytest.raises(InvalidInput):
        side.do(lambda: way(client))
    assert stub.requests == []
    assert books.entries() == []


@pytest.mark.parametrize(
    "way",
    [
        lambda client: client.responses.connect(),
        lambda client: client.beta.responses.connect(),
        lambda client: client.beta.realtime.connect(model="m"),
    ],
    ids=["responses", "beta_responses", "beta_realtime"],
)
def test_no_websocket_is_opened(way: Any, side: Side, stub: Stub) -> None:
    client = side.openai()

    def blocking() -> None:
        with way(client):
            pass

    async def awaited() -> None:
        async with way(client):
            pass

    with pytest.raises((InvalidInput, TypeError), match="opens no websocket"):
        side.do(awaited if isinstance(side, AsyncSide) else blocking)
    assert stub.requests == []


def test_what_uses_no_model_passes(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body={"id": "m", "model": "m", "results": []}), Json(body={"object": "list", "data": []}))
    client = side.openai(unmetered=("/completions",))
    side.do(lambda: client.moderations.create(input="x"))
    side.do(lambda: client.post("/completions", body={}, cast_to=object))
    assert len(stub.requests) == 2
    assert books.entries() == []


def test_guarded_client_is_a_client(side: Side) -> None:
    client = side.openai(settings={"timeout": 12.5})
    assert isinstance(client, openai.AsyncOpenAI if isinstance(side, AsyncSide) else openai.OpenAI)
    assert client.timeout == 12.5


def test_wrong_kind_of_quotas_is_refused(atlas: Atlas, user: User) -> None:
    with pytest.raises(TypeError, match="asyncio"):
        guarded(openai.AsyncOpenAI(api_key="key"), atlas.quotas, user)


def test_caller_may_stop_where_the_answer_is_finished(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Hel", "lo", usage=USAGE)))
    client = side.openai()
    events = side.read(lambda: client.chat.completions.create(**CHAT, stream=True), take=3)
    assert events[-1].choices[0].finish_reason == "stop"
    assert books.charged() == (52, 0)
    assert "cut" not in books.entry().meta


def test_cut_after_the_finish_still_shows_it(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Events(events=chunks("Hello", usage=USAGE), cut=2))
    client = side.openai()
    seen: list[Any] = []

    async def awaited() -> None:
        async for event in await client.chat.completions.create(**CHAT, stream=True):
            seen.append(event)  # noqa: PERF401  # keeps the items before an error

    def keeping() -> None:
        for event in client.chat.completions.create(**CHAT, stream=True):
            seen.append(event)  # noqa: PERF402  # as above

    with pytest.raises(Exception, match="peer closed|incomplete|Connection error"):
        side.do(awaited if isinstance(side, AsyncSide) else keeping)
    assert seen[-1].choices[0].finish_reason == "stop"
    assert books.charged() == (input_bound({**CHAT, "stream": True}) + 5, 0)


def test_azure_is_metered_too(atlas: Atlas, user: User, stub: Stub, books: Ledger) -> None:
    stub.script(Json(body=completion()), Json(body=completion()))
    with openai.AzureOpenAI(api_key="key", azure_endpoint=stub.url, api_version="2026-01-01") as real:
        client = guarded(real, atlas.quotas, user)
        client.with_options(timeout=5).chat.completions.create(**CHAT)
    assert stub.requests[0].path == "/openai/deployments/gpt-test-1/chat/completions?api-version=2026-01-01"
    assert books.charged() == (15, 0)
