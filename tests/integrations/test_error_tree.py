"""`install` answers every error of the tree. No database runs."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from error_samples import kinds, made
from fastapi import FastAPI, Response, WebSocket

from atlas_sdk import AtlasError, AuthError, DatabaseUnreachable, InvalidInput, NotFound, QuotaExceeded
from atlas_sdk.integrations.fastapi import install

#: The statuses of classes. A class that is not here has the status of its parent.
STATUSES = {
    "AtlasError": 500,
    "InvalidInput": 422,
    "NotFound": 404,
    "AlreadyExists": 409,
    "IllegalTransition": 409,
    "PortsExhausted": 503,
    "AmbiguousReference": 422,
    "RestoreRefused": 409,
    "OutsideProject": 422,
    "ContentMissing": 404,
    "QuotaExceeded": 403,
    "SlotLost": 409,
    "AuthError": 401,
    "NotPermitted": 403,
    "StorageFull": 507,
    "TimedOut": 503,
    "TransactionConflict": 503,
    "DatabaseUnreachable": 503,
}
#: The errors whose header fields say more than the type of the body.
FIELDS = {AuthError: "www-authenticate", DatabaseUnreachable: "retry-after", QuotaExceeded: "ratelimit"}


def messages(app: Any, kind: str, *, extensions: Any = None) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect" if kind == "websocket" else "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": kind,
        "path": "/fail",
        "headers": [],
        "query_string": b"",
        "extensions": extensions,
    }
    asyncio.run(app(scope | ({"method": "GET"} if kind == "http" else {}), receive, send))
    return sent


def failing(problem: AtlasError) -> FastAPI:
    app = FastAPI()
    install(app)

    @app.get("/fail")
    async def fail() -> None:
        raise problem

    @app.websocket("/fail")
    async def fail_socket(websocket: WebSocket) -> None:
        raise problem

    return app


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_every_error_has_an_answer(kind: type[AtlasError], caplog: pytest.LogCaptureFixture) -> None:
    problem = made(kind)
    status = next(STATUSES[each.__name__] for each in kind.__mro__ if each.__name__ in STATUSES)
    app = failing(problem)
    start, body = messages(app, "http")
    assert start["status"] == status == problem.http_status
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert {name for each, name in FIELDS.items() if name.encode() in headers} == {
        name for each, name in FIELDS.items() if isinstance(problem, each)
    }
    shown = json.loads(body["body"])
    assert shown["status"] == status
    logged = [record for record in caplog.records if record.name.startswith("atlas_sdk.integrations")]
    if status < 500:
        assert (shown["detail"], logged) == (str(problem), [])
    else:
        # The request is not at fault: its sender learns nothing of the service, and the log has the error.
        assert str(problem) not in body["body"].decode()
        assert shown.keys() == {"type", "title", "status", "detail"}
        assert [(record.levelno, record.exc_info and record.exc_info[1]) for record in logged] == [
            (logging.ERROR, problem)
        ]
    start, body = messages(app, "websocket", extensions={"websocket.http.response": {}})
    assert (start["status"], json.loads(body["body"])) == (status, shown)
    (closed,) = messages(app, "websocket")
    code = 1013 if status == 503 or kind is QuotaExceeded else 1011 if status >= 500 else 1008
    assert (closed["type"], closed["code"]) == ("websocket.close", code)
    assert closed["reason"] == shown["detail"].encode()[:123].decode(errors="ignore")


def test_fields_of_an_error_are_in_its_answer() -> None:
    missing = NotFound("no project 7", kind="project", name="7")
    assert json.loads(messages(failing(missing), "http")[1]["body"]).items() >= {"kind": "project", "name": "7"}.items()
    wrong = InvalidInput("name must not be empty", field="name")
    assert json.loads(messages(failing(wrong), "http")[1]["body"])["field"] == "name"


def test_a_handler_of_the_application_takes_precedence() -> None:
    app = failing(NotFound("no project 7", kind="project", name="7"))

    @app.exception_handler(NotFound)
    async def gone(request: Any, problem: Exception) -> Any:
        return Response(status_code=410)

    assert messages(app, "http")[0]["status"] == 410
