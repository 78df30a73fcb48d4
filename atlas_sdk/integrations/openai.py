"""A metered OpenAI client.

::

    from openai import OpenAI
    from atlas_sdk.integrations.openai import guarded

    client = guarded(OpenAI(), atlas.quotas, user, prices=prices, min_output_tokens=256)
    answer = client.chat.completions.create(model="…", messages=[…])                # raises QuotaExceeded before

`guarded` returns a client of the same class, which shares the connections of the given one. Before every call of
`chat.completions` and `responses` it reserves the upper bound of the input (`bounds`) plus the output limit; after the
call it charges the usage. This covers `create`, `stream`, `parse`, `with_raw_response`, and the clients that
`with_options` and `copy` return. A request without an output limit gets one: `max_output_tokens`.

* The user pays for a stream when it ends. Chat streams report their usage only on request, so the client requests it,
  and hides the extra chunk from a caller who did not request it. It reads that chunk before it shows the chunk that
  finishes the answer, so a caller may stop there. With `include_usage=False` the output is charged by its bytes. For a
  stream that breaks, is closed early or is cancelled, the user pays the bound of the input and the bytes of the output
  so far. If the request or the stream shows that the model reasons, the user pays all of the reserved output. Set
  `on_cut="reservation"` for models that reason without showing it. The ledger marks all these as `estimated`.
* An error releases the reservation if it proves that nothing was billed: no connection, or a 4xx except 408, at every
  attempt. After other errors (5xx, time-outs) the outcome is unknown, and `on_unknown` decides: the default charges the
  reservation.
* The library repeats requests by itself (`max_retries`). After an attempt of unknown outcome, the client first reserves
  the same amount once more. If this reservation is refused, the client raises QuotaExceeded and sends nothing. The user
  pays the reservation of every attempt of unknown outcome, even if a later attempt succeeds: see `unknown_attempts` in
  the ledger.
* With `min_output_tokens`, a request near the limit is sent with the granted output limit, which may be smaller.
* The client raises InvalidInput for batches, embeddings, images, audio, background responses, websockets (realtime,
  `responses.connect`), `with_streaming_response`, raw streams, and every other POST that may use a model without
  reporting its usage. `unmetered=` names more paths that pass. Free requests pass too, such as those for files and
  moderations.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar, Unpack

import openai

from atlas_sdk import InvalidInput, User
from atlas_sdk.integrations.metering import Api, Metering, Plan, Tally, positive
from atlas_sdk.integrations.streams import AsyncWatch, Watch
from atlas_sdk.integrations.usage import TokenUsage
from atlas_sdk.integrations.wrapping import guard_client

__all__ = ["guarded"]

C = TypeVar("C", bound="openai.OpenAI | openai.AsyncOpenAI")
T = TypeVar("T")

#: Paths whose POST requests use no model, with all paths below them.
_FREE = ("/files", "/uploads", "/moderations", "/conversations", "/vector_stores", "/responses/input_tokens")
#: The text fields of a chat chunk.
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


class Stream(openai.Stream[T]):
    """The library's stream, whose events a `Watch` counts."""

    watch: Watch

    def __stream__(self) -> Iterator[T]:
        # The constructor calls this generator before `watch` is set. Its body runs at the first read, which comes
        # later.
        yield from self.watch.through(super().__stream__())


class AsyncStream(openai.AsyncStream[T]):
    """The library's asyncio stream, whose events an `AsyncWatch` counts."""

    watch: AsyncWatch

    async def __stream__(self) -> AsyncIterator[T]:
        events = self.watch.through(super().__stream__())
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()


def _usage(answer: object) -> TokenUsage | None:
    usage = answer.get("usage") if isinstance(answer, Mapping) else getattr(answer, "usage", None)
    return None if usage is None else TokenUsage.from_openai(usage)


class ChatCompletions:
    """The endpoint POST /chat/completions."""

    provider = "openai"

    def __init__(self) -> None:
        self._shows_usage = True
        self._awaits_usage = False
        self._answers = 1

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Its output limit includes reasoning, and applies to each of `n` answers."""
        name = self._field(body)
        effort = body.get("reasoning_effort")
        self._answers = positive("n", body.get("n") or 1)
        return Plan(
            model=str(body.get("model", "")),
            output=positive(name, body.get(name) or default_output),
            answers=self._answers,
            hides=effort not in {None, "none"},
        )

    @staticmethod
    def _field(body: Mapping[str, Any]) -> str:
        # Use the older name if the caller did.
        return (
            "max_tokens"
            if body.get("max_tokens") and not body.get("max_completion_tokens")
            else ("max_completion_tokens")
        )

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this output limit, and with a request for its usage."""
        body = {**body, self._field(body): output}
        options = body.get("stream_options") or {}
        if body.get("stream") and "include_usage" not in options:
            body["stream_options"] = {**options, "include_usage": True}
            self._shows_usage = False
        self._awaits_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return body

    def usage(self, answer: object) -> TokenUsage | None:
        """Read the usage of a completion."""
        return _usage(answer)

    def see(self, tally: Tally, event: Any) -> bool:
        """Note a chunk. The last one has the usage and nothing else."""
        tally.model = getattr(event, "model", None) or tally.model
        for choice in event.choices or ():
            # The last two fields are not OpenAI's: compatible servers stream their reasoning in them.
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
    """The endpoint POST /responses."""

    provider = "openai"

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Raises InvalidInput for a background response, whose usage would not be seen."""
        if body.get("background"):
            raise InvalidInput("a background response cannot be metered", field="background")
        reasoning = body.get("reasoning") or {}
        effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else None
        return Plan(
            model=str(body.get("model", "")),
            output=positive("max_output_tokens", body.get("max_output_tokens") or default_output),
            hides=effort not in {None, "none"},
        )

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this output limit."""
        return {**body, "max_output_tokens": output}

    def usage(self, answer: object) -> TokenUsage | None:
        """Read the usage of a response."""
        return _usage(answer)

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event. The last event of a response has its usage."""
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
    """A placeholder that refuses to open a websocket."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise InvalidInput(repr(self), field="websocket")

    __call__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()

    def __repr__(self) -> str:
        return "a guarded client opens no websocket, because its usage would not be counted"


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
            # Updates of stored completions, and cancellations, are free.
            return None
        raise InvalidInput(
            f"a guarded client does not post to {path}, because its usage would not be counted: "
            "use the client itself, or add the path to unmetered=",
            field="path",
        )

    def prepare(self, client: Any) -> None:
        """Refuse websockets, which do not go through `request`."""
        vars(client).update(realtime=_Refused(), live=_Refused())
        # Every other websocket address begins with this value, so opening one is a TypeError that shows our message.
        client.websocket_base_url = _Refused()


def guarded(client: C, quotas: Any, user: User | Callable[[], User], **options: Unpack[Metering]) -> C:
    """Return a copy of a client; the user pays for its model calls. `user` may be a function that returns the user.

    `quotas` comes from an Atlas for `OpenAI`, from an AsyncAtlas for `AsyncOpenAI`; Azure's clients work too. A copy is
    cheap, so make one per request. Its calls raise QuotaExceeded and DatabaseUnreachable before they send anything, and
    InvalidInput if they cannot be metered. Raises TypeError, InvalidInput.
    """
    awaited = isinstance(client, openai.AsyncOpenAI)
    return guard_client(client, _OpenAI(), quotas, user, options, awaited=awaited)
