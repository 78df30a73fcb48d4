"""A FastAPI application with guards, called in this process."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI

from atlas_sdk import AsyncAtlas, User
from atlas_sdk.integrations.fastapi import install, quota


class Service:
    """An application on a database, driven from a blocking test."""

    def __init__(self, atlas: AsyncAtlas, user: User, loop: asyncio.AbstractEventLoop) -> None:
        self.atlas = atlas
        self.user = user
        self.app = FastAPI()
        install(self.app)
        self._loop = loop

    def spend(self, **ask: Any) -> Any:
        return quota(self.atlas.quotas, user=lambda: self.user, **ask)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def work() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://app") as client:
                return await client.request(method, path, **options)

        return self._loop.run_until_complete(work())

    def drive(self, scope: dict[str, Any], sending: Callable[[Any], Any], leaves: asyncio.Event | None = None) -> None:
        """Run one connection without an HTTP client. It disconnects when the event is set, or never."""
        first = [{"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request"}]

        async def receive() -> Any:
            if first:
                return first.pop()
            await (leaves or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def work() -> None:
            whole = {"method": "GET", "headers": [], "query_string": b"", "asgi": {"spec_version": "2.3"}, **scope}
            await self.app(whole, receive, sending)

        self._loop.run_until_complete(work())
