"""The middleware: counted requests, answers to refusals, and requests that pass untouched."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest

from atlas_sdk import AsyncAtlas, Atlas, DatabaseUnreachable, InvalidInput, QuotaExceeded, User
from atlas_sdk.integrations.asgi import COUNTED, QuotaMiddleware

TOKENS = QuotaExceeded(
    dimension="cost",
    asked=Decimal("0.50"),
    remaining=Decimal("0.123456789"),
    limit=Decimal(20),
    retry_after=timedelta(days=3),
    resets_at=datetime(2026, 12, 1, tzinfo=UTC),
)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})


def raising(problem: Exception, *, started: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise problem

    return app


@pytest.fixture(params=["blocking", "asyncio"])
def quotas(request: pytest.FixtureRequest, dsn: str, atlas: Atlas) -> Iterator[Any]:
    """Yield the quotas of either client, with one event loop for the middleware and the client."""
    loop = asyncio.new_event_loop()
    client = AsyncAtlas.open(dsn)
    loop.run_until_complete(client.connect())

    class Quotas:
        namespace = (atlas if request.param == "blocking" else client).quotas

        def run(self, work: Awaitable[Any]) -> Any:
            return loop.run_until_complete(work)

    yield Quotas()
    loop.run_until_complete(client.close())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def get(app: Any, path: str = "/", *, times: int = 1, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        for _ in range(times):
            answer = await client.request(method, path)
    return answer


def test_requests_are_counted_and_the_rest_is_told(quotas: Any, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, requests_per_hour=10)
    app = QuotaMiddleware(hello, quotas.namespace, user=lambda scope: user)
    answer = quotas.run(get(app, times=3))
    assert (answer.status_code, answer.text, answer.headers["x-app"]) == (200, "hello", "1")
    assert answer.headers["ratelimit-policy"] == '"requests";q=10;w=3600'
    assert answer.headers["ratelimit"] == '"requests";r=7'
    assert atlas.quotas.usage(user).requests_last_hour == 3


def test_refusal_is_answered_and_the_app_is_not_asked(quotas: Any, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, requests_per_hour=5)
    asked = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await hello(scope, receive, send)

    metered = QuotaMiddleware(app, quotas.namespace, user=lambda scope: user, requests=2)
    answer = quotas.run(get(metered, times=3))
    assert len(asked) == 2
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert 0 < int(answer.headers["retry-after"]) <= 3660
    assert answer.headers["ratelimit-policy"] == '"requests";q=5;w=3600'
    assert answer.headers["ratelimit"].startswith('"requests";r=1;t=')
    problem = answer.json()
    assert {name: problem[name] for name in ("status", "title", "dimension", "asked", "remaining", "limit")} == {
        "status": 429,
        "title": "Quota exceeded",
        "dimension": "requests",
        "asked": 2,
        "remaining": 1,
        "limit": 5,
    }
    assert problem["type"].startswith("https://")
    assert "requests limit" in problem["detail"]
    assert datetime.fromisoformat(problem["resets_at"]) > datetime.now(UTC)
    assert atlas.quotas.usage(user).requests_last_hour == 4


def test_unlimited_users_get_no_limit_told(quotas: Any, atlas: Atlas, user: User) -> None:
    answer = quotas.run(get(QuotaMiddleware(hello, quotas.namespace, user=lambda scope: user)))
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers
    assert atlas.quotas.usage(user).requests_last_hour == 1


def test_nobody_is_not_counted(quotas: Any) -> None:
    answer = quotas.run(get(QuotaMiddleware(hello, quotas.namespace, user=lambda scope: None)))
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers


def test_user_may_be_awaited(quotas: Any, atlas: Atlas, user: User) -> None:
    async def who(scope: Any) -> User:
        return user

    quotas.run(get(QuotaMiddleware(hello, quotas.namespace, user=who)))
    assert atlas.quotas.usage(user).requests_last_hour == 1


def test_what_is_counted_is_told_to_what_runs_below(quotas: Any, user: User) -> None:
    told = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append(scope[COUNTED])
        await hello(scope, receive, send)

    quotas.run(get(QuotaMiddleware(app, quotas.namespace, user=lambda scope: user, requests=3)))
    assert told == [{user.id: 3}]


def test_refusal_from_below_is_answered(quotas: Any, user: User) -> None:
    answer = quotas.run(get(QuotaMiddleware(raising(TOKENS), quotas.namespace, user=lambda scope: user)))
    assert answer.status_code == 403
    assert "retry-after" not in answer.headers
    problem = answer.json()
    # Dollars are texts, so that they stay exact.
    assert (problem["dimension"], problem["asked"], problem["remaining"], problem["limit"]) == (
        "cost",
        "0.50",
        "0.123456789",
        "20",
    )
    assert problem["resets_at"] == "2026-12-01T00:00:00+00:00"


def test_head_is_answered_without_a_body(quotas: Any, user: User) -> None:
    app = QuotaMiddleware(raising(TOKENS), quotas.namespace, user=lambda scope: user)
    answer = quotas.run(get(app, method="HEAD"))
    assert (answer.status_code, answer.content) == (403, b"")


def test_refusal_after_the_start_is_the_servers(quotas: Any, user: User) -> None:
    app = QuotaMiddleware(raising(TOKENS, started=True), quotas.namespace, user=lambda scope: user)
    with pytest.raises(QuotaExceeded):
        quotas.run(get(app))


def test_other_errors_pass(quotas: Any, user: User) -> None:
    app = QuotaMiddleware(raising(KeyError("x")), quotas.namespace, user=lambda scope: user)
    with pytest.raises(KeyError):
        quotas.run(get(app))


def test_lost_database_is_answered_and_opens_nothing(quotas: Any, user: User) -> None:
    secret = DatabaseUnreachable("host db.internal refuses")
    asked = []

    class Gone:
        async def hit(self, user: User, *, requests: int = 1, durable: bool = True) -> Any:
            raise secret

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope)

    for lost in (
        QuotaMiddleware(app, Gone(), user=lambda scope: user),
        QuotaMiddleware(raising(secret), quotas.namespace, user=lambda scope: user),
    ):
        answer = quotas.run(get(lost))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "db.internal" not in answer.text
        assert answer.json()["status"] == 503
    assert asked == []


def test_real_lost_database_is_answered(atlas: Atlas, user: User, dsn: str) -> None:
    async def work() -> httpx.Response:
        async with AsyncAtlas.open(dsn, connect_timeout_s=1) as client:
            await client.quotas.hit(user)
            name = dsn.partition("?")[0].rsplit("/", 1)[1]
            # Refuse new connections and end all others.
            with psycopg.connect(dsn.replace(f"/{name}", "/postgres"), autocommit=True) as admin:
                admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                try:
                    admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
                    return await get(QuotaMiddleware(hello, client.quotas, user=lambda scope: user))
                finally:
                    admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    assert asyncio.run(work()).status_code == 503


class Socket:
    """A websocket's client that calls the application as a server does."""

    def __init__(self, app: Any, *, extensions: dict[str, Any] | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self._app = app
        self._scope = {"type": "websocket", "path": "/ws", "headers": [], "extensions": extensions}

    async def run(self) -> list[dict[str, Any]]:
        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await self._app(self._scope, receive, send)
        return self.sent


async def accepting(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})


