"""The endpoint of Anthropic's messages."""

from collections.abc import Mapping
from typing import Any

from atlas_sdk import InvalidInput
from atlas_sdk.integrations.metering.endpoint import Plan, Tally, answered_model, text_bytes
from atlas_sdk.integrations.metering.options import whole
from atlas_sdk.integrations.usage import as_data

__all__ = ["Messages"]

_SHAPE = "anthropic.messages"
#: The fields of a request that `count_tokens` takes too.
_COUNTED = (
    "cache_control",
    "context_management",
    "mcp_servers",
    "messages",
    "model",
    "output_config",
    "output_format",
    "system",
    "thinking",
    "tool_choice",
    "tools",
)


class Messages:
    """The endpoint POST /v1/messages."""

    provider = "anthropic"
    needs_bound = False

    def __init__(self) -> None:
        self._long_cache = False

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Its `max_tokens` bounds the whole output, thinking included; 0 only fills the cache.

        Raises InvalidInput for `fallbacks`: other models may answer then, with prices and limits of their own.
        """
        if body.get("fallbacks"):
            raise InvalidInput(
                "a request with fallbacks cannot be metered, because the price and the limit of each model differ: "
                "send it without fallbacks, and after a refusal send it to the next model yourself",
                field="fallbacks",
            )
        given = body.get("max_tokens")
        output = default_output if given is None else whole("max_tokens", given)
        thinking = body.get("thinking") or {}
        budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
        self._long_cache = any(
            _asks_long_cache(body.get(name)) for name in ("cache_control", "system", "tools", "messages")
        )
        region = body.get("inference_geo")
        return Plan(
            model=str(body.get("model", "")),
            output=output,
            # The provider requires a limit above the thinking budget.
            least=budget + 1 if isinstance(budget, int) else min(1, output),
            uses=frozenset({"cache_write_long"} if self._long_cache else ()),
            tier="fast" if body.get("speed") == "fast" else body.get("service_tier"),
            region=region if isinstance(region, str) else None,
            searches=_searches(body.get("tools")),
        )

    def counter(self, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Return a request to POST /v1/messages/count_tokens."""
        return "/v1/messages/count_tokens", {name: body[name] for name in _COUNTED if name in body}

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this `max_tokens`."""
        return {**body, "max_tokens": output}

    def answer(self, tally: Tally, answer: object) -> None:
        """Note a message."""
        data = as_data(answer)
        tally.model = answered_model(data)
        content = data.get("content")
        tally.seen = text_bytes(content)
        tally.hides = any("thinking" in str(block.get("type")) for block in content or () if isinstance(block, Mapping))
        if data.get("usage") is not None:
            self._tell(tally, data["usage"], final=True)

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event: the first one reports the input, the last ones the output."""
        kind = event.type
        if kind == "message_start":
            self._tell(tally, event.message.usage, final=False)
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
            self._tell(tally, event.usage, final=event.delta.stop_reason is not None)
        return True

    def _tell(self, tally: Tally, usage: object, *, final: bool) -> None:
        data = as_data(usage)
        written = data.get("cache_creation_input_tokens")
        beside = {}
        if self._long_cache and written and data.get("cache_creation") is None and "cache_creation" not in tally.raw:
            # The age of the writes is not reported, so the dearer one that was requested counts.
            beside["cache_creation"] = {"ephemeral_1h_input_tokens": written}
        tally.tell(_SHAPE, data, final=final, beside=beside)


def _asks_long_cache(value: object) -> bool:
    """Return whether a part of a request asks for cache writes that live for an hour."""
    if isinstance(value, Mapping):
        control = value.get("cache_control", value if "ttl" in value else None)
        if isinstance(control, Mapping) and control.get("ttl") not in {None, "5m"}:
            return True
        return _asks_long_cache(value.get("content"))
    return isinstance(value, list | tuple) and any(map(_asks_long_cache, value))


def _searches(tools: object) -> int:
    """Return the number of web searches that a request allows; 0 if it does not bound them."""
    found = 0
    for tool in tools if isinstance(tools, list | tuple) else ():
        data = as_data(tool)
        if str(data.get("type", "")).startswith("web_search"):
            most = data.get("max_uses")
            found += most if isinstance(most, int) else 0
    return found
