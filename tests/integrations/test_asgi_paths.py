"""The middleware matches paths as the routes of its application do, and counts a request once. No database runs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute

from atlas_sdk import InvalidToken, QuotaExceeded, User
from atlas_sdk.integrations.asgi import COUNTED, QuotaMiddleware

ONCE = datetime(2026, 1, 1, tzinfo=UTC)


def person(number: int) -> User:
    return User(
        id=UUID(int=number),
        email=f"{number}@example.com",
        plan="free",
        email_verified=False,
        created_at=ONCE,
        updated_at=ONCE,
    )


ADA, BOB = person(1), person(2)


class Counter:
    """Quotas that only count, with a limit that nobody reaches or that everybody has reached."""

    def __init__(self, *, full: bool = False) -> None:
        self.counted: dict[UUID, int] = {}
        self._full = full

    async def hit(self, user: User, /, *, requests: int = 1, durable: bool = True) -> Any:
        if self._full:
            raise QuotaExceeded(dimension="requests", asked=requests, remaining=0, limit=10)
        self.counted[user.id] = self.counted.get(user.id, 0) + requests
        return SimpleNamespace(limit=10, remaining=10 - self.counted[user.id])

    def meter(self, app: Any, user: User = ADA, **options: Any) -> Any:
        """Put the middleware in front of an application, or into a Starlette or FastAPI application."""
        options |= {"quotas": self, "user": lambda scope: user}
        if isinstance(app, Starlette):
            app.add_middleware(QuotaMiddleware, **options)
            return app
        return QuotaMiddleware(app, **options)


async def endpoint(request: Any) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def socket(websocket: Any) -> None:
    await websocket.accept()
    await websocket.close()


def routes() -> list[Any]:
    return [Route("/chat", endpoint), Route("/health", endpoint), WebSocketRoute("/ws", socket)]


def send(app: Any, path: str, *, root_path: str = "", method: str = "GET", kind: str = "http", **headers: str) -> Any:
    """Send one request as a server does; return the messages that the application sends."""
    sent: list[Any] = []
    first = {"type": "http.request"} if kind == "http" else {"type": "websocket.connect"}

    async def receive() -> Any:
        return first

    async def take(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": kind, "path": path, "root_path": root_path, "query_string": b""}
    scope["headers"] = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if kind == "http":
        scope |= {"method": method, "http_version": "1.1", "scheme": "http"}
    asyncio.run(app(scope, receive, take))
    return sent


def status(*request: Any, **more: Any) -> int:
    found: int = send(*request, **more)[0]["status"]
    return found


def mounted(counter: Counter, **options: Any) -> Starlette:
    """Return an application with a metered one in it, and another metered one in that."""
    deep = counter.meter(Starlette(routes=routes()), **options)
    inner = counter.meter(FastAPI(routes=[*routes(), Mount("/deep", deep)]), **options)
    return Starlette(routes=[Mount("/sub", inner), Mount("/{tenant}/api", counter.meter(Router(routes()), **options))])


def rooted(counter: Counter, **options: Any) -> Any:
    app = FastAPI(routes=[*routes(), Mount("/sub", Router(routes()))])
    # As FastAPI(root_path="/v1") does, which newer versions warn of.
    app.root_path = "/v1"
    return counter.meter(app, **options)


@pytest.mark.parametrize(
    ("make", "path", "root_path"),
    [
        (mounted, "/sub/chat", ""),
        (mounted, "/sub/deep/chat", ""),
        (mounted, "/ada/api/chat", ""),
        (mounted, "/proxy/sub/deep/chat", "/proxy"),
        (rooted, "/chat", ""),
        (rooted, "/v1/chat", ""),
        (rooted, "/v1/chat", "/v1"),
        (lambda counter, **options: counter.meter(Router(routes()), **options), "/api/chat", "/api"),
        (lambda counter, **options: counter.meter(Router(routes()), **options), "/chat", "/api"),
    ],
)
def test_paths_are_those_of_the_routes(make: Any, path: str, root_path: str) -> None:
    counter = Counter()
    app = make(counter, paths=("/chat",))
    assert status(app, path, root_path=root_path) == 200
    assert counter.counted == {ADA.id: 1}
    assert status(app, path.replace("chat", "health"), root_path=root_path) == 200
    assert counter.counted == {ADA.id: 1}
    skipping = Counter()
    assert status(make(skipping, skip=("/chat",)), path, root_path=root_path) == 200
    # The application around /sub/deep counts it: for that one, the path is /deep/chat.
    assert skipping.counted == ({ADA.id: 1} if "/deep/" in path else {})


@pytest.mark.parametrize(
    ("path", "counted"),
    [("/api", 1), ("/api/x", 1), ("/apix", 0), ("/", 0), ("/api/health", 0), ("/api/health/deep", 0), ("/v2/x", 1)],
)
def test_paths_are_whole_segments(path: str, counted: int) -> None:
    counter = Counter()
    send(counter.meter(Router(routes()), paths=("/api", "/v2/"), skip=("/api/health",)), path)
    assert sum(counter.counted.values()) == counted


@pytest.mark.parametrize(
    ("path", "root_path", "counted"),
    [
        ("/apix/chat", "/api", 0),
        ("/api", "/api", 0),
        ("/chat/api", "/api", 1),
        ("/api/chat/", "/api", 1),
        ("/api/chatter", "/api", 0),
    ],
)
def test_a_prefix_is_cut_off_by_whole_segments(path: str, root_path: str, counted: int) -> None:
    counter = Counter()
    send(counter.meter(Router(routes()), paths=("/chat",)), path, root_path=root_path)
    assert sum(counter.counted.values()) == counted


def test_the_path_of_the_mount_itself_is_counted() -> None:
    counter = Counter()
    send(counter.meter(Router(routes())), "/api", root_path="/api")
    assert counter.counted == {ADA.id: 1}


def test_websockets_of_mounted_applications_are_counted() -> None:
    counter = Counter()
    app = mounted(counter, paths=("/ws",))
    assert [message["type"] for message in send(app, "/sub/deep/ws", kind="websocket")] == [
        "websocket.accept",
        "websocket.close",
    ]
    assert counter.counted == {ADA.id: 1}


def test_an_application_that_counts_inside_of_another_counts_once() -> None:
    counter = Counter()
    app = counter.meter(mounted(counter))
    assert status(app, "/sub/deep/chat") == 200
    assert counter.counted == {ADA.id: 1}
    assert status(app, "/sub/deep/chat") == 200
    assert counter.counted == {ADA.id: 2}


def test_the_dearer_of_two_middlewares_decides() -> None:
    counter = Counter()
    dear = counter.meter(Router(routes()), requests=5)
    assert status(counter.meter(Starlette(routes=[Mount("/dear", dear), *routes()])), "/dear/chat") == 200
    assert counter.counted == {ADA.id: 5}
    cheap = Counter()
    assert status(cheap.meter(cheap.meter(Router(routes()), requests=2), requests=3), "/chat") == 200
    assert cheap.counted == {ADA.id: 3}


def test_each_user_of_a_request_is_counted() -> None:
    counter = Counter()
    assert status(counter.meter(counter.meter(Router(routes()), BOB), ADA), "/chat") == 200
    assert counter.counted == {ADA.id: 1, BOB.id: 1}


def test_a_middleware_that_copies_the_scope_hides_no_count() -> None:
    counter = Counter()

    async def copying(scope: Any, receive: Any, send: Any) -> None:
        await counter.meter(Router(routes()))({**scope, "extra": 1}, receive, send)

    assert status(counter.meter(copying), "/chat") == 200
    assert counter.counted == {ADA.id: 1}


def test_base_middlewares_between_hide_no_count() -> None:
    counter = Counter()

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    between = BaseHTTPMiddleware(counter.meter(Router(routes())), dispatch=pass_on)
    assert status(counter.meter(between), "/chat") == 200
    assert counter.counted == {ADA.id: 1}


def test_lifespans_of_metered_applications_run() -> None:
    sent = []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def take(message: Any) -> None:
        sent.append(message["type"])

    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    asyncio.run(Counter().meter(mounted(Counter()))(scope, receive, take))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert COUNTED not in scope


ASKING = {"origin": "https://example.com", "access_control_request_method": "GET"}


def test_preflights_are_free() -> None:
    counter = Counter(full=True)
    app = counter.meter(CORSMiddleware(Router(routes()), allow_origins=["*"]))
    assert status(app, "/chat", method="OPTIONS", **ASKING) == 200
    assert status(app, "/chat") == 429


def allowed(app: Starlette) -> Any:
    sent = send(app, "/chat", origin="https://example.com")
    assert sent[0]["status"] == 429
    return dict(sent[0]["headers"]).get(b"access-control-allow-origin")


def test_a_refusal_has_cors_headers_if_cors_was_added_last() -> None:
    right, wrong = Starlette(routes=routes()), Starlette(routes=routes())
    Counter(full=True).meter(right).add_middleware(CORSMiddleware, allow_origins=["*"])
    wrong.add_middleware(CORSMiddleware, allow_origins=["*"])
    Counter(full=True).meter(wrong)
    assert (allowed(right), allowed(wrong)) == (b"*", None)


def test_an_error_of_the_users_resolver_is_answered() -> None:
    def expired(scope: Any) -> User:
        raise InvalidToken("expired")

    sent = send(QuotaMiddleware(Router(routes()), Counter(), user=expired), "/chat")
    assert sent[0]["status"] == 401
    assert b"www-authenticate" in dict(sent[0]["headers"])
