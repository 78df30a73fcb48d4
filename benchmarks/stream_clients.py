"""The clients of the streams: ours, with a guard around every stream, and those of a gateway."""

import asyncio
import json
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from attrs import define, frozen

from atlas_sdk import AsyncAtlas, GuardOptions, QuotaExceeded, User
from atlas_sdk.guards import AsyncGuard

__all__ = ["MODEL", "Load", "Outcome", "replica", "through_gateway"]

MODEL = "stub"
_MESSAGES = [{"role": "user", "content": "hi"}]
#: The stub's count of the messages above.
PROMPT_TOKENS = 8
#: How long a stream waits for what others give back, and how long if at most this number of streams hold the rest.
_WAIT, _SOON = timedelta(seconds=30), timedelta(milliseconds=200)
_FEW = 3
#: Seconds that a stream may wait for one of the connections: at the start all streams ask at once.
_CONNECTION_S = 60.0
#: Seconds after which a gateway's client asks again when others hold the rest of the budget.
_BUSY_S = 0.1


@frozen(kw_only=True)
class Load:
    """What each process runs."""

    #: The address of the provider, or of the gateway before it.
    stub: str
    max_tokens: int
    #: Streams of each tenant at the same time.
    streams: int


@define
class Outcome:
    """The streams that a process has run, and how many of them the budget ended early."""

    streams: int = 0
    cut: int = 0


def replica(home: Path, load: Load, users: Sequence[User], number: int) -> Outcome:
    """Run one process's share of the streams of every user, each until the user's budget is spent."""
    del number
    return asyncio.run(_replica(home, load, users))


async def _replica(home: Path, load: Load, users: Sequence[User]) -> Outcome:
    import aiohttp

    outcome = Outcome()
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        AsyncAtlas.open(home=home, connect_timeout_s=_CONNECTION_S) as atlas,
        aiohttp.ClientSession(connector=connector) as session,
    ):

        async def client(user: User) -> None:
            while await _guarded(atlas, session, load, user, outcome):
                pass

        await asyncio.gather(*(client(user) for user in users for _ in range(load.streams)))
    return outcome


async def _guarded(atlas: AsyncAtlas, session: Any, load: Load, user: User, outcome: Outcome) -> bool:
    """Run one stream; return False when the user's budget is spent."""
    guard = await _entered(atlas, user, PROMPT_TOKENS + load.max_tokens)
    if guard is None:
        return False
    try:
        most = guard.tokens - PROMPT_TOKENS
        used, finish, _ = await _stream(session, load.stub, {"x-hardcap-tenant": user.email}, most)
        guard.settle(tokens=used)
        outcome.streams += 1
        outcome.cut += finish == "length" and most < load.max_tokens
    finally:
        await guard.__aexit__(None, None, None)
    return True


async def _entered(atlas: AsyncAtlas, user: User, whole: int) -> AsyncGuard | None:
    """Return an entered guard; None when the user's budget is spent.

    The guard reserves the most that the stream may use, so the budget holds whatever the provider generates. Unused
    tokens return at the end of each stream, and the others wait for them. When nobody holds any, a stream takes what is
    left: this one may be cut.
    """
    options: GuardOptions = {"tokens": whole}
    while True:
        guard = atlas.quotas.guard(user, **options)
        try:
            return await guard.__aenter__()
        except QuotaExceeded as refusal:
            if refusal.held:
                # While few streams run, what is left may be all that there will ever be.
                options = {"tokens": whole, "wait": _WAIT if refusal.held > _FEW * whole else _SOON}
            elif "min_tokens" in options:
                return None
            else:
                options = {"tokens": whole, "min_tokens": PROMPT_TOKENS + 1}


async def through_gateway(load: Load, names: Sequence[str]) -> Outcome:
    """Run the streams of every tenant through a gateway, each until the gateway says that the budget is spent."""
    import aiohttp

    outcome = Outcome()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(name: str) -> None:
            headers = {"authorization": f"Bearer {name}"}
            while True:
                used, finish, refusal = await _stream(session, load.stub, headers, load.max_tokens)
                if refusal == "busy":
                    await asyncio.sleep(_BUSY_S * random.uniform(0.5, 1.5))
                elif refusal:
                    return
                else:
                    outcome.streams += 1
                    outcome.cut += finish == "length" and used < PROMPT_TOKENS + load.max_tokens

        await asyncio.gather(*(client(name) for name in names for _ in range(load.streams)))
    return outcome


async def _stream(session: Any, address: str, headers: dict[str, str], most: int) -> tuple[int, str, str]:
    """Read a whole stream; return the tokens used, the reason for its end, and the code of a refusal or ""."""
    body = {
        "model": MODEL,
        "messages": _MESSAGES,
        "max_tokens": most,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    used, finish = PROMPT_TOKENS, ""
    async with session.post(f"{address}/v1/chat/completions", json=body, headers=headers) as answer:
        if answer.status == 429:
            return 0, "", str((await answer.json())["error"]["code"])
        answer.raise_for_status()
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if usage := chunk.get("usage"):
                used = usage["total_tokens"]
            for choice in chunk["choices"]:
                finish = choice["finish_reason"] or finish
    return used, finish, ""
