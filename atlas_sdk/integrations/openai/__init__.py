"""A metered OpenAI client.

::

    from openai import OpenAI
    from atlas_sdk.integrations.openai import guarded

    client = guarded(OpenAI(), atlas.quotas, user, prices=prices, min_output_tokens=256)
    answer = client.chat.completions.create(model="…", messages=[…])                # raises QuotaExceeded before

`guarded` returns a client of the same class, which shares the connections of the given one. Before every call of
`chat.completions`, `responses`, `embeddings`, `images` and `audio.transcriptions` it reserves the upper bound of the
input (`bounds`) plus the output limit; after the call it charges the usage. This covers `create`, `stream`, `parse`,
`with_raw_response`, and the clients that `with_options` and `copy` return. A request without an output limit gets one:
`max_output_tokens`.

* The user pays for a stream when it ends. Chat streams report their usage only on request, so the client requests it,
  and hides the extra chunk from a caller who did not request it. It reads that chunk before it shows the chunk that
  finishes the answer, so a caller may stop there. With `stream_options=False` it requests nothing, and the output is
  charged by its bytes. For a stream that breaks, is closed early or is cancelled, the user pays the bound of the input
  and the bytes of the output so far. If the request or the stream shows that the model reasons, the user pays all of
  the reserved output. Set `on_cut="reservation"` for models that reason without showing it. The ledger marks all these
  as `estimated`. A loop over a stream closes it when it ends, by `break` too.
* A call without an answer is charged by its outcome: see `outcomes.POLICIES`. The library repeats requests by itself
  (`max_retries`). After an attempt that is charged, the client first reserves the same amount once more. If this
  reservation is refused, the client raises QuotaExceeded and sends nothing.
* With `min_output_tokens`, a request near the limit is sent with the granted output limit, which may be smaller.
* With `compatible=True` the client adds no fields that servers with OpenAI's older protocol refuse.
* The client raises InvalidInput for batches, speech, background responses, websockets (realtime, `responses.connect`),
  `with_streaming_response`, raw streams, and every other POST that may use a model without reporting its usage.
  `unmetered=` names more paths that pass. Free requests pass too, such as those for files and moderations.

docs/metering.md has the tables of usage, prices and outcomes.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from copy import copy
from functools import cached_property
from typing import Any, NoReturn, TypeVar, Unpack

import openai

from atlas_sdk import InvalidInput, User
from atlas_sdk.integrations.metering.endpoint import Endpoint
from atlas_sdk.integrations.metering.options import Meter, Metering
from atlas_sdk.integrations.metering.streams import AsyncWatch, Watch, closing, closing_async
from atlas_sdk.integrations.metering.wrapping import guard_client, refused
from atlas_sdk.integrations.openai.chat import ChatCompletions
from atlas_sdk.integrations.openai.media import Embeddings, Images, Transcriptions
from atlas_sdk.integrations.openai.responses import Responses

__all__ = ["guarded"]

C = TypeVar("C", bound="openai.OpenAI | openai.AsyncOpenAI")
T = TypeVar("T")

#: Paths whose POST requests use no model, with all paths below them.
_FREE = ("/files", "/uploads", "/moderations", "/conversations", "/vector_stores", "/responses/input_tokens")


class Stream(openai.Stream[T]):
    """The library's stream, whose events a `Watch` counts."""

    watch: Watch

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The library's generator refers to this stream, which would leave a dropped stream to the garbage collector.
        del self._iterator

    @cached_property
    def _iterator(self) -> Iterator[T]:  # type: ignore[override]  # the library's is a plain attribute
        # A copy refers to no generator, so the settlement of a dropped stream runs where the caller drops it.
        return copy(self).__stream__()

    def __stream__(self) -> Iterator[T]:
        # The constructor calls this generator before `watch` is set. Its body never runs then.
        yield from self.watch.through(super().__stream__())

    def __iter__(self) -> Iterator[T]:
        return closing(super().__iter__(), self._iterator)


class AsyncStream(openai.AsyncStream[T]):
    """The library's asyncio stream, whose events an `AsyncWatch` counts."""

    watch: AsyncWatch

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # See `Stream`.
        del self._iterator

    @cached_property
    def _iterator(self) -> AsyncIterator[T]:  # type: ignore[override]  # as above
        return copy(self).__stream__()

    async def __stream__(self) -> AsyncIterator[T]:
        events = self.watch.through(super().__stream__())
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    def __aiter__(self) -> AsyncIterator[T]:
        return closing_async(super().__aiter__(), self._iterator)


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

    def endpoint(self, path: str, meter: Meter) -> Endpoint | None:
        if path == "/chat/completions":
            return ChatCompletions(asks_usage=meter.stream_options, compatible=meter.compatible)
        if path == "/responses":
            return Responses()
        if path == "/embeddings":
            return Embeddings()
        if path in {"/images/generations", "/images/edits"}:
            return Images(edits=path == "/images/edits")
        if path == "/audio/transcriptions":
            return Transcriptions()
        if any(path == free or path.startswith(f"{free}/") for free in _FREE):
            return None
        if path.startswith("/chat/completions/") or path.endswith("/cancel"):
            # Updates of stored completions, and cancellations, are free.
            return None
        raise refused(path, batches=path == "/batches")

    def prepare(self, client: Any) -> None:
        """Refuse websockets, which do not go through `request`."""
        vars(client).update(realtime=_Refused(), live=_Refused())
        # Every other websocket address begins with this value, so opening one is a TypeError that shows our message.
        client.websocket_base_url = _Refused()


def guarded(client: C, quotas: Any, user: User | Callable[[], User], **options: Unpack[Metering]) -> C:
    """Return a copy of a client; the user pays for its model calls. `user` may be a function that returns the user.

    `quotas` comes from an Atlas for `OpenAI`, from an AsyncAtlas for `AsyncOpenAI`; Azure's and Bedrock's clients work
    too. A copy is cheap, so make one per request. Its calls raise QuotaExceeded and DatabaseUnreachable before they
    send anything, and InvalidInput if they cannot be metered. Raises TypeError, InvalidInput.
    """
    return guard_client(client, _OpenAI(), quotas, user, options)
