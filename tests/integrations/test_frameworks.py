"""Agent frameworks, the real packages, work with guarded clients and are charged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from memory_quotas import USER, AsyncMemoryQuotas, MemoryQuotas
from patience import PATIENCE_S
from provider_stub import Events, Json, Stub, chunks, completion, message, message_events, response, response_usage

from atlas_sdk import QuotaExceeded
from atlas_sdk.integrations.anthropic import guarded as guarded_anthropic
from atlas_sdk.integrations.openai import guarded as guarded_openai

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@asynccontextmanager
async def openai_client(stub: Stub, quotas: AsyncMemoryQuotas, **options: Any) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(api_key="k", base_url=stub.url, max_retries=0) as real:
        yield guarded_openai(real, quotas, USER, **options)


@asynccontextmanager
async def anthropic_client(stub: Stub, quotas: AsyncMemoryQuotas) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(api_key="k", base_url=stub.url, max_retries=0) as real:
        yield guarded_anthropic(real, quotas, USER)


async def settled(quotas: MemoryQuotas, calls: int = 1) -> None:
    """Wait until asyncio has closed the iterators of streams."""
    async with asyncio.timeout(PATIENCE_S):
        while len(quotas.entries) < calls:  # noqa: ASYNC110  # the settlement gives no signal
            await asyncio.sleep(0)


async def pydantic_ai_openai(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    stub.script(Json(body=completion(usage=USAGE)))
    async with openai_client(stub, quotas) as client:
        agent = Agent(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client)))
        return (await agent.run("Hi")).output


async def pydantic_ai_openai_stream(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    stub.script(Events(events=chunks("Hel", "lo", usage=USAGE)))
    async with openai_client(stub, quotas) as client:
        agent = Agent(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client)))
        async with agent.run_stream("Hi") as running:
            return await running.get_output()


async def pydantic_ai_anthropic(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    stub.script(Json(body=message()))
    async with anthropic_client(stub, quotas) as client:
        agent = Agent(AnthropicModel("m", provider=AnthropicProvider(anthropic_client=client)))
        return (await agent.run("Hi")).output


async def pydantic_ai_anthropic_stream(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    stub.script(Events(events=message_events("Hel", "lo")))
    async with anthropic_client(stub, quotas) as client:
        agent = Agent(AnthropicModel("m", provider=AnthropicProvider(anthropic_client=client)))
        async with agent.run_stream("Hi") as running:
            return await running.get_output()


async def agents_chat(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner

    stub.script(Json(body=completion(usage=USAGE)))
    async with openai_client(stub, quotas) as client:
        agent = Agent(name="a", model=OpenAIChatCompletionsModel(model="m", openai_client=client))
        done = await Runner.run(agent, "Hi", run_config=RunConfig(tracing_disabled=True))
        return str(done.final_output)


async def agents_responses(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from agents import Agent, OpenAIResponsesModel, RunConfig, Runner

    stub.script(Json(body=response(usage=response_usage())))
    async with openai_client(stub, quotas) as client:
        agent = Agent(name="a", model=OpenAIResponsesModel(model="m", openai_client=client))
        done = await Runner.run(agent, "Hi", run_config=RunConfig(tracing_disabled=True))
        return str(done.final_output)


async def agents_stream(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner

    stub.script(Events(events=chunks("Hel", "lo", usage=USAGE)))
    async with openai_client(stub, quotas) as client:
        agent = Agent(name="a", model=OpenAIChatCompletionsModel(model="m", openai_client=client))
        running = Runner.run_streamed(agent, "Hi", run_config=RunConfig(tracing_disabled=True))
        async for _ in running.stream_events():
            pass
        return str(running.final_output)


async def langchain_chat(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from langchain_openai import ChatOpenAI

    stub.script(Json(body=completion(usage=USAGE)))
    async with openai_client(stub, quotas) as client:
        model = ChatOpenAI(model="m", async_client=client.chat.completions, root_async_client=client)
        return str((await model.ainvoke("Hi")).content)


async def langchain_stream(stub: Stub, quotas: AsyncMemoryQuotas) -> str:
    from langchain_openai import ChatOpenAI

    stub.script(Events(events=chunks("Hel", "lo", usage=USAGE)))
    async with openai_client(stub, quotas) as client:
        model = ChatOpenAI(model="m", async_client=client.chat.completions, root_async_client=client)
        return "".join([str(chunk.content) async for chunk in model.astream("Hi")])


RUNS: list[Callable[[Stub, AsyncMemoryQuotas], Awaitable[str]]] = [
    pydantic_ai_openai,
    pydantic_ai_openai_stream,
    pydantic_ai_anthropic,
    pydantic_ai_anthropic_stream,
    agents_chat,
    agents_responses,
    agents_stream,
    langchain_chat,
    langchain_stream,
]


async def a_refusal_is_shown(stub: Stub) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    before = len(stub.requests)
    async with openai_client(stub, AsyncMemoryQuotas(limit=50)) as client:
        agent = Agent(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client)))
        with pytest.raises(QuotaExceeded):
            await agent.run("Hi")
    assert len(stub.requests) == before


def blocking_calls_are_charged(stub: Stub) -> None:
    from langchain_openai import ChatOpenAI

    quotas = MemoryQuotas()
    stub.script(Json(body=completion(usage=USAGE)), Events(events=chunks("Hel", "lo", usage=USAGE)))
    with openai.OpenAI(api_key="k", base_url=stub.url, max_retries=0) as real:
        client = guarded_openai(real, quotas, USER)
        model = ChatOpenAI(model="m", api_key="k", client=client.chat.completions, root_client=client)
        assert model.invoke("Hi").content == "Hello"
        parts: Iterator[Any] = model.stream("Hi")
        assert "".join(str(part.content) for part in parts) == "Hello"
    assert [entry.amount for entry in quotas.entries] == [15, 15]


async def charged(run: Any, stub: Stub) -> tuple[str, MemoryQuotas]:
    """Return what a run says, and its quotas."""
    quotas = AsyncMemoryQuotas()
    said = str(await run(stub, quotas))
    await settled(quotas)
    return said, quotas


def test_frameworks_are_charged(stub: Stub) -> None:
    # One test, so that only one process of the suite imports the frameworks: that takes seconds.
    for run in RUNS:
        said, quotas = asyncio.run(charged(run, stub))
        assert (run.__name__, said, quotas.entry.amount) == (run.__name__, "Hello", 15)
        assert not {"estimated", "cut"} & quotas.entry.meta.keys(), run.__name__
    asyncio.run(a_refusal_is_shown(stub))
    blocking_calls_are_charged(stub)
