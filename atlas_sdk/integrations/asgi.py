"""Middleware that counts the requests of each user, for any ASGI application.

::

    app.add_middleware(QuotaMiddleware, quotas=atlas.quotas, user=user_of)      # Starlette, FastAPI
    middleware = [DefineMiddleware(QuotaMiddleware, quotas=atlas.quotas, user=user_of)]   # Litestar
    app = QuotaMiddleware(app, atlas.quotas, user=user_of, skip=("/health",))   # any other

Add CORSMiddleware after this one. Starlette runs the last one first, so refusals get CORS headers too.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Protocol
from uuid import UUID

from atlas_sdk import AtlasError, InvalidInput, User
from atlas_sdk.integrations.problems import REFUSALS, answer, close_code, close_reason

__all__ = ["COUNTED", "QuotaMiddleware", "counted_requests", "is_preflight"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
UserResolver = Callable[[Scope], User | None] | Callable[[Scope], Awaitable[User | None]]

#: The scope's key for the requests counted already, so that inner code does not count them again: see
#: `counted_requests`.
COUNTED = "atlas_sdk.requests_counted"


def counted_requests(scope: Scope) -> dict[UUID, int]:
    """Return how many requests were counted for this scope so far, by user id. Whoever counts more adds them."""
    counted: dict[UUID, int] = scope.setdefault(COUNTED, {})
    return counted


def is_preflight(scope: Scope) -> bool:
    """Return True for OPTIONS, which only asks what is allowed. Browsers send it by themselves, without credentials."""
    return scope.get("method") == "OPTIONS"


class RemainingRequests(Protocol):
    """The limit and the remaining requests of the hour; None if there is no limit."""

    @property
    def remaining(self) -> int | None:
        """The requests left now."""
        ...

    @property
    def limit(self) -> int | None:
        """The requests allowed in an hour."""
        ...


class HitMethod(Protocol):
    """The part of either client's `quotas` that the middleware uses."""

    def hit(self, user: User, /, *, requests: int = 1, durable: bool = True) -> Any:
        """Count requests. Raises QuotaExceeded."""
        ...


class QuotaMiddleware:
    """Middleware that counts requests. It answers a refusal with 429 or 403, and a lost database with 503.

    `user` returns the user for a scope. Requests without a user (None) pass uncounted, so the application must refuse
    strangers. The middleware calls the `quotas` of a blocking client in a worker thread. `paths` and `skip` are
    prefixes of paths, by whole segments; `skip` wins. They are relative to the wrapped application, as its routes are:
    without the path of its mount, and without `root_path`. `durable` is an option of `quotas.hit`: with False, the
    count does not wait for the disk.

    OPTIONS is never counted. Behind another QuotaMiddleware, this one counts only the requests of the user that are
    missing: 4 of its 5, if the other one counted 1. Guards count requests too: give them `requests=0`, as
    `fastapi.quota` does by itself.

    The middleware answers every AtlasError of `user`. If the application raises QuotaExceeded or DatabaseUnreachable
    before its response has started, the middleware answers these too.
    """

    def __init__(
        self,
        app: App,
        quotas: HitMethod,
        *,
        user: UserResolver,
        requests: int = 1,
        durable: bool = True,
        paths: Collection[str] = ("/",),
        skip: Collection[str] = (),
    ) -> None:
        """Wrap `app`. Raises InvalidInput for fewer than 1 requests, or a path that does not begin with a slash."""
        self._app = app
        self._quotas = quotas
        self._user = user
        self._requests = _number(requests)
        self._durable = durable
        self._paths = _beginnings("paths", paths)
        self._skip = _beginnings("skip", skip)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        connection = _Connection(scope, send)
        try:
            if self._counts(scope):
                connection.rate = await self._hit(scope)
        except AtlasError as problem:
            await connection.refuse(problem)
            return
        try:
            await self._app(scope, receive, connection.send)
        except REFUSALS as problem:
            if connection.started and scope["type"] == "http":
                # The response has started, so it cannot be replaced.
                raise
            await connection.refuse(problem)

    def _counts(self, scope: Scope) -> bool:
        path = _route_path(scope)
        return not is_preflight(scope) and _within(path, self._paths) and not _within(path, self._skip)

    async def _hit(self, scope: Scope) -> RemainingRequests | None:
        found = self._user(scope)
        user = await found if inspect.isawaitable(found) else found
        if user is None:
            return None
        counted = counted_requests(scope)
        missing = self._requests - counted.get(user.id, 0)
        if missing <= 0:
            return None
        if inspect.iscoroutinefunction(self._quotas.hit):
            rate: RemainingRequests = await self._quotas.hit(user, requests=missing, durable=self._durable)
        else:
            rate = await asyncio.to_thread(self._quotas.hit, user, requests=missing, durable=self._durable)
        counted[user.id] = self._requests
        return rate


