"""Compute an upper bound of a request's input tokens, without a tokenizer.

Models read byte-level tokens. A token is at least one byte, so a text has at most as many tokens as UTF-8 bytes. The
JSON of the request contains every text, and its names and brackets have more bytes than the tokens that a provider puts
around a message. The bound adds a constant for the texts of providers (tools, output formats). For English the bound is
about four times the real number of tokens; the settlement at the end of the call gives the difference back.

The module refuses input that can have more tokens than bytes: images, files and audio, input that the request only
names (files by id, earlier responses, conversations, stored prompts), and tools that the provider runs, because the
provider reads their results as input. A platform that uses such input gives its own bound as `input_tokens=` of
`guarded`.
"""

import json
from collections.abc import Collection, Iterator, Mapping

from atlas_sdk import InvalidInput

__all__ = ["check_counted", "content_kinds", "input_bound", "request_bytes"]

#: Tokens around the whole request.
_BASE = 256
#: Tokens that providers put before the first tool, or before an output format; Anthropic's largest number is 700.
_TOOLS = 1_000
#: Tokens of each tool that the provider defines and the caller runs (shell, editor, computer).
_DEFINED_TOOL = 2_000

#: Parts of content that can have more tokens than bytes.
_MEDIA = frozenset(
    {
        "audio",
        "computer_screenshot",
        "container_upload",
        "document",
        "file",
        "image",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "item_reference",
        "video",
    }
)
#: Fields that name input stored at the provider.
_REFERENCES = frozenset(
    {
        "container",
        "context_management",
        "conversation",
        "mcp_servers",
        "previous_response_id",
        "prompt",
        "web_search_options",
    }
)
#: Tools that the caller runs. Their results are part of the next request.
_OWN_TOOLS = frozenset({"custom", "function", "namespace", "local_shell", "apply_patch"})
_OWN_DEFINED_TOOLS = ("bash_", "text_editor_", "computer_", "memory_")

#: The beginnings of a refusal.
_BYTES, _COUNTER = "the bytes of this request do", "the provider's count of this request does"


def request_bytes(body: Mapping[str, object]) -> int:
    """Return the length of the request as JSON in UTF-8."""
    return len(json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=_plain).encode("utf-8", "replace"))


def input_bound(body: Mapping[str, object]) -> int:
    """Return an upper bound of a request's input tokens. Raises InvalidInput if they can be more than its bytes."""
    for name in _references(body):
        raise _unbounded(name)
    bound = _BASE + request_bytes(body)
    tools = body.get("tools")
    if isinstance(tools, list | tuple) and tools:
        bound += _TOOLS + sum(_tool(tool) for tool in tools)
    if body.get("functions"):
        bound += _TOOLS
    if body.get("response_format") or body.get("output_config") or body.get("output_format") or body.get("text"):
        bound += _TOOLS
    for kind in content_kinds(body):
        if kind in _MEDIA:
            raise _unbounded(kind)
    return bound


def check_counted(body: Mapping[str, object], counted: Collection[str]) -> None:
    """Raise InvalidInput for input that a provider's counter cannot see. `counted` are the fields that it gets.

    These are references in other fields, files in a container, and tools that the provider runs, because their results
    become input only later.
    """
    for name in _references(body):
        if name not in counted or name == "mcp_servers":
            raise _unbounded(name, count=_COUNTER)
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list | tuple) else ():
        _tool(tool, count=_COUNTER)
    if "container_upload" in content_kinds(body):
        raise _unbounded("container_upload", count=_COUNTER)


def _references(body: Mapping[str, object]) -> Iterator[str]:
    """Yield the fields of a request that name input stored elsewhere."""
    for name in sorted(_REFERENCES & body.keys()):
        # An empty object asks for a search too. A text is the prompt of an image; a stored prompt is an object.
        asks = body[name] is not None if name == "web_search_options" else body[name]
        if asks and not (name == "prompt" and isinstance(body[name], str)):
            yield name


def content_kinds(body: Mapping[str, object]) -> list[str]:
    """Return the `type` of every part of a request's messages."""
    return [kind for name in ("system", "messages", "input") for kind in _kinds(body.get(name))]


def _tool(tool: object, *, count: str = _BYTES) -> int:
    kind = tool.get("type", "custom") if isinstance(tool, Mapping) else getattr(tool, "type", "custom")
    if kind in _OWN_TOOLS:
        return 0
    if isinstance(kind, str) and kind.startswith(_OWN_DEFINED_TOOLS):
        return _DEFINED_TOOL
    raise _unbounded(f"the tool {kind}", count=count)


def _kinds(content: object) -> Iterator[str]:
    """Yield the `type` of every part of the messages. Skip the input of tools: a "type" in it means something else."""
    if isinstance(content, Mapping):
        if isinstance(kind := content.get("type"), str):
            yield kind
        for name in ("content", "output"):
            yield from _kinds(content.get(name))
    elif isinstance(content, list | tuple):
        for part in content:
            yield from _kinds(part if isinstance(part, Mapping | list | tuple) else _plain(part))


def _plain(value: object) -> object:
    """Return an object of the client library as JSON data, because a request may contain earlier answers."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(value)


def _unbounded(what: str, *, count: str = _BYTES) -> InvalidInput:
    return InvalidInput(
        f"{count} not bound its input tokens, because of {what}: "
        "give guarded() a bound of your own, a function as input_tokens=",
        field="input_tokens",
    )
