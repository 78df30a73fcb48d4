"""Metered clients of either kind, and the ledger with their charges."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import psycopg
from provider_stub import Stub

from atlas_sdk import Atlas, User
from atlas_sdk.integrations.anthropic import guarded as guarded_anthropic
from atlas_sdk.integrations.openai import guarded as guarded_openai


class Ledger:
    """The ledger of one user, read from the database."""

    def __init__(self, atlas: Atlas, dsn: str, user: User) -> None:
        self._atlas = atlas
        self._dsn = dsn
        self._user = user

    def entries(self) -> list[SimpleNamespace]:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            rows = connection.execute(
                """SELECT kind, amount, cost, meta, granted_tokens FROM usage_ledger WHERE user_id = %s
                   ORDER BY created_at, id""",
                (self._user.id,),
            ).fetchall()
        names = ("kind", "amount", "cost", "meta", "granted")
        return [SimpleNamespace(**dict(zip(names, row, strict=True))) for row in rows]

    def entry(self) -> SimpleNamespace:
        """Check that every reservation is settled and that the counters match the ledger; return the only entry."""
        assert self._atlas.quotas.reservations(self._user) == []
        usage = self._atlas.quotas.usage(self._user)
        (entry,) = self.entries()
        assert (usage.tokens_used, usage.tokens_held, usage.cost_held) == (entry.amount, 0, 0)
        assert usage.cost_used == entry.cost
        assert self._atlas.quotas.verify().balanced
        return entry

    def charged(self) -> tuple[int, Decimal]:
        entry = self.entry()
        assert entry.kind == "tokens"
        return entry.amount, entry.cost


class Side:
    """A blocking side: our client and the provider's clients."""

    name = "blocking"

    def __init__(self, atlas: Any, user: User, stub: Stub) -> None:
        self.atlas = atlas
        self.user = user
        self.stub = stub
        self._opened: list[Any] = []

    def _client(self, kind: Any, **options: Any) -> Any:
        made = kind(**{"api_key": "key", "max_retries": 0, "base_url": self.stub.url, **options})
        self._opened.append(made)
        return made

    def anthropic(self, *, settings: dict[str, Any] | None = None, **options: Any) -> Any:
        client = self._client(anthropic.Anthropic, **(settings or {}))
        return guarded_anthropic(client, self.atlas.quotas, self.user, **options)

    def openai(self, *, settings: dict[str, Any] | None = None, **options: Any) -> Any:
        client = self._client(openai.OpenAI, **(settings or {}))
        return guarded_openai(client, self.atlas.quotas, self.user, **options)

    def do(self, call: Callable[[], Any]) -> Any:
        return call()

    def read(self, opened: Callable[[], Any], *, take: int | None = None) -> list[Any]:
        """Read a stream to its end, or read `take` events and close it."""
        stream, events = opened(), []
        for event in stream:
            events.append(event)
            if len(events) == take:
                stream.close()
                break
        return events

    def inside(self, manager: Callable[[], Any], *, take: int | None = None) -> list[Any]:
        """Read the stream of a context manager to its end, or read `take` events and leave the context."""
        events = []
        with manager() as stream:
            for event in stream:
                events.append(event)
                if len(events) == take:
                    break
        return events

    def close(self) -> None:
        for client in self._opened:
            client.close()


class AsyncSide(Side):
    """An asyncio side. Tests call it like the blocking one, without `await`."""

    name = "asyncio"

    def __init__(self, atlas: Any, user: User, stub: Stub, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(atlas, user, stub)
        self.loop = loop

    def anthropic(self, *, settings: dict[str, Any] | None = None, **options: Any) -> Any:
        client = self._client(anthropic.AsyncAnthropic, **(settings or {}))
        return guarded_anthropic(client, self.atlas.quotas, self.user, **options)

    def openai(self, *, settings: dict[str, Any] | None = None, **options: Any) -> Any:
        client = self._client(openai.AsyncOpenAI, **(settings or {}))
        return guarded_openai(client, self.atlas.quotas, self.user, **options)

    def do(self, call: Callable[[], Any]) -> Any:
        async def work() -> Any:
            result = call()
            return await result if inspect.isawaitable(result) else result

        return self.loop.run_until_complete(work())

    def read(self, opened: Callable[[], Any], *, take: int | None = None) -> list[Any]:
        async def work() -> list[Any]:
            stream, events = await opened(), []
            async for event in stream:
                events.append(event)
                if len(events) == take:
                    await stream.close()
                    break
            return events

        return self.do(work)

    def inside(self, manager: Callable[[], Any], *, take: int | None = None) -> list[Any]:
        async def work() -> list[Any]:
            events = []
            async with manager() as stream:
                async for event in stream:
                    events.append(event)
                    if len(events) == take:
                        break
            return events

        return self.do(work)

    def close(self) -> None:
        for client in self._opened:
            self.do(client.close)
