"""A metered Anthropic client.

::

    from anthropic import Anthropic
    from atlas_sdk.integrations.anthropic import guarded

    client = guarded(Anthropic(), atlas.quotas, user, prices=prices, min_output_tokens=256)
    message = client.messages.create(model="…", max_tokens=4096, messages=[…])      # raises QuotaExceeded before

What `guarded` returns is a client of the same class with the same connections. Every model call of it holds its
request's upper bound (`bounds`) and `max_tokens` before, and charges the usage after: `messages.create`, `.stream` and
`.parse`, those of `beta.messages`, the tool runner, `with_raw_response`, and whatever `with_options` or `copy` give.

* A stream is charged when it ends. One that breaks, is closed early or is cancelled is charged its input and what it
  has shown so far, by bytes; one that thinks is charged all of the output that it was promised, since thinking is shown
  in part at most. `estimated` in the ledger marks both.
* An error that proves that nothing was billed (no connection, a 4xx but 408, at every try) gives the promise back.
  After any other (5xx, time-outs) the outcome is unknown: `on_unknown` decides, and charges the promise by default.
* The library tries again by itself (`max_retries`). Before it does so after an unknown outcome, as much is promised
  again; when that is refused, QuotaExceeded is raised and nothing more is sent. Every try of unknown outcome is charged
  what it was promised, also when a later one succeeds: `unknown_attempts` in the ledger.
* With `min_output_tokens` a request near the limit is sent with a smaller `max_tokens`, what the grant allows.
* Refused with InvalidInput: batches, agents' sessions and every other POST that may use a model and tells no usage,
  `with_streaming_response`, raw streams. `unmetered=` lets paths through. Free, as counting tokens and files: passed.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar, Unpack

import anthropic

from atlas_sdk import InvalidInput, User
from atlas_sdk.integrations.metering import Api, Metering, Plan, Tally
from atlas_sdk.integrations.streams import AsyncWatch, Watch
from atlas_sdk.integrations.usage import TokenUsage
from atlas_sdk.integrations.wrapping import guard_client

__all__ = ["guarded"]

C = TypeVar("C", bound="anthropic.Anthropic | anthropic.AsyncAnthropic")
T = TypeVar("T")

#: Posts that use no model; with what is below them.
_FREE = ("/messages/count_tokens", "/files", "/skills")


class Stream(anthropic.Stream[T]):
    """The library's stream, watched."""

    watch: Watch

    def __stream__(self) -> Iterator[T]:
        return self.watch.through(super().__stream__())


class AsyncStream(anthropic.AsyncStream[T]):
    """The library's asyncio stream, watched."""

    watch: AsyncWatch

    def __stream__(self) -> AsyncIterator[T]:
        return self.watch.through(super().__stream__())


class Messages:
    """POST /v1/messages."""

    provider = "anthropic"

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request; `max_tokens` bounds all of its output, thinking included."""
        output = body.get("max_tokens", default_output)
        thinking = body.get("thinking") or {}
        budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
        if isinstance(output, bool) or not isinstance(output, int) or output < 1:
            raise InvalidInput(f"max_tokens must be a whole number from 1 up, not {output!r}", field="max_tokens")
        # The provider refuses a limit that is not above the budget.
        return Plan(model=str(body.get("model", "")), output=output, least=budget + 1 if isinstance(budget, int) else 1)

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this `max_tokens`."""
        return {**body, "max_tokens": output}

    def usage(self, answer: object) -> TokenUsage | None:
        """Read a message's usage."""
        usage = answer.get("usage") if isinstance(answer, Mapping) else getattr(answer, "usage", None)
        return None if usage is None else TokenUsage.from_anthropic(usage)

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event: the first tells the input, the last ones the output."""
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
            # What is left out has not changed; what is there is a total.
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
            f"a guarded client does not post to {path}: what it uses would not be counted; "
            "take the client itself, or name the path in unmetered=",
            field="path",
        )

    def prepare(self, client: Any) -> None:
        """Everything comes through `request`."""


def guarded(client: C, quotas: Any, user: User | Callable[[], User], **options: Unpack[Metering]) -> C:
    """Return a copy of a client whose model calls are paid by a user; `user` may be a function that finds out who.

    `quotas` are those of an Atlas for `Anthropic`, of an AsyncAtlas for `AsyncAnthropic`. Making one is cheap: make one
    for a request. Its calls raise QuotaExceeded and DatabaseUnreachable before
    anything is sent, InvalidInput for what cannot be metered. Raises TypeError, InvalidInput.
    """
    awaited = isinstance(client, anthropic.AsyncAnthropic)
    return guard_client(client, _Anthropic(), quotas, user, options, awaited=awaited)
