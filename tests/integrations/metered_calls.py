"""Metered calls without a network or a database: the real endpoints and guards on quotas in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from memory_quotas import USER, MemoryQuotas
from openai.types.chat import ChatCompletionChunk
from provider_stub import chunks

from atlas_sdk.integrations.bounds import input_bound
from atlas_sdk.integrations.metering.call import MeteredCall
from atlas_sdk.integrations.metering.endpoint import Tally
from atlas_sdk.integrations.metering.options import read_options
from atlas_sdk.integrations.openai.chat import ChatCompletions
from atlas_sdk.integrations.prices import Price, Prices

ASK: dict[str, Any] = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "Hi"}]}
PRICES = Prices({"m": Price(1, 2, cache_write=1)})


def call(endpoint: Any, body: dict[str, Any], **options: Any) -> tuple[MeteredCall, MemoryQuotas]:
    quotas = MemoryQuotas(options.pop("limit", None))
    return MeteredCall(read_options(quotas, USER, options), endpoint, body), quotas


def answered(endpoint: Any, body: dict[str, Any], answer: Any, **options: Any) -> SimpleNamespace:
    """Return the charge of a complete answer."""
    made, quotas = call(endpoint, body, **options)
    with quotas.guard(USER, **made.reservation_options) as guard:
        made.granted(guard)
        made.answered(guard, answer)
    return quotas.entry


def streamed(endpoint: Any, body: dict[str, Any], events: Any, *, cut: bool = False, **options: Any) -> SimpleNamespace:
    """Return the charge of a stream."""
    made, quotas = call(endpoint, {**body, "stream": True}, **options)
    tally = Tally()
    with quotas.guard(USER, **made.reservation_options) as guard:
        made.granted(guard)
        for event in events:
            endpoint.see(tally, event)
            made.progress(guard, tally)
        made.ended(guard, tally, cut=cut)
    return quotas.entry


def chat(**options: Any) -> ChatCompletions:
    return ChatCompletions(**{"asks_usage": True, "compatible": False, **options})


def chat_events(*texts: str, usages: dict[int, Any], **more: Any) -> list[ChatCompletionChunk]:
    """Return chunks, some with a usage."""
    events = [event for _, event in chunks(*texts, **more) if event != "[DONE]"]
    return [
        ChatCompletionChunk.model_validate({**event, **({"usage": usages[at]} if at in usages else {})})
        for at, event in enumerate(events)
    ]


def tokens(sent: int, made: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made, **more}


TEXT = "x" * 500
BOUND = input_bound({**ASK, "stream": True})
