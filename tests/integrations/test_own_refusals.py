"""A refusal of an inner guard is known to have used nothing, so the guards around it charge nothing for it."""

from __future__ import annotations

from typing import Any

import pytest
from memory_quotas import USER, MemoryQuotas
from provider_stub import Stub
from sides import AsyncSide, Side

from atlas_sdk import QuotaExceeded

ASK: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
OUTER = {"tokens": 5000, "cost": 0}
INNER = {"tokens": 10, "cost": 0}


def test_a_refused_call_of_a_client_charges_the_guard_around_it_nothing(memory: Side, stub: Stub) -> None:
    quotas = memory.atlas.quotas
    quotas.backend.limit = 5100
    client = memory.openai()

    def blocking() -> None:
        with quotas.guard(USER, **OUTER):
            client.chat.completions.create(**ASK)

    async def awaited() -> None:
        async with quotas.guard(USER, **OUTER):
            await client.chat.completions.create(**ASK)

    with pytest.raises(QuotaExceeded):
        memory.do(awaited if isinstance(memory, AsyncSide) else blocking)
    assert quotas.entry.kind == "released"
    assert stub.requests == []


def test_every_guard_around_a_refusal_is_released() -> None:
    quotas = MemoryQuotas(5010)
    with pytest.raises(QuotaExceeded), quotas.guard(USER, **OUTER), quotas.guard(USER, **INNER):
        quotas.guard(USER, **INNER).__enter__()
    assert [(entry.kind, entry.granted) for entry in quotas.entries] == [("released", 10), ("released", 5000)]


def test_reported_usage_is_charged_all_the_same() -> None:
    quotas = MemoryQuotas(5000)
    with pytest.raises(QuotaExceeded), quotas.guard(USER, **OUTER) as outer:
        outer.progress(tokens=70)
        quotas.guard(USER, **INNER).__enter__()
    assert (quotas.entry.kind, quotas.entry.amount) == ("tokens", 70)


def test_a_body_that_goes_on_after_a_refusal_is_charged() -> None:
    quotas = MemoryQuotas(5000)
    with quotas.guard(USER, **OUTER), pytest.raises(QuotaExceeded):
        quotas.guard(USER, **INNER).__enter__()
    assert (quotas.entry.kind, quotas.entry.amount) == ("tokens", 5000)


def test_an_error_of_another_kind_leaves_the_outcome_unknown() -> None:
    quotas = MemoryQuotas()
    with pytest.raises(QuotaExceeded), quotas.guard(USER, **OUTER):
        # Not of an inner guard: a refusal to store a file, for example.
        raise QuotaExceeded(dimension="memory_bytes", asked=2, remaining=1)
    assert quotas.entry.amount == 5000
