"""The usage that providers report, in one form.

Providers use the same words for different things: Anthropic's `input_tokens` exclude tokens read from or written to the
cache, OpenAI's `prompt_tokens` and `input_tokens` include them. `TokenUsage` has each part apart. No token is in two of
them, so their sum is the total. The table in `usage_fields.py` says which field becomes which part.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Self

from attrs import asdict, field, fields, frozen
from attrs.validators import ge, instance_of

from atlas_sdk.integrations.usage_fields import PARTS, SHAPES, STANDARD_REGIONS, STANDARD_TIERS, UsageField

__all__ = ["ReportedUsage", "TokenUsage", "as_data", "read_usage"]

#: Kinds of iterations whose tokens are also in the fields beside `iterations`.
_INSIDE_KINDS = frozenset({"message", "fallback_message"})
#: Kinds of iterations whose tokens are in no other field.
_ADDED_KINDS = frozenset({"compaction", "advisor_message"})


def _number() -> Any:
    return field(default=0, validator=[instance_of(int), ge(0)])


@frozen(kw_only=True)
class TokenUsage:
    """The usage of one call, in parts that do not overlap."""

    #: Input tokens that were neither read from a cache nor written to one.
    input: int = _number()
    #: Output tokens, reasoning included.
    output: int = _number()
    #: Input tokens that came from a cache.
    cache_read: int = _number()
    #: Input tokens that were written to a cache, for the provider's usual time.
    cache_write: int = _number()
    #: Input tokens that were written to a cache for longer: 1 hour at Anthropic, 12 hours at OpenAI.
    cache_write_long: int = _number()
    input_audio: int = _number()
    input_image: int = _number()
    output_audio: int = _number()
    output_image: int = _number()
    #: Tokens of fields that this version does not know.
    other: int = _number()
    #: Searches by the provider. They are no tokens.
    web_searches: int = _number()
    #: Seconds of audio, of models that are billed by time. They are no tokens.
    audio_seconds: int = _number()

    def __add__(self, more: "TokenUsage") -> "TokenUsage":
        return TokenUsage(**{name: value + getattr(more, name) for name, value in asdict(self).items()})

    @property
    def sent(self) -> int:
        """All input tokens."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_long + self.input_media

    @property
    def input_media(self) -> int:
        """The input tokens of audio and images."""
        return self.input_audio + self.input_image

    @property
    def made(self) -> int:
        """All output tokens."""
        return self.output + self.output_audio + self.output_image

    @property
    def total(self) -> int:
        """All tokens, as counted against the monthly limit."""
        return self.sent + self.made + self.other

    @classmethod
    def from_anthropic(cls, usage: object) -> Self:
        """Read the usage of a message, or of a `message_delta` event. `usage` is an object or a mapping."""
        return cls(**asdict(read_usage("anthropic.messages", usage).total))

    @classmethod
    def from_openai(cls, usage: object) -> Self:
        """Read the usage of a chat completion, or of the Responses API. `usage` is an object or a mapping."""
        data = as_data(usage)
        shape = "openai.responses" if data.get("prompt_tokens") is None else "openai.chat"
        return cls(**asdict(read_usage(shape, data).total))


_NAMES = tuple(part.name for part in fields(TokenUsage))


@frozen(kw_only=True)
class ReportedUsage:
    """The usage that a provider has reported for one call."""

    #: Usage by model. None stands for the model of the call.
    lines: tuple[tuple[str | None, TokenUsage], ...]
    #: The service tier or the speed, if its price is not the normal one.
    tier: str | None = None
    #: The region, if its price may differ from the normal one.
    region: str | None = None
    #: Fields that this version does not know.
    unknown: tuple[str, ...] = ()
    #: The usage as reported.
    raw: Mapping[str, Any] = field(factory=dict)

    @cached_property
    def total(self) -> TokenUsage:
        """The usage of all models."""
        return sum((usage for _, usage in self.lines), TokenUsage())


def as_data(value: Any) -> dict[str, Any]:
    """Return an object of a client library, or a mapping, as JSON data; {} for other values."""
    data = _plain(value)
    return data if isinstance(data, dict) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _plain(getattr(value, "__dict__", {}) | (getattr(value, "model_extra", None) or {}))


