"""A metered OpenAI client.

::

    from openai import OpenAI
    from atlas_sdk.integrations.openai import guarded

    client = guarded(OpenAI(), atlas.quotas, user, prices=prices, min_output_tokens=256)
    answer = client.chat.completions.create(model="…", messages=[…])                # raises QuotaExceeded before

What `guarded` returns is a client of the same class with the same connections. Every call of `chat.completions` and
`responses` (`create`, `stream`, `parse`, `with_raw_response`, also of what `with_options` or `copy` give) holds its
request's upper bound (`bounds`) and its limit of output before, and charges the usage after. A request without a limit
gets one: `max_output_tokens`.

* A stream is charged when it ends. Chat streams tell their usage only when asked: they are asked, and the chunk that
  the caller did not ask for is not shown. It is read before the chunk that finishes the answer is shown, so a caller
  may stop there. Who sets `include_usage=False` is charged by bytes. A stream that
  breaks, is closed early or is cancelled is charged the bound of its input and what it has shown so far, by bytes; one
  that reasons, as far as request or stream tell, all of the output that it was promised. Where models reason unasked,
  set `on_cut="reservation"`. `estimated` in the ledger marks all these.
* An error that proves that nothing was billed (no connection, a 4xx but 408, at every try) gives the promise back.
  After any other (5xx, time-outs) the outcome is unknown: `on_unknown` decides, and charges the promise by default.
* The library tries again by itself (`max_retries`). Before it does so after an unknown outcome, as much is promised
  again; when that is refused, QuotaExceeded is raised and nothing more is sent. Every try of unknown outcome is charged
  what it was promised, also when a later one succeeds: `unknown_attempts` in the ledger.
* With `min_output_tokens` a request near the limit is sent with a smaller limit of output, what the grant allows.
* Refused with InvalidInput: batches, embeddings, images, audio, background responses and every other POST that may use
  a model and tells no usage, websockets (realtime, `responses.connect`), `with_streaming_response`, raw streams.
  `unmetered=` lets paths through. Free, as files and moderations: passed.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar, Unpack

import openai

from atlas_sdk import InvalidInput, User
from atlas_sdk.integrations.metering import Api, Metering, Plan, Tally
from atlas_sdk.integrations.streams import AsyncWatch, Watch
from atlas_sdk.integrations.usage import TokenUsage
from atlas_sdk.integrations.wrapping import guard_client

__all__ = ["guarded"]

C = TypeVar("C", bound="openai.OpenAI | openai.AsyncOpenAI")
T = TypeVar("T")

#: Posts that use no model; with what is below them.
_FREE = ("/files", "/uploads", "/moderations", "/conversations", "/vector_stores", "/responses/input_tokens")
#: What a chunk of a chat can say.
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


class Stream(openai.Stream[T]):
    """The library's stream, watched."""

    watch: Watch

    def __stream__(self) -> Iterator[T]:
        # Made in the constructor, before there is a watch; a generator waits with it until it is read.
        yield from self.watch.through(super().__stream__())


class AsyncStream(openai.AsyncStream[T]):
    """The library's asyncio stream, watched."""

    watch: AsyncWatch

    async def __stream__(self) -> AsyncIterator[T]:
        events = self.watch.through(super().__stream__())
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()


