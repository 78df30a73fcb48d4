"""The endpoint of OpenAI's chat completions, which many other servers have too."""

from collections.abc import Mapping
from typing import Any

from atlas_sdk.integrations.bounds import content_kinds
from atlas_sdk.integrations.metering.endpoint import Plan, Tally, answered_model, text_bytes
from atlas_sdk.integrations.metering.options import positive, whole
from atlas_sdk.integrations.usage import as_data

__all__ = ["ChatCompletions"]

_SHAPE = "openai.chat"
#: The text fields of a chunk. The last two are not OpenAI's: compatible servers stream their reasoning in them.
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


class ChatCompletions:
    """The endpoint POST /chat/completions."""

    provider = "openai"
    needs_bound = False

    def __init__(self, *, asks_usage: bool, compatible: bool) -> None:
        """`asks_usage` requests the usage of streams. For a `compatible` server the output limit has its older name."""
        self._asks_usage = asks_usage
        self._limit = "max_tokens" if compatible else "max_completion_tokens"
        self._shows_usage = True
        self._awaits_usage = False
        self._answers = 1

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Its output limit includes reasoning, and applies to each of `n` answers."""
        name = self._field(body)
        given, effort = body.get(name), body.get("reasoning_effort")
        count = body.get("n")
        self._answers = 1 if count is None else positive("n", count)
        output = default_output if given is None else whole(name, given)
        # Models with this option search once, and their usage does not tell. An empty object sets it too.
        searches = int(body.get("web_search_options") is not None)
        speaks = "audio" in (body.get("modalities") or ()) or bool(body.get("audio"))
        uses = {
            "output_audio": speaks,
            "input_audio": "input_audio" in content_kinds(body),
            "input_image": "image_url" in content_kinds(body),
        }
        return Plan(
            model=str(body.get("model", "")),
            output=output,
            answers=self._answers,
            least=min(1, output),
            hides=effort not in {None, "none"} or speaks,
            output_part="output_audio" if speaks else "output",
            uses=frozenset(part for part, used in uses.items() if used),
            tier=body.get("service_tier"),
            searches=searches,
            unreported_searches=searches,
        )

    def _field(self, body: Mapping[str, Any]) -> str:
        """Return the name of the output limit: the one that the caller uses, or else the server's."""
        given = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
        return given[0] if given else self._limit

    def counter(self, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:  # noqa: ARG002  # of Endpoint
        """Return None: the provider does not count input tokens for this endpoint."""
        return None

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this output limit, and with a request for its usage, unless that is unwanted."""
        body = {**body, self._field(body): output}
        # None is a caller's wish that the field be null.
        options = body.get("stream_options", {})
        if body.get("stream") and self._asks_usage and options is not None and "include_usage" not in options:
            body["stream_options"] = {**options, "include_usage": True}
            self._shows_usage = False
        self._awaits_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return body

    def answer(self, tally: Tally, answer: object) -> None:
        """Note a completion."""
        data = as_data(answer)
        tally.model = answered_model(data)
        tally.seen = text_bytes(data.get("choices"))
        if data.get("usage") is not None:
            tally.tell(_SHAPE, data["usage"], final=True, beside={"service_tier": data.get("service_tier")})

    def see(self, tally: Tally, event: Any) -> bool:
        """Note a chunk. The usage is final if it comes with the end of the last answer, or after it."""
        tally.model = getattr(event, "model", None) or tally.model
        for choice in event.choices or ():
            delta = choice.delta
            if delta is not None:
                tally.text(*(getattr(delta, name, None) for name in _TEXTS))
                if delta.function_call is not None:
                    tally.text(delta.function_call.name, delta.function_call.arguments)
                for call in delta.tool_calls or ():
                    if call.function is not None:
                        tally.text(call.function.name, call.function.arguments)
            tally.finished += choice.finish_reason is not None
        finished = tally.finished >= self._answers
        tally.ending = self._awaits_usage and finished
        if event.usage is None:
            return True
        tier = getattr(event, "service_tier", None)
        tally.tell(_SHAPE, event.usage, final=finished, beside={"service_tier": tier})
        return self._shows_usage or bool(event.choices)
