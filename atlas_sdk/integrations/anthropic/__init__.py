"""A metered Anthropic client.

::

    from anthropic import Anthropic
    from atlas_sdk.integrations.anthropic import guarded

    client = guarded(Anthropic(), atlas.quotas, user, prices=prices, min_output_tokens=256)
    message = client.messages.create(model="…", max_tokens=4096, messages=[…])      # raises QuotaExceeded before

`guarded` returns a client of the same class, which shares the connections of the given one. Before every model call it
reserves the upper bound of the input (`bounds`) plus `max_tokens`; after the call it charges the usage. This covers
`messages.create`, `.stream` and `.parse`, those of `beta.messages`, the tool runner, `with_raw_response`, and the
clients that `with_options` and `copy` return.

* The user pays for a stream when it ends. For a stream that breaks, is closed early or is cancelled, the user pays the
  input and the bytes of the output so far. If the model thinks, the user pays all of the reserved output, because
  streams show at most a part of the thinking. The ledger marks both as `estimated`. A loop over a stream closes it when
  it ends, by `break` too.
* A call without an answer is charged by its outcome: see `outcomes.POLICIES`. The library repeats requests by itself
  (`max_retries`). After an attempt that is charged, the client first reserves the same amount once more. If this
  reservation is refused, the client raises QuotaExceeded and sends nothing.
* With `min_output_tokens`, a request near the limit is sent with the granted `max_tokens`, which may be smaller.
* The client raises InvalidInput for `fallbacks`, batches, agents' sessions, `with_streaming_response`, raw streams, and
  every other POST that may use a model without reporting its usage. `unmetered=` names more paths that pass. Free
  requests pass too, such as those for files and for counting tokens.

docs/metering.md has the tables of usage, prices and outcomes.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar, Unpack

import anthropic

from atlas_sdk import User
from atlas_sdk.integrations.anthropic.messages import Messages
from atlas_sdk.integrations.metering.endpoint import Endpoint
from atlas_sdk.integrations.metering.options import Meter, Metering
from atlas_sdk.integrations.metering.streams import AsyncWatch, Watch, closing, closing_async
from atlas_sdk.integrations.metering.wrapping import guard_client, refused

__all__ = ["guarded"]

C = TypeVar(
    "C",
    bound=anthropic.Anthropic
    | anthropic.AsyncAnthropic
    | anthropic.AnthropicBedrock
    | anthropic.AsyncAnthropicBedrock
    | anthropic.AnthropicBedrockMantle
    | anthropic.AsyncAnthropicBedrockMantle
    | anthropic.AnthropicVertex
    | anthropic.AsyncAnthropicVertex,
)
T = TypeVar("T")

#: Paths whose POST requests use no model, with all paths below them.
_FREE = ("/messages/count_tokens", "/files", "/skills")


class Stream(anthropic.Stream[T]):
    """The library's stream, whose events a `Watch` counts."""

    watch: Watch

    def __stream__(self) -> Iterator[T]:
        return self.watch.through(super().__stream__())

    def __iter__(self) -> Iterator[T]:
        return closing(super().__iter__(), self._iterator)


class AsyncStream(anthropic.AsyncStream[T]):
    """The library's asyncio stream, whose events an `AsyncWatch` counts."""

    watch: AsyncWatch

    def __stream__(self) -> AsyncIterator[T]:
        return self.watch.through(super().__stream__())

    def __aiter__(self) -> AsyncIterator[T]:
        return closing_async(super().__aiter__(), self._iterator)


class _Anthropic:
    absent: tuple[type, ...] = (anthropic.Omit, anthropic.NotGiven)
    streams: tuple[type, type] = (anthropic.Stream, anthropic.AsyncStream)
    watched: tuple[type, type] = (Stream, AsyncStream)

    def endpoint(self, path: str, meter: Meter) -> Endpoint | None:  # noqa: ARG002  # of Library
        if path == "/messages":
            return Messages()
        if any(path == free or path.startswith(f"{free}/") for free in _FREE):
            return None
        if path.startswith("/messages/batches/") and path.endswith("/cancel"):
            return None
        raise refused(path, batches=path == "/messages/batches")

    def prepare(self, client: Any) -> None:
        """Do nothing: every call goes through `request`."""


def guarded(client: C, quotas: Any, user: User | Callable[[], User], **options: Unpack[Metering]) -> C:
    """Return a copy of a client; the user pays for its model calls. `user` may be a function that returns the user.

    `quotas` comes from an Atlas for a blocking client, from an AsyncAtlas for an asyncio client; the clients for
    Bedrock, Vertex, Foundry and AWS work too. A copy is cheap, so make one per request. Its calls raise QuotaExceeded
    and DatabaseUnreachable before they send anything, and InvalidInput if they cannot be metered. Raises TypeError,
    InvalidInput.
    """
    return guard_client(client, _Anthropic(), quotas, user, options)