def _limit(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(f"{name} must be a whole number from 1 up, not {value!r}", field=name)
    return value


def _usage(answer: object) -> TokenUsage | None:
    usage = answer.get("usage") if isinstance(answer, Mapping) else getattr(answer, "usage", None)
    return None if usage is None else TokenUsage.from_openai(usage)


class ChatCompletions:
    """POST /chat/completions."""

    provider = "openai"

    def __init__(self) -> None:
        self._shows_usage = True
        self._awaits_usage = False
        self._answers = 1

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request; its limit bounds reasoning too, and counts for each of `n` answers."""
        name = self._field(body)
        effort = body.get("reasoning_effort")
        self._answers = _limit("n", body.get("n") or 1)
        return Plan(
            model=str(body.get("model", "")),
            output=_limit(name, body.get(name) or default_output),
            answers=self._answers,
            hides=effort not in {None, "none"},
        )

    @staticmethod
    def _field(body: Mapping[str, Any]) -> str:
        # The older name, where the caller knows that the server wants it.
        return (
            "max_tokens"
            if body.get("max_tokens") and not body.get("max_completion_tokens")
            else ("max_completion_tokens")
        )

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this limit, and with its usage asked for."""
        body = {**body, self._field(body): output}
        options = body.get("stream_options") or {}
        if body.get("stream") and "include_usage" not in options:
            body["stream_options"] = {**options, "include_usage": True}
            self._shows_usage = False
        self._awaits_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return body

    def usage(self, answer: object) -> TokenUsage | None:
        """Read a completion's usage."""
        return _usage(answer)

    def see(self, tally: Tally, event: Any) -> bool:
        """Note a chunk: the last one has the usage and nothing else."""
        tally.model = getattr(event, "model", None) or tally.model
        for choice in event.choices or ():
            # The last two are not OpenAI's: servers that speak its language show what they reason.
            tally.text(*(getattr(choice.delta, name, None) for name in _TEXTS))
            if choice.delta.function_call is not None:
                tally.text(choice.delta.function_call.name, choice.delta.function_call.arguments)
            for call in choice.delta.tool_calls or ():
                if call.function is not None:
                    tally.text(call.function.name, call.function.arguments)
            tally.finished += choice.finish_reason is not None
        tally.ending = self._awaits_usage and tally.finished >= self._answers
        if event.usage is None:
            return True
        tally.usage, tally.final = TokenUsage.from_openai(event.usage), True
        return self._shows_usage or bool(event.choices)


class Responses:
    """POST /responses."""

    provider = "openai"

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Raises InvalidInput for one that goes on in the background: nobody would see its usage."""
        if body.get("background"):
            raise InvalidInput("a response in the background cannot be metered", field="background")
        reasoning = body.get("reasoning") or {}
        effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else None
        return Plan(
            model=str(body.get("model", "")),
            output=_limit("max_output_tokens", body.get("max_output_tokens") or default_output),
            hides=effort not in {None, "none"},
        )

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this limit."""
        return {**body, "max_output_tokens": output}

    def usage(self, answer: object) -> TokenUsage | None:
        """Read a response's usage."""
        return _usage(answer)

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event: the one that ends the response has its usage."""
        response = getattr(event, "response", None)
        if response is not None:
            tally.model = getattr(response, "model", None) or tally.model
            if (usage := getattr(response, "usage", None)) is not None:
                tally.usage, tally.final = TokenUsage.from_openai(usage), True
        elif event.type == "response.output_item.added":
            tally.hides = tally.hides or event.item.type == "reasoning"
            tally.text(getattr(event.item, "name", None))
        elif event.type.endswith(".delta"):
            tally.text(event.delta)
        return True


class _Refused:
    """Stands where a websocket would be opened."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise InvalidInput(repr(self), field="websocket")

    __call__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()

    def __repr__(self) -> str:
        return "a guarded client opens no websocket: what it uses would not be counted"


class _OpenAI:
    absent: tuple[type, ...] = (openai.Omit, openai.NotGiven)
    streams: tuple[type, type] = (openai.Stream, openai.AsyncStream)
    watched: tuple[type, type] = (Stream, AsyncStream)

    def api(self, path: str) -> Api | None:
        if path == "/chat/completions":
            return ChatCompletions()
        if path == "/responses":
            return Responses()
        if any(path == free or path.startswith(f"{free}/") for free in _FREE):
            return None
        if path.startswith("/chat/completions/") or path.endswith("/cancel"):
            # What is stored of a completion; the end of something.
            return None
        raise InvalidInput(
            f"a guarded client does not post to {path}: what it uses would not be counted; "
            "take the client itself, or name the path in unmetered=",
            field="path",
        )

    def prepare(self, client: Any) -> None:
        """Refuse websockets, which do not come through `request`."""
        vars(client).update(realtime=_Refused(), live=_Refused())
        # Every other websocket's address begins with this: a TypeError, which shows our words.
        client.websocket_base_url = _Refused()


def guarded(client: C, quotas: Any, user: User | Callable[[], User], **options: Unpack[Metering]) -> C:
    """Return a copy of a client whose model calls are paid by a user; `user` may be a function that finds out who.

    `quotas` are those of an Atlas for `OpenAI`, of an AsyncAtlas for `AsyncOpenAI`; Azure's clients are such too.
    Making one is cheap: make one for a request. Its calls raise QuotaExceeded and DatabaseUnreachable before
    anything is sent, InvalidInput for what cannot be metered. Raises TypeError, InvalidInput.
    """
    awaited = isinstance(client, openai.AsyncOpenAI)
    return guard_client(client, _OpenAI(), quotas, user, options, awaited=awaited)
