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
  streams show at most a part of the thinking. The ledger marks both as `estimated`.
* An error releases the reservation if it proves that nothing was billed: no connection, or a 4xx except 408, at every
  attempt. After other errors (5xx, time-outs) the outcome is unknown, and `on_unknown` decides: the default charges the
  reservation.
* The library repeats requests by itself (`max_retries`). After an attempt of unknown outcome, the client first reserves
  the same amount once more. If this reservation is refused, the client raises QuotaExceeded and sends nothing. The user
  pays the reservation of every attempt of unknown outcome, even if a later attempt succeeds: see `unknown_attempts` in
  the ledger.
* With `min_output_tokens`, a request near the limit is sent with the granted `max_tokens`, which may be smaller.
* The client raises InvalidInput for batches, agents' sessions, `with_streaming_response`, raw streams, and every other
  POST that may use a model without reporting its usage. `unmetered=` names more paths that pass. Free requests pass
  too, such as those for files and for counting tokens.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar, Unpack

import anthropic

from atlas_sdk import InvalidInput, User
from atlas_sdk.integrations.metering import Api, Metering, Plan, Tally, positive
from atlas_sdk.integrations.streams import AsyncWatch, Watch
from atlas_sdk.integrations.usage import TokenUsage
from atlas_sdk.integrations.wrapping import guard_client

__all__ = ["guarded"]

C = TypeVar("C", bound="anthropic.Anthropic | anthropic.AsyncAnthropic")
T = TypeVar("T")

#: Paths whose POST requests use no model, with all paths below them.
_FREE = ("/messages/count_tokens", "/files", "/skills")


class Stream(anthropic.Stream[T]):
    """The library's stream, whose events a `Watch` counts."""

    watch: Watch

    def __stream__(self) -> Iterator[T]:
        return self.watch.through(super().__stream__())


class AsyncStream(anthropic.AsyncStream[T]):
    """The library's asyncio stream, whose events an `AsyncWatch` counts."""

    watch: AsyncWatch

    def __stream__(self) -> AsyncIterator[T]:
        return self.watch.through(super().__stream__())


class Messages:
    """The endpoint POST /v1/messages."""

    provider = "anthropic"

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Its `max_tokens` bounds the whole output, thinking included."""
        output = positive("max_tokens", body.get("max_tokens", default_output))
        thinking = body.get("thinking") or {}
        budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
        # The provider requires a limit above the thinking budget.
        return Plan(model=str(body.get("model", "")), output=output, least=budget + 1 if isinstance(budget, int) else 1)

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this `max_tokens`."""
        return {**body, "max_tokens": output}

    def usage(self, answer: object) -> TokenUsage | None:
        """Read the usage of a message."""
        usage = answer.get("usage") if isinstance(answer, Mapping) else getattr(answer, "usage", None)
        return None if usage is None else TokenUsage.from_anthropic(usage)

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event: the first one reports the input, the last ones the output."""
        kind = event.type
        if kind == "message_start":
            tally.usage = TokenUsage.from_anthropic(event.message.usage)
            tally.model = event.message.model
        elif kind == "content_block_start":
            block = event.content_block
            tally.hides = tally.hides or "thinking" in block.type
            tally.text(getattr(block, "text", None), getattr(block, "name", None))
        elif kind == "content_block_delta":
            delta = event.delta
            tally.text(*(getattr(delta, name, None) for name in ("text", "partial_json", "thinking")))
        elif kind == "message_delta":
            # Fields are totals; a missing field has not changed.
            told = event.usage.to_dict()
            merged = {**_told(tally.usage), **{name: value for name, value in told.items() if value is not None}}
            tally.usage = TokenUsage.from_anthropic(merged)
            tally.final = event.delta.stop_reason is not None
        return True


def _told(usage: TokenUsage | None) -> dict[str, object]:
    if usage is None:
        return {}
    return {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
    }


class _Anthropic:
    absent: tuple[type, ...] = (anthropic.Omit, anthropic.NotGiven)
    streams: tuple[type, type] = (anthropic.Stream, anthropic.AsyncStream)
    watched: tuple[type, type] = (Stream, AsyncStream)

    def api(self, path: str) -> Api | None:
        if path == "/messages":
            return Messages()
        if any(path == free or path.startswith(f"{free}/") for free in _FREE):
            return None
        if path.startswith("/messages/batches/") and path.endswith("/cancel"):
            return None
        raise InvalidInput(
            f"a guarded client does not post to {path}, because its usage would not be counted: "
            "use the client itself, or add the path to unmetered=",
            field="path",
        )

    def prepare(self, client: Any) -> None:
        """Do nothing: every call goes through `request`."""


def guarded(client: C, quotas: Any, user: User | Callable[[], User], **options: Unpack[Metering]) -> C:
    """Return a copy of a client; the user pays for its model calls. `user` may be a function that returns the user.

    `quotas` comes from an Atlas for `Anthropic`, from an AsyncAtlas for `AsyncAnthropic`. A copy is cheap, so make one
    per request. Its calls raise QuotaExceeded and DatabaseUnreachable before they send anything, and InvalidInput if
    they cannot be metered. Raises TypeError, InvalidInput.
    """
    awaited = isinstance(client, anthropic.AsyncAnthropic)
    return guard_client(client, _Anthropic(), quotas, user, options, awaited=awaited)