def _route_path(scope: Scope) -> str:
    """Return the path that the routes of the wrapped application match, as Starlette's `get_route_path` does.

    A server and a mount put their prefix into `root_path`, and leave it in `path` (ASGI 3). Litestar, and a proxy for
    FastAPI(root_path=…), cut it off from `path`.
    """
    path: str = scope["path"]
    rest = path.removeprefix(scope.get("root_path", ""))
    return path if rest and not rest.startswith("/") else rest


def _number(requests: object) -> int:
    if isinstance(requests, bool) or not isinstance(requests, int) or requests < 1:
        raise InvalidInput(f"requests must be a whole number from 1 up, not {requests!r}", field="requests")
    return requests


def _beginnings(field: str, paths: Collection[str]) -> tuple[str, ...]:
    if isinstance(paths, str) or not all(path.startswith("/") for path in paths):
        raise InvalidInput(f"{field} must be several paths that begin with a slash, not {paths!r}", field=field)
    return tuple(path.rstrip("/") for path in paths)


def _within(path: str, beginnings: tuple[str, ...]) -> bool:
    return any(path == start or path.startswith(f"{start}/") for start in beginnings)


class _Connection:
    """One request or websocket, with the state of its response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.rate: RemainingRequests | None = None
        self.started = False
        self._closed = False
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        """Send a message of the application, and add the rate limit to the response's header."""
        kind = message["type"]
        if kind in {"http.response.start", "websocket.accept", "websocket.http.response.start"}:
            self.started = True
            message = {**message, "headers": [*message.get("headers", ()), *self._fields(message)]}
        elif kind == "websocket.close":
            self._closed = True
        await self._send(message)

    def _fields(self, message: Message) -> list[tuple[bytes, bytes]]:
        if self.rate is None or self.rate.limit is None or self.rate.remaining is None:
            return []
        if any(bytes(name).lower() == b"ratelimit" for name, _ in message.get("headers", ())):
            # Keep the header of the application, which may have answered a refusal itself.
            return []
        return [
            (b"ratelimit-policy", f'"requests";q={self.rate.limit};w=3600'.encode()),
            (b"ratelimit", f'"requests";r={self.rate.remaining}'.encode()),
        ]

    async def refuse(self, problem: AtlasError) -> None:
        """Send the answer to a refusal, in place of the application."""
        status, headers, body = answer(problem)
        fields = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        fields.append((b"content-length", str(len(body)).encode()))
        start = {"status": status, "headers": fields}
        if self._scope["type"] == "http":
            content = b"" if self._scope["method"] == "HEAD" else body
            await self._send({"type": "http.response.start", **start})
            await self._send({"type": "http.response.body", "body": content})
        elif not self.started and "websocket.http.response" in (self._scope.get("extensions") or {}):
            await self._send({"type": "websocket.http.response.start", **start})
            await self._send({"type": "websocket.http.response.body", "body": body})
        elif not self._closed:
            # Before the handshake is accepted, the server turns this message into a 403 without our body.
            await self._send({"type": "websocket.close", "code": close_code(problem), "reason": close_reason(problem)})
