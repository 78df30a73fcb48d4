"""The dependency and the handlers: a guard lives as long as its response."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, WebSocket
from sides import Ledger
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import StreamingResponse
from starlette.routing import Route

from atlas_sdk import (
    AlreadyExists,
    AsyncAtlas,
    Atlas,
    DatabaseUnreachable,
    IntegrityFailure,
    InvalidInput,
    InvalidToken,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    User,
)
from atlas_sdk.guards import AsyncGuard
from atlas_sdk.integrations.asgi import QuotaMiddleware
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
        """Run one connection by hand; the client leaves when the event says so."""
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


@pytest.fixture
def service(dsn: str, user: User) -> Iterator[Service]:
    loop = asyncio.new_event_loop()
    client = AsyncAtlas.open(dsn)
    loop.run_until_complete(client.connect())
    yield Service(client, user, loop)
    loop.run_until_complete(client.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


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


@pytest.mark.parametrize("can_answer", [True, False])
def test_refused_websocket(*, can_answer: bool, service: Service, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, tokens=9)
    spend = service.spend(tokens=10)

    @service.app.websocket("/ws")
    async def chat(websocket: WebSocket, g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        raise AssertionError

    sent: list[Any] = []

    async def sending(message: Any) -> None:
        sent.append(message)

    extensions: Any = {"websocket.http.response": {}} if can_answer else {}
    service.drive({"type": "websocket", "path": "/ws", "extensions": extensions}, sending)
    if can_answer:
        assert sent[0]["status"] == 403
        assert json.loads(sent[1]["body"])["dimension"] == "tokens"
    else:
        assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1013)]


def test_refusal_inside_of_an_open_websocket_closes_it(service: Service, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, tokens=9)

    @service.app.websocket("/ws")
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        async with service.atlas.quotas.guard(user, tokens=10):
            raise AssertionError

    sent: list[Any] = []

    async def sending(message: Any) -> None:
        sent.append(message)

    service.drive({"type": "websocket", "path": "/ws", "extensions": {"websocket.http.response": {}}}, sending)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 1013


def test_websocket_has_a_guard(service: Service, books: Ledger) -> None:
    spend = service.spend(tokens=10)

    @service.app.websocket("/ws")
    async def chat(websocket: WebSocket, g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        await websocket.accept()
        g.settle(tokens=4)
        await websocket.close()

    async def sending(message: Any) -> None:
        pass

    service.drive({"type": "websocket", "path": "/ws"}, sending)
    assert books.charged() == (4, 0)


def test_starlette_answers_too(service: Service, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, tokens=9)

    async def chat(request: Any) -> Any:
        async with service.atlas.quotas.guard(user, tokens=10):
            raise AssertionError

    async def gone(request: Any) -> Any:
        raise DatabaseUnreachable("db.internal is gone")

    service.app = Starlette(routes=[Route("/chat", chat), Route("/gone", gone)])
    install(service.app)
    refused = service.request("GET", "/chat")
    assert (refused.status_code, refused.json()["dimension"]) == (403, "tokens")
    lost = service.request("GET", "/gone")
    assert lost.status_code == 503
    assert int(lost.headers["retry-after"]) > 0
    assert "db.internal" not in lost.text


@pytest.mark.parametrize(
    ("problem", "status", "told"),
    [
        (NotFound("no project 7", kind="project", name="7"), 404, {"kind": "project", "name": "7"}),
        (AlreadyExists("a@b.c is taken", kind="user", name="a@b.c"), 409, {"kind": "user", "name": "a@b.c"}),
        (InvalidInput("name must not be empty", field="name"), 422, {"field": "name"}),
        (NotPermitted("not this tenant's"), 403, {}),
        (InvalidToken("expired"), 401, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("can_answer", [None, True, False], ids=["http", "websocket", "closed"])
def test_errors_have_an_answer(
    problem: Any, status: int, told: dict[str, str], *, can_answer: bool | None, service: Service
) -> None:
    async def fail(connection: HTTPConnection) -> None:
        raise problem

    service.app.get("/fail")(fail)
    service.app.websocket("/ws")(fail)
    if can_answer is None:
        answer = service.request("GET", "/fail")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.status_code == status
        shown = answer.json()
        assert shown.items() >= {"status": status, "detail": str(problem), **told}.items()
        assert ("www-authenticate" in answer.headers) == (status == 401)
        return
    sent: list[Any] = []

    async def sending(message: Any) -> None:
        sent.append(message)

    extensions: Any = {"websocket.http.response": {}} if can_answer else {}
    service.drive({"type": "websocket", "path": "/ws", "extensions": extensions}, sending)
    if can_answer:
        assert (sent[0]["status"], json.loads(sent[1]["body"])["detail"]) == (status, str(problem))
    else:
        assert [(found["type"], found["code"], found["reason"]) for found in sent] == [
            ("websocket.close", 1008, str(problem))
        ]


def test_other_errors_stay_the_applications(service: Service) -> None:
    async def fail() -> None:
        raise IntegrityFailure("broken", sha256="00")

    service.app.get("/fail")(fail)
    with pytest.raises(IntegrityFailure):
        service.request("GET", "/fail")


def test_without_handlers_the_refusal_is_the_applications(service: Service, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, tokens=9)
    spend = service.spend(tokens=10)
    service.app = FastAPI()

    @service.app.get("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        raise AssertionError

    with pytest.raises(QuotaExceeded):
        service.request("GET", "/chat")


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
