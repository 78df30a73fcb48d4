"""Answers of a FastAPI application to refusals and errors, on HTTP and on websockets."""

import json
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi_service import Service
from sides import Ledger
from starlette.applications import Starlette
from starlette.routing import Route

from atlas_sdk import Atlas, DatabaseUnreachable, QuotaExceeded, User
from atlas_sdk.guards import AsyncGuard
from atlas_sdk.integrations.fastapi import install


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


def test_without_handlers_the_refusal_is_the_applications(service: Service, atlas: Atlas, user: User) -> None:
    atlas.quotas.set_limits(user, tokens=9)
    spend = service.spend(tokens=10)
    service.app = FastAPI()

    @service.app.get("/chat")
    async def chat(g: Annotated[AsyncGuard, Depends(spend)]) -> None:
        raise AssertionError

    with pytest.raises(QuotaExceeded):
        service.request("GET", "/chat")
