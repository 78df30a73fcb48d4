"""A service for two tenants. Each has limits, streams are charged when they end, and refusals say when to try again.

Run it: python examples/04_fastapi.py                        (pip install "atlasengine[fastapi]" httpx)
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from starlette.types import Scope

from atlas_sdk import AsyncAtlas, User
from atlas_sdk.guards import AsyncGuard
from atlas_sdk.integrations.asgi import QuotaMiddleware
from atlas_sdk.integrations.fastapi import install, quota

TENANTS: dict[str, User] = {}


def of_request(scope: Scope) -> User | None:
    key = dict(scope["headers"]).get(b"x-api-key", b"")
    return TENANTS.get(key.decode())


def current_user(x_api_key: Annotated[str, Header()] = "") -> User:
    if x_api_key not in TENANTS:
        raise HTTPException(401)
    return TENANTS[x_api_key]


def make_app(atlas: AsyncAtlas) -> FastAPI:
    app = FastAPI()
    app.add_middleware(QuotaMiddleware, quotas=atlas.quotas, user=of_request, skip=("/health",))
    install(app)

    # Reserve 12 tokens for an answer, or at least 4 if fewer than 12 are left in the month.
    spend = quota(atlas.quotas, user=current_user, tokens=12, min_tokens=4)

    @app.post("/chat")
    async def chat(prompt: str, g: Annotated[AsyncGuard, Depends(spend)]) -> StreamingResponse:
        async def answer() -> AsyncIterator[str]:
            async for number, word in model(prompt, max_tokens=g.tokens):
                g.progress(tokens=number)  # if the reader disconnects, this is charged
                yield f"{word} "

        return StreamingResponse(answer(), media_type="text/plain")

    return app


async def model(prompt: str, *, max_tokens: int) -> AsyncIterator[tuple[int, str]]:
    """Stand in for a model whose tokens are words."""
    for number, word in enumerate(f"You said {prompt!r}, and that is all I have to say about it.".split(), start=1):
        if number > max_tokens:
            return
        await asyncio.sleep(0)
        yield number, word


def show(who: str, answer: httpx.Response) -> None:
    print(f"{who}: {answer.status_code} {answer.reason_phrase}")
    for name in ("ratelimit-policy", "ratelimit", "retry-after"):
        if name in answer.headers:
            print(f"  {name}: {answer.headers[name]}")
    print(f"  {answer.json()['detail'] if answer.is_error else answer.text.strip()}")


async def main() -> None:
    # The database is removed at the end. In your own service, enter AsyncAtlas.open() in the lifespan.
    async with AsyncAtlas.temporary() as atlas:
        # A real service already has its tenants, and finds them by their session or key.
        for name, tokens, requests in (("ada", 20, 100), ("bob", 1000, 3)):
            TENANTS[name] = await atlas.users.create(f"{name}@example.com", name=name)
            await atlas.quotas.set_limits(TENANTS[name], tokens=tokens, requests_per_hour=requests)
        transport = httpx.ASGITransport(make_app(atlas))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            for name, calls in (("ada", 3), ("bob", 4)):
                for _ in range(calls):
                    show(name, await client.post("/chat", params={"prompt": "hello"}, headers={"x-api-key": name}))
                used = await atlas.quotas.usage(TENANTS[name])
                print(f"{name} has used {used.tokens_used} of {used.tokens_limit} tokens\n")


if __name__ == "__main__":
    asyncio.run(main())
