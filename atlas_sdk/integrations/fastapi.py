"""A guard as a FastAPI dependency, and answers to refusals in FastAPI and Starlette.

::

    app = FastAPI()
    install(app)
    spend = quota(atlas.quotas, user=current_user, tokens=4096)

    @app.post("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> StreamingResponse:
        ...                                     # call the model with max_tokens=g.tokens; g.progress(…); g.settle(…)

The guard ends after the whole response has been sent, even if it is streamed. FastAPI 0.121 and later exit dependencies
at that time (unless `Depends(…, scope="function")` says otherwise); this module refuses earlier versions. Starlette has
no dependencies: use `install` there, and `async with atlas.quotas.guard(…)` in the endpoint or its generator.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, Unpack

from fastapi import Depends
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from atlas_sdk import AtlasError, InvalidInput, User
from atlas_sdk.guards import AsyncGuard, GuardOptions
from atlas_sdk.integrations.asgi import counted_requests, is_preflight
from atlas_sdk.integrations.problems import answer, close_code, close_reason

__all__ = ["install", "quota"]

if "scope" not in inspect.signature(Depends).parameters:
    message = "atlas_sdk.integrations.fastapi needs FastAPI 0.121 or later, which ends a guard after a stream"
    raise ImportError(message)


class Guards(Protocol):
    """The part of `AsyncAtlas.quotas` that this module uses."""

    def guard(self, user: User, /, **options: Unpack[GuardOptions]) -> AsyncGuard:
        """Return a guard for one request, which the dependency enters."""
        ...


def quota(
    quotas: Guards, *, user: Callable[..., Any], **options: Unpack[GuardOptions]
) -> Callable[..., AsyncIterator[AsyncGuard]]:
    """Return a dependency that enters a guard for the request and gives it to the endpoint.

    `user` is a dependency that returns the User. The options are those of `quotas.guard`. `requests` defaults to 1, and
    to 0 for OPTIONS and if QuotaMiddleware or another such dependency has counted this request of the user already. If
    nothing is left to reserve then, the guard is not entered. The dependency raises a refusal before the endpoint runs:
    see `install`. If FastAPI finds a request invalid, the guard releases everything but the count. `idempotency_key` is
    a function of the connection, because with a constant key all requests would count as one. Declare this dependency
    after those that may refuse a request, such as permissions: an error after the entry is a call of unknown outcome.
    Raises TypeError for a blocking client, InvalidInput for a constant key.
    """
    key = options.get("idempotency_key")
    if key is not None and not callable(key):
        message = "every request needs its own idempotency_key: give a function of the connection"
        raise InvalidInput(message, field="idempotency_key")
    if not inspect.iscoroutinefunction(getattr(quotas, "reserve", None)):
        message = "quota() needs the quotas of an AsyncAtlas: a blocking one would stop the event loop"
        raise TypeError(message)

    reserves = any(options.get(name) for name in ("tokens", "cost", "slots", "builds"))

    async def guard(connection: HTTPConnection, who: Any = Depends(user)) -> AsyncIterator[AsyncGuard]:  # noqa: B008  # FastAPI's way
        counted = counted_requests(connection.scope)
        # `guard` below refuses an object that is not a user.
        user_id: Any = getattr(who, "id", None)
        is_free = user_id in counted or is_preflight(connection.scope)
        asked: GuardOptions = {"requests": 0 if is_free else 1, **options}
        if callable(key):
            asked["idempotency_key"] = key(connection)
        held = quotas.guard(who, **asked)
        if is_free and "requests" not in options and not reserves:
            yield held
            return
        async with held:
            if asked["requests"]:
                counted[user_id] = counted.get(user_id, 0) + asked["requests"]
            try:
                yield held
            except (RequestValidationError, WebSocketRequestValidationError):
                # FastAPI raises these in place of the endpoint, so nothing was used.
                held.release()
                raise

    return guard


def install(app: Starlette) -> None:
    """Make a FastAPI or Starlette application answer every AtlasError with problem details (RFC 9457).

    The status is the error's `http_status`, such as 429 or 403 for QuotaExceeded, 404 for NotFound, 422 for
    InvalidInput. From 500 up, the answer has no details, and the error goes to the log `atlas_sdk.integrations`. A
    handler that the application adds for a class of errors takes precedence. A websocket gets the same answer if the
    server can send one, and otherwise is closed: with 1013 (try again later) for QuotaExceeded and 503, with 1011 for
    other statuses from 500 up, with 1008 for the rest. Errors of middleware do not get here. A
    mounted application has handlers of its own: call `install` for it too.
    """

    async def refuse(connection: Request | WebSocket, problem: AtlasError) -> Response | None:
        status, headers, body = answer(problem)
        if isinstance(connection, WebSocket):
            accepted = connection.application_state is not WebSocketState.CONNECTING
            if accepted or "websocket.http.response" not in (connection.scope.get("extensions") or {}):
                await connection.close(close_code(problem), close_reason(problem))
                return None
        return Response(body, status, headers)

    app.add_exception_handler(AtlasError, refuse)  # type: ignore[arg-type]  # for requests and websockets
