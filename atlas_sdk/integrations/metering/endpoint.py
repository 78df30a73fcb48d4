"""The differences between the endpoints of providers. No I/O."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from attrs import define, field, frozen

from atlas_sdk.integrations.usage import ReportedUsage, as_data, read_usage

__all__ = ["Endpoint", "Plan", "Tally", "answered_model", "plain", "text_bytes"]

#: The names of texts in answers of all providers.
_TEXTS = frozenset(
    {
        "arguments",
        "content",
        "name",
        "reasoning",
        "reasoning_content",
        "refusal",
        "text",
        "thinking",
        "transcript",
    }
)


@frozen(kw_only=True)
class Plan:
    """The upper bound of a request's usage."""

    model: str
    #: Output tokens of one answer.
    output: int
    #: The number of answers requested.
    answers: int = 1
    #: The fewest output tokens that the provider accepts.
    least: int = 1
    #: True if the answer may hide a part of the output, such as reasoning, so that the visible bytes do not bound it.
    hides: bool = False
    #: The part of `TokenUsage` that output becomes if its usage is unknown: the dearest that the request may produce.
    output_part: str = "output"
    #: The parts of `Price`, beside input, output and the usual cache, that the request may use.
    uses: frozenset[str] = frozenset()
    #: True if the provider may bill the audio by the minute instead of by tokens.
    timed: bool = False
    #: The service tier or speed that the request names.
    tier: str | None = None
    #: The region that the request names.
    region: str | None = None
    #: Searches that the request allows.
    searches: int = 0
    #: Searches that the request orders, and that no usage reports.
    unreported_searches: int = 0


@define
class Tally:
    """The usage that an answer has shown so far."""

    #: The usage that the provider has reported so far.
    raw: dict[str, Any] = field(factory=dict)
    #: `raw`, as read by the endpoint's table; None if nothing was reported.
    usage: ReportedUsage | None = None
    #: True if `usage` came with the end of the answer, or after it.
    final: bool = False
    #: UTF-8 bytes of the output so far. The output has at most as many tokens.
    seen: int = 0
    #: Finished answers, for APIs that report the usage after the answers.
    finished: int = 0
    #: True if only the usage is still missing.
    ending: bool = False
    #: True if the answer has hidden output.
    hides: bool = False
    #: Searches that the answer shows, for usage that reports none.
    searches: int = 0
    #: Calls of the provider's tools that the answer shows, and whose cost no usage reports.
    unpriced: set[str] = field(factory=set)
    model: str | None = None

    def text(self, *parts: object) -> None:
        """Count the bytes of output texts."""
        self.seen += sum(len(part.encode("utf-8", "replace")) for part in parts if isinstance(part, str))

    def tell(self, shape: str, raw: object, *, final: bool, beside: Mapping[str, Any] | None = None) -> None:
        """Note a reported usage. Its numbers are totals, so they never decrease; omitted fields keep their values."""
        for name, value in {**as_data(raw), **(beside or {})}.items():
            before = self.raw.get(name)
            if value is not None and not (isinstance(before, int) and isinstance(value, int) and before > value):
                self.raw[name] = value
        self.usage, self.final = read_usage(shape, self.raw), final


class Endpoint(Protocol):
    """One endpoint of one provider."""

    @property
    def provider(self) -> str:
        """The provider's name, for the ledger and for prices."""
        ...

    @property
    def needs_bound(self) -> bool:
        """True if the bytes of a request never bound its input."""
        ...

    def plan(self, body: Mapping[str, Any], *, default_output: int) -> Plan:
        """Read a request. Raises InvalidInput for one that cannot be metered."""
        ...

    def counter(self, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Return path and body of a request to the provider's counter of input tokens; None if it has none."""
        ...

    def limited(self, body: dict[str, Any], output: int) -> dict[str, Any]:
        """Return the request with this limit of output tokens."""
        ...

    def answer(self, tally: Tally, answer: object) -> None:
        """Note a complete answer, an object or a mapping."""
        ...

    def see(self, tally: Tally, event: Any) -> bool:
        """Note an event of a stream; return False to hide an event that the caller did not request."""
        ...


def answered_model(answer: object) -> str | None:
    """Return the model that an answer names."""
    model = answer.get("model") if isinstance(answer, Mapping) else getattr(answer, "model", None)
    return model if isinstance(model, str) else None


def text_bytes(value: object, *, counts: bool = False) -> int:
    """Return the UTF-8 bytes of the texts in an answer's JSON: the values of known names, and inputs of tools."""
    if isinstance(value, Mapping):
        inputs = value.get("input") if value.get("type") == "tool_use" else None
        size = 0 if inputs is None else len(json.dumps(inputs, ensure_ascii=False).encode("utf-8", "replace"))
        return size + sum(text_bytes(part, counts=name in _TEXTS) for name, part in value.items())
    if isinstance(value, list | tuple):
        return sum(text_bytes(part, counts=counts) for part in value)
    return len(value.encode("utf-8", "replace")) if counts and isinstance(value, str) else 0


def plain(value: Any, absent: tuple[type, ...]) -> Any:
    """Return a value of a request in a form that can be read twice, without the fields that the caller omitted."""
    if isinstance(value, Mapping):
        return {key: plain(part, absent) for key, part in value.items() if not isinstance(part, absent)}
    if isinstance(value, str | bytes) or hasattr(value, "model_dump") or hasattr(value, "read"):
        return value
    if isinstance(value, Iterable):
        return [plain(part, absent) for part in value]
    return value
