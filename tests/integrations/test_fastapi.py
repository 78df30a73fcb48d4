"""The dependency and the handlers: a guard lives as long as its response."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi_service import Service
from sides import Ledger
from starlette.requests import HTTPConnection
from starlette.responses import StreamingResponse

from atlas_sdk import Atlas, InvalidInput, User
from atlas_sdk.guards import AsyncGuard
from atlas_sdk.integrations.asgi import QuotaMiddleware
from atlas_sdk.integrations.fastapi import quota


def test_endpoint_gets_a_guard_and_settles_it(service: Service, books: Ledger, atlas: Atlas, user: User) -> None:
    spend = service.spend(tokens=1000, meta={"route": "chat"})

    @service.app.post("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> dict[str, int]:
        g.settle(tokens=321)
        return {"granted": g.tokens}

    assert service.request("POST", "/chat").json() == {"granted": 1000}
    assert books.charged() == (321, 0)
    assert books.entry().meta["route"] == "chat"
    assert atlas.quotas.usage(user).requests_last_hour == 1


def test_refusal_is_answered_before_the_endpoint(service: Service, atlas: Atlas, user: User, books: Ledger) -> None:
    spend = service.spend(tokens=1000)
    ran = []

    @service.app.post("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        ran.append(g)

    atlas.quotas.set_limits(user, tokens=999)
    answer = service.request("POST", "/chat")
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["ratelimit-policy"] == '"tokens";q=999'
    assert "retry-after" not in answer.headers
    assert (answer.json()["dimension"], answer.json()["asked"], answer.json()["remaining"]) == ("tokens", 1000, 999)
    assert ran == []
    assert books.entries() == []


def test_stream_is_settled_after_its_end(service: Service, atlas: Atlas, user: User, books: Ledger) -> None:
    spend = service.spend(tokens=1000)

    @service.app.get("/stream")
    async def stream(g: Annotated[AsyncGuard, Depends(spend)]) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for so_far in (100, 200):
                g.progress(tokens=so_far)
                yield "x"
            g.settle(tokens=250)

        return StreamingResponse(body())

    held = []

    async def sending(message: Any) -> None:
        if message.get("body"):
            held.append(len(await service.atlas.quotas.reservations(user)))

    service.drive({"type": "http", "path": "/stream"}, sending)
    assert held == [1, 1]
    assert books.charged() == (250, 0)


def test_stream_whose_reader_leaves_is_charged_what_progressed(service: Service, books: Ledger) -> None:
    spend = service.spend(tokens=1000)
    leaves = asyncio.Event()

    @service.app.get("/stream")
    async def stream(g: Annotated[AsyncGuard, Depends(spend)]) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            g.progress(tokens=100)
            yield "x"
            await asyncio.Event().wait()

        return StreamingResponse(body())

    async def sending(message: Any) -> None:
        if message.get("body"):
            leaves.set()

    service.drive({"type": "http", "path": "/stream"}, sending, leaves)
    assert books.charged() == (100, 0)


def test_invalid_request_gives_everything_back(service: Service, books: Ledger) -> None:
    spend = service.spend(tokens=1000)

    @service.app.get("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)], count: int) -> None:
        raise AssertionError

    assert service.request("GET", "/chat", params={"count": "many"}).status_code == 422
    entry = books.entry()
    assert (entry.kind, entry.amount) == ("released", 0)


@pytest.mark.parametrize(("on_unknown", "kind"), [("charge", "tokens"), ("release", "released")])
def test_endpoint_that_fails_is_an_unknown_outcome(on_unknown: str, kind: str, service: Service, books: Ledger) -> None:
    spend = service.spend(tokens=1000, on_unknown=on_unknown)

    @service.app.get("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        raise HTTPException(502)

    assert service.request("GET", "/chat").status_code == 502
    assert books.entry().kind == kind


def test_request_that_the_middleware_counted_is_not_counted_again(service: Service, atlas: Atlas, user: User) -> None:
    service.app.add_middleware(QuotaMiddleware, quotas=service.atlas.quotas, user=lambda scope: user)
    spend, twice = service.spend(tokens=10), service.spend(tokens=10, requests=2)

    @service.app.get("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        g.settle(tokens=1)

    @service.app.get("/twice")
    async def chat_twice(g: Annotated[AsyncGuard, Depends(twice)]) -> None:
        g.settle(tokens=1)

    assert service.request("GET", "/chat").status_code == 200
    assert atlas.quotas.usage(user).requests_last_hour == 1
    assert service.request("GET", "/twice").status_code == 200
    assert atlas.quotas.usage(user).requests_last_hour == 4


def test_two_dependencies_of_a_request_count_it_once(service: Service, atlas: Atlas, user: User) -> None:
    one, two, counting = service.spend(tokens=10), service.spend(cost="0.01"), service.spend()

    @service.app.get("/chat")
    async def chat(
        g: Annotated[AsyncGuard, Depends(one)],
        other: Annotated[AsyncGuard, Depends(two)],
        third: Annotated[AsyncGuard, Depends(counting)],
    ) -> None:
        g.settle(tokens=1)
        other.settle(cost="0.001")

    assert service.request("GET", "/chat").status_code == 200
    usage = atlas.quotas.usage(user)
    assert (usage.requests_last_hour, usage.tokens_used, usage.cost_used) == (1, 1, Decimal("0.001"))


def test_dependency_that_only_counts_has_nothing_to_do_after_the_middleware(
    service: Service, atlas: Atlas, user: User
) -> None:
    sub = FastAPI()
    sub.add_middleware(QuotaMiddleware, quotas=service.atlas.quotas, user=lambda scope: user, paths=("/chat",))
    service.app.mount("/sub", sub)
    service.app.add_middleware(QuotaMiddleware, quotas=service.atlas.quotas, user=lambda scope: user, skip=("/free",))
    counting = service.spend()

    @sub.get("/chat")
    @service.app.get("/free")
    async def chat(g: Annotated[AsyncGuard, Depends(counting)]) -> None:
        pass

    assert service.request("GET", "/sub/chat").status_code == 200
    assert atlas.quotas.usage(user).requests_last_hour == 1
    assert service.request("GET", "/free").status_code == 200
    assert atlas.quotas.usage(user).requests_last_hour == 2


def test_preflights_are_free_of_requests(service: Service, atlas: Atlas, user: User, books: Ledger) -> None:
    spend = service.spend(tokens=10)

    @service.app.options("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        g.settle(tokens=1)

    assert service.request("OPTIONS", "/chat").status_code == 200
    assert books.charged() == (1, 0)
    assert atlas.quotas.usage(user).requests_last_hour == 0


def test_requests_of_two_users_are_counted_for_each(service: Service, atlas: Atlas, user: User) -> None:
    team = atlas.users.create(f"{uuid.uuid4()}@example.com")
    service.app.add_middleware(QuotaMiddleware, quotas=service.atlas.quotas, user=lambda scope: team)
    counting = service.spend()

    @service.app.get("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(counting)]) -> None:
        pass

    assert service.request("GET", "/chat").status_code == 200
    assert [atlas.quotas.usage(one).requests_last_hour for one in (user, team)] == [1, 1]


def test_middleware_does_not_speak_over_a_refusal(service: Service, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, tokens=9, requests_per_hour=100)
    service.app.add_middleware(QuotaMiddleware, quotas=service.atlas.quotas, user=lambda scope: user)
    spend = service.spend(tokens=10)

    @service.app.get("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        raise AssertionError

    answer = service.request("GET", "/chat")
    assert answer.status_code == 403
    (told,) = answer.headers.get_list("ratelimit")
    assert told.startswith('"tokens";r=9')


def test_user_is_a_dependency_as_any_other(service: Service, user: User, books: Ledger) -> None:
    async def current_user(authorization: Annotated[str, Header()] = "") -> User:
        if authorization != "ada":
            raise HTTPException(401)
        return user

    spend = quota(service.atlas.quotas, user=current_user, tokens=10)

    @service.app.get("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        g.settle(tokens=1)

    assert service.request("GET", "/chat").status_code == 401
    assert books.entries() == []
    assert service.request("GET", "/chat", headers={"authorization": "ada"}).status_code == 200
    assert books.charged() == (1, 0)


def test_blocking_quotas_are_refused(atlas: Atlas, user: User) -> None:
    with pytest.raises(TypeError, match="AsyncAtlas"):
        quota(atlas.quotas, user=lambda: user, tokens=10)


def test_key_is_found_from_the_connection(service: Service, books: Ledger) -> None:
    def key(connection: HTTPConnection) -> str:
        return connection.url.path

    spend = service.spend(tokens=10, idempotency_key=key)

    @service.app.post("/orders/{order}")
    async def post(order: str, g: Annotated[AsyncGuard, Depends(spend)]) -> int:
        g.settle(tokens=3)
        return g.tokens

    assert [service.request("POST", f"/orders/{order}").status_code for order in "121"] == [200, 200, 409]
    assert [entry.amount for entry in books.entries()] == [3, 3]


def test_constant_key_is_refused(service: Service) -> None:
    with pytest.raises(InvalidInput) as refused:
        service.spend(tokens=10, idempotency_key="order")
    assert refused.value.field == "idempotency_key"
