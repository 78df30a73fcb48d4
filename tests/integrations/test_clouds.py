"""The clients of clouds, which share no base class with the usual ones."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest
from memory_quotas import USER, AsyncMemoryQuotas, MemoryQuotas
from provider_stub import Events, Json, Stub, chunks, completion, message, message_events
from sides import AsyncSide, Side

from atlas_sdk.integrations.anthropic import guarded as guarded_anthropic
from atlas_sdk.integrations.openai import guarded as guarded_openai

ASK: dict[str, Any] = {"model": "claude-test-1", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
#: By cloud: the library, the classes, and the options of a client beside its address.
CLOUDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "vertex": (anthropic, "AnthropicVertex", {"region": "us", "project_id": "p", "access_token": "t"}),
    "bedrock": (anthropic, "AnthropicBedrock", {"aws_region": "us-east-1", "api_key": "k"}),
    "mantle": (anthropic, "AnthropicBedrockMantle", {"aws_region": "us-east-1", "api_key": "k"}),
    "foundry": (anthropic, "AnthropicFoundry", {"api_key": "k"}),
    "azure": (openai, "AzureOpenAI", {"api_key": "k", "api_version": "2026-01-01"}),
    "openai_bedrock": (openai, "BedrockOpenAI", {"api_key": "k", "aws_region": "us-east-1"}),
}


def client_of(cloud: str, side: Side, *, url: str | None = None) -> Any:
    """Return a cloud's client of the side's kind."""
    library, name, options = CLOUDS[cloud]
    kind = getattr(library, f"Async{name}" if isinstance(side, AsyncSide) else name)
    address = {"azure_endpoint" if cloud == "azure" else "base_url": url or side.stub.url}
    client = kind(**options, **address, max_retries=0)
    side._opened.append(client)
    return client


def guarded(cloud: str, *args: Any, **options: Any) -> Any:
    return (guarded_anthropic if CLOUDS[cloud][0] is anthropic else guarded_openai)(*args, **options)


def ask(cloud: str, client: Any, **more: Any) -> Any:
    if CLOUDS[cloud][0] is anthropic:
        return client.messages.create(**ASK, **more)
    return client.chat.completions.create(**ASK, **more)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_clouds_client_is_metered(cloud: str, memory: Side, stub: Stub) -> None:
    answer = message() if CLOUDS[cloud][0] is anthropic else completion()
    stub.script(Json(body=answer), Json(body=answer))
    real = client_of(cloud, memory)
    client = guarded(cloud, real, memory.atlas.quotas, USER)
    assert isinstance(client, type(real))
    memory.do(lambda: ask(cloud, client))
    memory.do(lambda: ask(cloud, client.with_options(timeout=5)))
    assert [entry.amount for entry in memory.atlas.quotas.entries] == [15, 15]
    assert len(stub.requests) == 2


@pytest.mark.parametrize("cloud", ["vertex", "mantle", "azure"])
def test_a_clouds_stream_is_metered(cloud: str, memory: Side, stub: Stub) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    events = message_events("Hello") if CLOUDS[cloud][0] is anthropic else chunks("Hello", usage=usage)
    stub.script(Events(events=events))
    client = guarded(cloud, client_of(cloud, memory), memory.atlas.quotas, USER)
    memory.read(lambda: ask(cloud, client, stream=True))
    assert memory.atlas.quotas.entry.amount == 15


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_wrong_kind_of_quotas_is_refused(cloud: str, memory: Side) -> None:
    awaited = isinstance(memory, AsyncSide)
    wrong = MemoryQuotas() if awaited else AsyncMemoryQuotas()
    wanted = "asyncio client, so it needs the quotas of an AsyncAtlas" if awaited else "blocking client"
    with pytest.raises(TypeError, match=wanted):
        guarded(cloud, client_of(cloud, memory), wrong, USER)


@pytest.mark.parametrize("guard", [guarded_anthropic, guarded_openai])
def test_what_is_no_client_is_refused(guard: Any) -> None:
    with pytest.raises(TypeError, match="no client"):
        guard(object(), MemoryQuotas(), USER)


def test_a_request_that_is_never_sent_is_free(memory: Side, stub: Stub) -> None:
    # The client refuses a model without a name before it sends anything.
    client = guarded("bedrock", client_of("bedrock", memory), memory.atlas.quotas, USER)
    with pytest.raises(ValueError, match="non-empty"):
        memory.do(lambda: client.messages.create(**{**ASK, "model": ""}))
    assert memory.atlas.quotas.entry.kind == "released"
    assert stub.requests == []
