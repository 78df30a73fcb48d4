"""The real clients with options for other servers, other endpoints, other counters, and loops that break."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import openai
import pytest
from memory_quotas import USER, MemoryQuotas
from patience import PATIENCE_S
from provider_stub import (
    Events,
    Hang,
    Json,
    Stub,
    chunks,
    completion,
    message,
    message_events,
    response,
    response_usage,
)
from sides import AsyncSide, Side

from atlas_sdk import InvalidInput, QuotaExceeded
from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.openai import guarded
from atlas_sdk.integrations.prices import Price, Prices

CHAT: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
ASK: dict[str, Any] = {"model": "m", "max_output_tokens": 100, "input": "Hi"}
ERROR = {"error": {"message": "no", "type": "an_error", "code": None}}


def test_a_strict_server_gets_no_stream_options(memory: Side, stub: Stub) -> None:
    stub.script(Events(events=chunks("Grüße")), Events(events=chunks("Grüße")))
    client = memory.openai(stream_options=False)
    memory.read(lambda: client.chat.completions.create(**CHAT, stream=True))
    assert "stream_options" not in stub.requests[0].body
    entry = memory.atlas.quotas.entry
    assert (entry.amount, entry.meta["estimated"]) == (input_bound({**CHAT, "stream": True}) + 7, True)
    client = memory.openai()
    memory.read(lambda: client.chat.completions.create(**CHAT, stream=True, stream_options=None))
    assert stub.requests[1].body.get("stream_options") is None


def test_one_option_is_for_compatible_servers(memory: Side, stub: Stub) -> None:
    stub.script(Events(events=chunks("Hello")))
    client = memory.openai(compatible=True, max_output_tokens=50)
    ask = {"model": "m", "messages": CHAT["messages"], "stream": True}
    memory.read(lambda: client.chat.completions.create(**ask))
    assert stub.requests[0].body == {**ask, "max_tokens": 50}


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_loop_that_breaks_settles_at_once(provider: str, memory: Side, stub: Stub) -> None:
    if provider == "anthropic":
        stub.script(Events(events=message_events("Hello", " world", "more"), stop=4))
        client = memory.anthropic()
        create, wanted = (lambda: client.messages.create(**CHAT, stream=True)), 10 + 5
    else:
        stub.script(Events(events=chunks("Hello", " world", "more"), stop=2))
        client = memory.openai()
        create, wanted = (
            lambda: client.chat.completions.create(**CHAT, stream=True),
            input_bound({**CHAT, "stream": True}) + 5,
        )
    entries = memory.atlas.quotas.entries
    taken = 3 if provider == "anthropic" else 1
    kept: list[Any] = []

    def blocking() -> None:
        kept.append(create())
        for at, _ in enumerate(kept[0], start=1):
            if at == taken:
                break
        assert len(entries) == 1, "the loop has ended, and the stream still exists"
        assert list(kept[0]) == []

    async def awaited() -> None:
        kept.append(await create())
        at = 0
        async for _ in kept[0]:
            at += 1
            if at == taken:
                break
        # asyncio closes the loop's iterator in a task of its own.
        async with asyncio.timeout(PATIENCE_S):
            while not entries:  # noqa: ASYNC110  # the settlement gives no signal
                await asyncio.sleep(0)

    memory.do(awaited if isinstance(memory, AsyncSide) else blocking)
    entry = memory.atlas.quotas.entry
    assert (entry.amount, entry.meta["cut"]) == (wanted, True)


def test_a_stream_can_be_read_in_parts(memory: Side, stub: Stub) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    stub.script(Events(events=chunks("Hello", " world", usage=usage)))
    client = memory.openai()

    def blocking() -> int:
        stream = client.chat.completions.create(**CHAT, stream=True)
        next(stream)
        return len(list(stream))

    async def awaited() -> int:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        await anext(stream)
        return len([event async for event in stream])

    assert memory.do(awaited if isinstance(memory, AsyncSide) else blocking) == 2
    assert memory.atlas.quotas.entry.amount == 15


def test_the_providers_counter_gives_the_estimate(memory: Side, stub: Stub) -> None:
    stub.script(Json(body={"input_tokens": 9}), Json(body=message()))
    client = memory.anthropic(input_tokens="provider")
    memory.do(lambda: client.messages.create(**CHAT))
    assert [seen.path for seen in stub.requests] == ["/v1/messages/count_tokens", "/v1/messages"]
    assert stub.requests[0].body == {"model": "m", "messages": CHAT["messages"]}
    assert memory.atlas.quotas.entry.granted == 9 + 256 + 100
    stub.script(
        Json(body={"object": "response.input_tokens", "input_tokens": 7}), Json(body=response(usage=response_usage()))
    )
    client = memory.openai(input_tokens="provider")
    memory.do(lambda: client.responses.create(**ASK))
    assert stub.requests[2].path == "/responses/input_tokens"
    assert memory.atlas.quotas.entries[1].granted == 7 + 256 + 100
    stub.script(Json(body=completion()))
    memory.do(lambda: client.chat.completions.create(**CHAT))
    assert memory.atlas.quotas.entries[2].granted == input_bound(CHAT) + 100, "chat completions have no counter"


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": {"id": "pmpt_1"}},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function", "name": "f"}, {"type": "mcp", "server_label": "x"}]},
        {"context_management": [{"type": "compaction"}]},
    ],
)
def test_what_the_providers_counter_cannot_see_is_refused(more: Any, memory: Side, stub: Stub) -> None:
    client = memory.openai(input_tokens="provider")
    with pytest.raises(InvalidInput, match="the provider.s count .* a function as input_tokens="):
        memory.do(lambda: client.responses.create(**ASK, **more))
    assert stub.requests == []
    stub.script(Json(body=response(usage=response_usage())))
    client = memory.openai(input_tokens=lambda body: 50)
    memory.do(lambda: client.responses.create(**ASK, **more))
    assert memory.atlas.quotas.entry.granted == 150


def test_what_the_providers_counter_sees_passes(memory: Side, stub: Stub) -> None:
    stub.script(Json(body={"input_tokens": 9}), Json(body=response(usage=response_usage())))
    client = memory.openai(input_tokens="provider")
    image = {"type": "input_image", "image_url": "https://example.com/x.png", "detail": "auto"}
    asked = {"role": "user", "content": [image]}
    memory.do(lambda: client.responses.create(model="m", input=[asked], previous_response_id="resp_0"))
    assert len(stub.requests) == 2
    stub.script(Json(body={"input_tokens": 9}))
    other = memory.anthropic(input_tokens="provider")
    with pytest.raises(InvalidInput, match="web_search"):
        memory.do(lambda: other.messages.create(**CHAT, tools=[{"type": "web_search_20250305", "name": "web_search"}]))
    assert len(stub.requests) == 2


def test_a_counter_that_fails_reserves_nothing(memory: Side, stub: Stub) -> None:
    stub.script(Json(status=500, body=ERROR))
    client = memory.anthropic(input_tokens="provider")
    with pytest.raises(Exception, match="no"):
        memory.do(lambda: client.messages.create(**CHAT))
    assert memory.atlas.quotas.entries == []


def test_a_refusal_names_the_estimate(memory: Side, stub: Stub) -> None:
    memory.atlas.quotas.backend.limit = 50
    client = memory.openai()
    with pytest.raises(QuotaExceeded, match=r"estimate.*input_tokens="):
        memory.do(lambda: client.chat.completions.create(**CHAT))
    assert stub.requests == []


def test_embeddings_are_metered(memory: Side, stub: Stub) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    stub.script(Json(body={"object": "list", "model": "m", "data": [vector], "usage": usage}))
    client = memory.openai(prices=Prices({"m": Price("0.02", 0)}))
    memory.do(lambda: client.embeddings.create(model="m", input="Hi", encoding_format="float"))
    entry = memory.atlas.quotas.entry
    assert (entry.amount, f"{entry.cost:f}") == (8, "0.000000160")


@pytest.mark.parametrize("raw", [False, True])
def test_a_plain_transcription_is_charged_its_bytes(raw: bool, memory: Side, stub: Stub) -> None:  # noqa: FBT001  # a parameter of the test
    stub.script(Json(body="Hello", headers={"content-type": "text/plain"}))
    client = memory.openai(input_tokens=lambda body: 50)
    api = client.audio.transcriptions.with_raw_response if raw else client.audio.transcriptions
    memory.do(lambda: api.create(model="m", file=("a.mp3", b"x"), response_format="text"))
    assert memory.atlas.quotas.entry.amount == 50 + len('"Hello"')


def test_images_are_metered(memory: Side, stub: Stub) -> None:
    usage = {
        "input_tokens": 10,
        "output_tokens": 1056,
        "total_tokens": 1066,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
    }
    stub.script(Json(body={"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage}))
    client = memory.openai()
    memory.do(lambda: client.images.generate(model="m", prompt="a cat"))
    assert (memory.atlas.quotas.entry.amount, memory.atlas.quotas.entry.meta["output_image"]) == (1066, 1056)


def test_a_file_needs_a_bound_of_its_tokens(memory: Side, stub: Stub) -> None:
    told = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    stub.script(Json(body={"text": "Hi", "usage": told}))
    client = memory.openai()
    with pytest.raises(InvalidInput, match="input_tokens="):
        memory.do(lambda: client.audio.transcriptions.create(model="m", file=("a.wav", b"RIFF")))
    assert stub.requests == []
    client = memory.openai(input_tokens=lambda body: 2000)
    memory.do(lambda: client.audio.transcriptions.create(model="m", file=("a.wav", b"RIFF")))
    assert memory.atlas.quotas.entry.amount == 59


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_batches_are_refused_with_the_way_to_meter_them(provider: str, memory: Side, stub: Stub) -> None:
    with pytest.raises(InvalidInput, match=r"quotas\.reserve.*docs/metering\.md"):
        if provider == "anthropic":
            memory.do(lambda: memory.anthropic().messages.batches.create(requests=[]))
        else:
            memory.do(
                lambda: memory.openai().batches.create(
                    completion_window="24h", endpoint="/v1/responses", input_file_id="f"
                )
            )
    assert stub.requests == []


@pytest.mark.parametrize("status", [500, 503, 529])
def test_an_outage_costs_nothing(status: int, memory: Side, stub: Stub) -> None:
    stub.script(*[Json(status=status, body=ERROR, headers={"retry-after-ms": "1"})] * 3)
    client = memory.openai(settings={"max_retries": 2})
    with pytest.raises(openai.APIStatusError):
        memory.do(lambda: client.chat.completions.create(**CHAT))
    entry = memory.atlas.quotas.entry
    assert (entry.kind, entry.granted) == ("released", input_bound(CHAT) + 100), "and reserves nothing more"
    assert len(stub.requests) == 3


@pytest.mark.parametrize("charge", ["progress", "reservation", "free"])
def test_a_cut_stream_has_three_policies(charge: str, memory: Side, stub: Stub) -> None:
    stub.script(Events(events=chunks("Hello", "never"), cut=1))
    client = memory.openai(on_cut=charge)
    with pytest.raises(Exception, match="peer closed|incomplete|Connection error"):
        memory.read(lambda: client.chat.completions.create(**CHAT, stream=True))
    bound = input_bound({**CHAT, "stream": True})
    assert memory.atlas.quotas.entry.amount == {"progress": bound + 5, "reservation": bound + 100, "free": 0}[charge]


def test_no_answer_may_be_free(memory: Side, stub: Stub) -> None:
    stub.script(Hang(), Hang())
    for policy in ("reservation", "free"):
        # Connecting may take longer on a busy machine, and a request that was never sent is free.
        timeout = httpx2.Timeout(PATIENCE_S, read=0.2)
        client = memory.openai(settings={"timeout": timeout}, on_no_answer=policy)
        with pytest.raises(openai.APITimeoutError):
            memory.do(lambda client=client: client.chat.completions.create(**CHAT))
    assert [entry.amount for entry in memory.atlas.quotas.entries] == [input_bound(CHAT) + 100, 0]
    assert memory.atlas.quotas.entries[0].meta["outcome"] == "no_answer"


def test_a_refusal_inside_of_the_transport_charges_nothing(stub: Stub) -> None:
    quotas = MemoryQuotas()

    def refuse(request: Any) -> Any:
        raise QuotaExceeded(dimension="tokens", asked=2, remaining=1)

    with openai.OpenAI(
        api_key="k", max_retries=0, http_client=httpx2.Client(transport=httpx2.MockTransport(refuse))
    ) as real:
        client = guarded(real, quotas, USER)
        with pytest.raises(QuotaExceeded):
            client.chat.completions.create(**CHAT)
    assert quotas.entry.kind == "released"
