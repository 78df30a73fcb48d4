"""The usage that providers report, in one form.

Providers use the same words for different things: Anthropic's `input_tokens` exclude tokens read from or written to the
cache, OpenAI's `prompt_tokens` and `input_tokens` include them. `TokenUsage` has input, output, cache reads and cache
writes apart. No token is in two of them, so their sum is the total.
"""

from collections.abc import Mapping
from typing import Self

from attrs import field, frozen
from attrs.validators import ge, instance_of

__all__ = ["TokenUsage"]


@frozen(kw_only=True)
class TokenUsage:
    """The tokens of one call, in parts that do not overlap."""

    #: Input that was neither read from a cache nor written to one.
    input: int = field(default=0, validator=[instance_of(int), ge(0)])
    #: All output, reasoning included.
    output: int = field(default=0, validator=[instance_of(int), ge(0)])
    #: Input that came from a cache.
    cache_read: int = field(default=0, validator=[instance_of(int), ge(0)])
    #: Input that was written to a cache.
    cache_write: int = field(default=0, validator=[instance_of(int), ge(0)])

    @property
    def total(self) -> int:
        """All tokens, as counted against the monthly limit."""
        return self.input + self.cache_read + self.cache_write + self.output

    @classmethod
    def from_anthropic(cls, usage: object) -> Self:
        """Read the usage of a message, or of a `message_delta` event. `usage` is an object or a mapping."""
        return cls(
            input=_count(usage, "input_tokens"),
            output=_count(usage, "output_tokens"),
            cache_read=_count(usage, "cache_read_input_tokens"),
            cache_write=_count(usage, "cache_creation_input_tokens"),
        )

    @classmethod
    def from_openai(cls, usage: object) -> Self:
        """Read the usage of a chat completion, or of the Responses API. `usage` is an object or a mapping."""
        if _get(usage, "prompt_tokens") is not None:
            sent, output, details = "prompt_tokens", "completion_tokens", _get(usage, "prompt_tokens_details")
        else:
            sent, output, details = "input_tokens", "output_tokens", _get(usage, "input_tokens_details")
        whole = _count(usage, sent)
        # Bound the parts by the whole, so that a wrong report cannot make a part negative.
        read = min(_count(details, "cached_tokens"), whole)
        written = min(_count(details, "cache_write_tokens"), whole - read)
        return cls(input=whole - read - written, output=_count(usage, output), cache_read=read, cache_write=written)


def _get(source: object, name: str) -> object:
    if isinstance(source, Mapping):
        return source.get(name)
    return getattr(source, name, None)


def _count(source: object, name: str) -> int:
    value = _get(source, name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