def read_usage(shape: str, usage: object) -> ReportedUsage:
    """Read usage by the table of its shape (a key of `SHAPES`). `usage` is an object or a mapping."""
    table, raw = SHAPES[shape], as_data(usage)
    for name in _lists(table):
        if isinstance(raw.get(name), Mapping):
            raw[name] = [raw[name]]
    found = list(_unknown(table, raw))
    # Several entries of a list have the same path.
    unknown = {path for path, _ in found}
    main = _parts(table, raw)
    if not any(row.becomes == "total" and _count(raw, row.path) for row in table):
        # Without a total that bounds all tokens, a token field that this version does not know may come on top.
        more = sum(_whole(value) or 0 for path, value in found if path.endswith("tokens"))
        main = main + TokenUsage(other=more)
    inside, added, kinds = _entries(table, raw)
    entries = [line for line in (*inside, *added) if line[1] != TokenUsage()]
    return ReportedUsage(
        lines=((None, _beyond(main, inside)), *entries),
        tier=_name(table, raw, "tier", STANDARD_TIERS),
        region=_name(table, raw, "region", STANDARD_REGIONS),
        unknown=(*sorted(unknown), *kinds),
        raw=raw,
    )


Line = tuple[str | None, TokenUsage]


def _parts(table: Iterable[UsageField], raw: Mapping[str, Any]) -> TokenUsage:
    """Return the parts of the rows that are not in lists."""
    rows = [row for row in table if "[]" not in row.path]
    left: dict[str, int] = {}
    for row in rows:
        value = _count(raw, row.path)
        if row.becomes not in PARTS or value is None:
            continue
        if row.of in left:
            # Bound the parts by the whole, so that a wrong report cannot make a part negative.
            value = min(value, left[row.of])
            left[row.of] -= value
        left[row.path] = value
    parts = dict.fromkeys(_NAMES, 0)
    for row in rows:
        if row.becomes in PARTS:
            parts[row.becomes] += left.get(row.path, 0)
    if parts["cache_write_long"] and (rest := left.get("cache_creation_input_tokens")):
        # A later event may report more writes without their age.
        parts["cache_write"] -= rest
        parts["cache_write_long"] += rest
    # The usage of hosted tools is beside the total.
    whole = sum(value for path, value in left.items() if not path.startswith("tool_usage."))
    for row in rows:
        if row.becomes == "total" and (surplus := (_count(raw, row.path) or 0) - whole) > 0:
            part = next(other.becomes for other in rows if other.path == row.of)
            parts[part] += surplus
    return TokenUsage(**parts)


def _entries(table: tuple[UsageField, ...], raw: Mapping[str, Any]) -> tuple[list[Line], list[Line], list[str]]:
    """Return the usage of the lists' entries: those that other fields include, those that add, and unknown kinds."""
    inside: list[Line] = []
    added: list[Line] = []
    unknown: list[str] = []
    for name in _lists(table):
        prefix = f"{name}[]."
        rows = [
            UsageField(row.path.removeprefix(prefix), row.becomes, row.of.removeprefix(prefix))
            for row in table
            if row.path.startswith(prefix)
        ]
        given = raw.get(name)
        for entry in given if isinstance(given, list) else ():
            if not isinstance(entry, Mapping):
                continue
            kind = entry.get("type") if any(row.becomes == "kind" for row in rows) else None
            model = entry.get("model")
            line = (model if isinstance(model, str) else None, _parts(rows, entry))
            (inside if kind in _INSIDE_KINDS else added).append(line)
            if kind is not None and kind not in _INSIDE_KINDS | _ADDED_KINDS:
                unknown.append(f"{prefix}type={kind}")
    return inside, added, unknown


def _beyond(main: TokenUsage, inside: Iterable[Line]) -> TokenUsage:
    """Return the part of the main usage that the entries do not explain."""
    explained = sum((usage for _, usage in inside), TokenUsage())
    return TokenUsage(**{name: max(0, getattr(main, name) - getattr(explained, name)) for name in _NAMES})


def _name(table: Iterable[UsageField], raw: Mapping[str, Any], kind: str, standard: frozenset[str]) -> str | None:
    """Return the last name of a kind that is not a standard one."""
    names = [raw.get(row.path) for row in table if row.becomes == kind]
    return next((name for name in reversed(names) if isinstance(name, str) and name not in standard), None)


def _lists(table: Iterable[UsageField]) -> Iterable[str]:
    """Return the names of the lists of a table."""
    return dict.fromkeys(row.path.partition("[]")[0] for row in table if "[]" in row.path)


def _unknown(table: tuple[UsageField, ...], raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that have a value and are not in the table, with their paths."""
    known = {row.path for row in table}
    covered = tuple(path.removesuffix("*") for path in known if path.endswith(".*"))
    for path, value in _leaves(raw):
        if value and path not in known and not path.startswith(covered):
            yield path, value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part, f"{path}[]")
    else:
        yield path, value


def _count(raw: Mapping[str, Any], path: str) -> int | None:
    """Return the number at a path, rounded up; None if there is none. A name with dots has precedence over nesting."""
    value: Any = raw
    for name in [path] if path in raw else path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return _whole(value)


def _whole(value: Any) -> int | None:
    """Return a number, rounded up; None for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return max(0, math.ceil(value))