def test_websocket_handshakes_are_counted(quotas: Any, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, requests_per_hour=1)
    app = QuotaMiddleware(accepting, quotas.namespace, user=lambda scope: user)
    (accepted,) = quotas.run(Socket(app).run())
    assert accepted["type"] == "websocket.accept"
    assert (b"ratelimit", b'"requests";r=0') in accepted["headers"]
    (closed,) = quotas.run(Socket(app).run())
    assert (closed["type"], closed["code"]) == ("websocket.close", 1013)
    assert closed["reason"].startswith("the requests limit")
    assert len(closed["reason"].encode()) <= 123


def test_refused_handshake_has_a_body_where_the_server_can(quotas: Any, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, requests_per_hour=0)
    app = QuotaMiddleware(accepting, quotas.namespace, user=lambda scope: user)
    start, body = quotas.run(Socket(app, extensions={"websocket.http.response": {}}).run())
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["dimension"] == "requests"


def test_refusal_inside_of_an_open_websocket_closes_it(quotas: Any, user: User) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accepting(scope, receive, send)
        raise TOKENS

    sent = quotas.run(
        Socket(
            QuotaMiddleware(app, quotas.namespace, user=lambda scope: user), extensions={"websocket.http.response": {}}
        ).run()
    )
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 1013


def test_lifespan_passes(quotas: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    def never(scope: Any) -> User:
        raise AssertionError

    ends: Any = (object(), object())
    scope = {"type": "lifespan"}
    quotas.run(QuotaMiddleware(app, quotas.namespace, user=never)(scope, *ends))
    assert seen == [(scope, *ends)]


@pytest.mark.parametrize("wrong", [{"requests": 0}, {"requests": True}, {"paths": "/x"}, {"skip": ("x",)}])
def test_wrong_options_are_refused(wrong: Any, atlas: Atlas) -> None:
    with pytest.raises(InvalidInput):
        QuotaMiddleware(hello, atlas.quotas, user=lambda scope: None, **wrong)


@pytest.mark.parametrize("durable", [True, False])
def test_counts_may_be_told_not_to_wait_for_the_disk(quotas: Any, user: User, *, durable: bool) -> None:
    told: list[bool] = []

    class Told:
        """The quotas, with a record of the argument `durable`."""

        if inspect.iscoroutinefunction(quotas.namespace.hit):

            async def hit(self, who: User, *, requests: int = 1, durable: bool = True) -> Any:
                told.append(durable)
                return await quotas.namespace.hit(who, requests=requests, durable=durable)

        else:

            def hit(self, who: User, *, requests: int = 1, durable: bool = True) -> Any:
                told.append(durable)
                return quotas.namespace.hit(who, requests=requests, durable=durable)

    quotas.run(get(QuotaMiddleware(hello, Told(), user=lambda scope: user, durable=durable)))
    quotas.run(get(QuotaMiddleware(hello, Told(), user=lambda scope: user)))
    assert told == [durable, True]
