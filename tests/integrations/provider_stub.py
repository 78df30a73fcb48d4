"""A model provider on loopback. It gives the answers that a test sets, in the formats of Anthropic and OpenAI."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import field, frozen
from patience import PATIENCE_S


@frozen(kw_only=True)
class Json:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(factory=dict)


@frozen(kw_only=True)
class Events:
    """Server-sent events. With `cut`, the connection breaks after so many events."""

    events: list[tuple[str | None, Any]]
    cut: int | None = None
    #: After so many events the stream stands still until the test has ended, and then the connection breaks.
    stop: int | None = None


@frozen
class Hang:
    """No answer until the test has ended."""


@frozen
class Drop:
    """No answer: the server closes the connection."""


Reply = Json | Events | Hang | Drop


@frozen
class Seen:
    path: str
    body: Any
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:  # the name that http.server expects
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        form = self.headers.get("content-type", "").startswith("multipart/")
        reply = self.server.stub.next(
            Seen(self.path, body if form else json.loads(body or b"null"), dict(self.headers))
        )
        try:
            if isinstance(reply, Json):
                self.answer(reply)
            elif isinstance(reply, Events):
                self.stream(reply)
            else:
                if isinstance(reply, Hang):
                    self.server.stub.over.wait(PATIENCE_S)
                self.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self) -> None:  # as above
        self.do_POST()

    def answer(self, reply: Json) -> None:
        content = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def stream(self, reply: Events) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for index, (event, data) in enumerate(reply.events):
            if index == reply.stop:
                self.server.stub.over.wait(PATIENCE_S)
            if index in {reply.cut, reply.stop}:
                self.close_connection = True
                return
            text = data if isinstance(data, str) else json.dumps(data)
            content = ((f"event: {event}\n" if event else "") + f"data: {text}\n\n").encode()
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    stub: Stub


class Stub:
    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.over = threading.Event()
        self._script: deque[Reply] = deque()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.stub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def script(self, *replies: Reply) -> None:
        self._script.extend(replies)

    def next(self, seen: Seen) -> Reply:
        self.requests.append(seen)
        return self._script.popleft() if self._script else Json(body={"error": "no script"}, status=418)

    @contextmanager
    def serving(self) -> Iterator[Stub]:
        # Check for the end every 0.01 s. By default a test would wait up to 0.5 s.
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def message(
    text: str = "Hello", *, usage: dict[str, int] | None = None, model: str = "claude-test-1"
) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage or {"input_tokens": 10, "output_tokens": 5},
    }


def message_events(
    *texts: str, start: dict[str, int] | None = None, end: dict[str, int] | None = None, thinking: str | None = None
) -> list[tuple[str | None, Any]]:
    begun = {**message(usage=start or {"input_tokens": 10, "output_tokens": 1}), "content": [], "stop_reason": None}
    blocks: list[Any] = []
    if thinking is not None:
        blocks += [
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "thinking", "thinking": "", "signature": ""},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "thinking_delta", "thinking": thinking},
            },
            {"type": "content_block_stop", "index": 0},
        ]
    index = 0 if thinking is None else 1
    events: list[Any] = [
        {"type": "message_start", "message": begun},
        *blocks,
        {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}
            for text in texts
        ),
        {"type": "content_block_stop", "index": index},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": end or {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]
    return [(event["type"], event) for event in events]


def completion(
    text: str = "Hello", *, usage: dict[str, Any] | None = None, model: str = "gpt-test-1"
) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": usage or {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def chunks(*texts: str, usage: dict[str, Any] | None = None) -> list[tuple[str | None, Any]]:
    """Return the events of a chat completion; with `usage`, the last chunk before "[DONE]" has it."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test-1"}
    events: list[Any] = [
        {**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts
    ]
    events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage is not None:
        events.append({**head, "choices": [], "usage": usage})
    return [(None, event) for event in events] + [(None, "[DONE]")]


def response(text: str = "Hello", *, usage: dict[str, Any] | None = None, status: str = "completed") -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "gpt-test-1",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            }
        ],
        "usage": usage,
    }


def response_usage(sent: int = 10, output: int = 5, cached: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": sent,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sent + output,
    }


def response_events(*texts: str, reasons: bool = False) -> list[tuple[str | None, Any]]:
    begun = {**response(status="in_progress"), "output": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    if reasons:
        thought = {"id": "rs_1", "type": "reasoning", "summary": []}
        events.append({"type": "response.output_item.added", "output_index": 0, "item": thought})
        where["output_index"] = 1
    events += [
        {"type": "response.output_item.added", "output_index": where["output_index"], "item": item},
        {"type": "response.content_part.added", **where, "part": part},
        *({"type": "response.output_text.delta", **where, "delta": text, "logprobs": []} for text in texts),
        {"type": "response.completed", "response": response("".join(texts), usage=response_usage())},
    ]
    return [(event["type"], {**event, "sequence_number": number}) for number, event in enumerate(events)]
