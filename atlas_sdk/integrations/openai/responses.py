"""The endpoint of OpenAI's responses."""

from collections.abc import Mapping
from typing import Any

from atlas_sdk import InvalidInput
from atlas_sdk.integrations.bounds import content_kinds
from atlas_sdk.integrations.metering.endpoint import Plan, Tally, answered_model, text_bytes
from atlas_sdk.integrations.metering.options import whole
from atlas_sdk.integrations.usage import as_data

__all__ = ["Responses"]

_SHAPE = "openai.responses"
#: The fields of a request that `input_tokens` takes too.
_COUNTED = (
    "conversation",
    "input",
    "instructions",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "truncation",
)
#: Calls of hosted tools whose cost no usage reports: by the call, and by the container.
_UNREPORTED = frozenset({"file_search_call", "code_interpreter_call"})
#: Actions of a web search call that read a page that was found; the provider bills searches only.
_READS = frozenset({"open_page", "find_in_page"})


class Responses:
    """The endpoint POST /responses."""

    provider = "openai"
    needs_bound = False

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Raises InvalidInput for a background response, whose usage would not be seen."""
        if body.get("background"):
            raise InvalidInput("a background response cannot be metered", field="background")
        reasoning = body.get("reasoning") or {}
        effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else None
        given = body.get("max_output_tokens")
        output = default_output if given is None else whole("max_output_tokens", given)
        kinds = content_kinds(body)
        tools = {str(as_data(tool).get("type")) for tool in body.get("tools") or ()}
        cache = body.get("prompt_cache_options")
        uses = {
            "input_audio": "input_audio" in kinds,
            "input_image": "input_image" in kinds,
            "output_image": "image_generation" in tools,
            "cache_write_long": isinstance(cache, Mapping) and cache.get("ttl") not in {None, "30m"},
        }
        calls = body.get("max_tool_calls")
        searching = any(tool.startswith("web_search") for tool in tools)
        return Plan(
            model=str(body.get("model", "")),
            output=output,
            least=min(1, output),
            hides=effort not in {None, "none"},
            uses=frozenset(part for part, used in uses.items() if used),
            tier=body.get("service_tier"),
            searches=calls if searching and isinstance(calls, int) else 0,
        )

    def counter(self, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Return a request to POST /responses/input_tokens."""
        return "/responses/input_tokens", {name: body[name] for name in _COUNTED if name in body}

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this output limit."""
        return {**body, "max_output_tokens": output}

    def answer(self, tally: Tally, answer: object) -> None:
        """Note a response, which is complete or has failed."""
        data = as_data(answer)
        tally.model = answered_model(data) or tally.model
        output = [as_data(item) for item in data.get("output") or ()]
        tally.seen = max(tally.seen, text_bytes(output))
        tally.hides = tally.hides or any(item.get("type") == "reasoning" for item in output)
        reported = as_data(data.get("tool_usage"))
        tally.searches, tally.unpriced = 0, set()
        for item in output:
            _note_call(tally, item, drawn=bool(as_data(reported.get("image_gen")).get("output_tokens")))
        if as_data(reported.get("web_search")).get("num_requests") is not None:
            tally.searches = 0
        if data.get("usage") is not None:
            drawn = [item["svg_usage"] for item in output if item.get("svg_usage")]
            beside = {
                "service_tier": data.get("service_tier"),
                "tool_usage": data.get("tool_usage"),
                "svg_usage": drawn,
            }
            tally.tell(_SHAPE, data["usage"], final=True, beside=beside)

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event. The last event of a response has its usage."""
        response = getattr(event, "response", None)
        if response is not None:
            tally.model = getattr(response, "model", None) or tally.model
            if getattr(response, "usage", None) is not None:
                self._tell(tally, response, kind=event.type)
        elif event.type == "response.output_item.added":
            tally.hides = tally.hides or event.item.type == "reasoning"
            tally.text(getattr(event.item, "name", None))
            _note_call(tally, as_data(event.item), drawn=False)
        elif event.type.endswith(".delta"):
            tally.text(event.delta)
        return True

    def _tell(self, tally: Tally, response: object, *, kind: str) -> None:
        if kind in {"response.completed", "response.incomplete", "response.failed"}:
            self.answer(tally, response)
        else:
            # Some gateways put a usage into the first event.
            tally.tell(_SHAPE, as_data(response)["usage"], final=False)


def _note_call(tally: Tally, item: Mapping[str, Any], *, drawn: bool) -> None:
    """Note the call of a hosted tool. `drawn` is True if the usage of made images is reported."""
    kind = item.get("type")
    if kind == "web_search_call":
        tally.searches += as_data(item.get("action")).get("type") not in _READS
    elif kind in _UNREPORTED or (kind == "image_generation_call" and not drawn and not item.get("svg_usage")):
        tally.unpriced.add(str(kind))
