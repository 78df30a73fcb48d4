"""Calls of the Anthropic client that fail. A reservation is released only if the provider certainly charged nothing."""

from __future__ import annotations

import asyncio
import socket
from decimal import Decimal

import anthropic
import pytest
from anthropic_asks import ASK, BOUND, ERROR, PRICES
from provider_stub import Drop, Hang, Json, Stub, message
from sides import Ledger, Side

from atlas_sdk import AsyncAtlas, User
from atlas_sdk.integrations.anthropic import guarded

#: A header that tells a client not to wait before it tries again.
AT_ONCE = {"retry-after-ms": "1"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
def test_refused_by_the_provider_is_given_back(status: int, side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(status=status, body=ERROR))
    client = side.anthropic(prices=PRICES)
    with pytest.raises(anthropic.APIStatusError) as error:
        side.do(lambda: client.messages.create(**ASK))
    assert error.value.status_code == status
    entry = books.entry()
    assert (entry.kind, entry.amount, entry.cost) == ("released", 0, 0)


@pytest.mark.parametrize("status", [500, 529])
def test_failed_by_the_provider_is_given_back(status: int, side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(status=status, body=ERROR))
    client = side.anthropic(prices=PRICES)
    with pytest.raises(anthropic.APIStatusError):
        side.do(lambda: client.messages.create(**ASK))
    assert books.entry().kind == "released"


@pytest.mark.parametrize(("status", "policy"), [(408, {}), (500, {"on_failed": "reservation"})])
def test_unknown_outcome_is_charged_in_full(
    status: int, policy: dict[str, str], side: Side, stub: Stub, books: Ledger
) -> None:
    stub.script(Json(status=status, body=ERROR))
    client = side.anthropic(prices=PRICES, **policy)
    with pytest.raises(anthropic.APIStatusError):
        side.do(lambda: client.messages.create(**ASK))
    assert books.charged() == (BOUND + 100, (Decimal(BOUND) * Decimal("3.75") + 1500) / 1_000_000)


def test_unknown_outcome_may_be_given_back(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(status=408, body=ERROR))
    client = side.anthropic(on_unknown="release")
    with pytest.raises(anthropic.APIStatusError):
        side.do(lambda: client.messages.create(**ASK))
    assert books.entry().kind == "released"


def test_no_connection_is_given_back(side: Side, books: Ledger) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        # The client tries twice, and the connection is refused both times.
        client = side.anthropic(settings={"base_url": url, "max_retries": 1})
        with pytest.raises(anthropic.APIConnectionError):
            side.do(lambda: client.messages.create(**ASK))
    assert books.entry().kind == "released"


def test_lost_connection_is_charged_in_full(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Drop())
    client = side.anthropic()
    with pytest.raises(anthropic.APIConnectionError):
        side.do(lambda: client.messages.create(**ASK))
    assert books.charged() == (BOUND + 100, 0)


def test_time_out_is_charged_in_full(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Hang())
    client = side.anthropic(settings={"timeout": 0.2})
    with pytest.raises(anthropic.APITimeoutError):
        side.do(lambda: client.messages.create(**ASK))
    assert books.charged() == (BOUND + 100, 0)


def test_tries_again_under_one_guard(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(status=408, body=ERROR, headers=AT_ONCE), Json(body=message()))
    client = side.anthropic(settings={"max_retries": 2})
    side.do(lambda: client.messages.create(**ASK))
    assert len(stub.requests) == 2
    assert books.charged() == (BOUND + 100 + 15, 0), "nobody knows what became of the first"


def test_every_try_must_have_been_free(side: Side, stub: Stub, books: Ledger) -> None:
    refused = Json(status=429, body=ERROR, headers=AT_ONCE)
    stub.script(refused, refused)
    client = side.anthropic(settings={"max_retries": 1})
    with pytest.raises(anthropic.RateLimitError):
        side.do(lambda: client.messages.create(**ASK))
    assert books.entry().kind == "released"


def test_one_try_of_unknown_outcome_is_charged(side: Side, stub: Stub, books: Ledger) -> None:
    stub.script(Json(status=408, body=ERROR, headers=AT_ONCE), Json(status=429, body=ERROR))
    client = side.anthropic(settings={"max_retries": 1})
    with pytest.raises(anthropic.RateLimitError):
        side.do(lambda: client.messages.create(**ASK))
    assert books.charged() == (BOUND + 100, 0)


def test_cancelled_call_is_charged_in_full(dsn: str, user: User, stub: Stub, books: Ledger) -> None:
    stub.script(Hang())

    async def work() -> None:
        async with (
            AsyncAtlas.open(dsn) as awaited,
            anthropic.AsyncAnthropic(api_key="key", base_url=stub.url, max_retries=0) as real,
        ):
            client = guarded(real, awaited.quotas, user)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.messages.create(**ASK)

    asyncio.run(work())
    assert len(stub.requests) == 1
    assert books.charged() == (BOUND + 100, 0)
