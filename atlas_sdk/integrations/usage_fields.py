"""The table of usage fields: for each field that a provider reports, what becomes of it.

`usage.py` reads usage by this table, and `docs/metering.md` shows it. A test compares the table with the types of the
present client libraries, so that a new version of a library that brings a new field fails the test.

A path names nested fields with dots. `[]` marks a list, or a single object in place of a list. A path that ends with
`.*` covers all fields below it.
"""

from typing import Literal, get_args

from attrs import frozen

__all__ = ["PARTS", "SHAPES", "STANDARD_REGIONS", "STANDARD_TIERS", "Part", "UsageField"]

#: The parts of usage that have a price, as in `TokenUsage` and `Price`.
Part = Literal[
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_long",
    "input_audio",
    "input_image",
    "output_audio",
    "output_image",
    "web_searches",
    "audio_seconds",
]
PARTS: frozenset[str] = frozenset(get_args(Part))

#: The names of service tiers and speeds at the normal price.
STANDARD_TIERS = frozenset({"", "auto", "default", "standard", "standard_only"})
#: The names of regions at the normal price.
STANDARD_REGIONS = frozenset({"", "global", "not_available"})


@frozen
class UsageField:
    """A field of a provider's usage.

    `becomes` is a part, or: "inside" (counted with the field `of`), "total" (a surplus over all parts becomes the part
    of the field `of`), "tier", "region", "model", "kind" (both of a list's entry), "free" (costs nothing).
    """

    path: str
    becomes: Part | Literal["inside", "total", "tier", "region", "model", "kind", "free"]
    #: For a part: the field that includes this one. The including field keeps the rest.
    of: str = ""
    note: str = ""


def _under(prefix: str, *fields: UsageField) -> tuple[UsageField, ...]:
    """Return fields below a prefix."""
    return tuple(
        UsageField(f"{prefix}{field.path}", field.becomes, f"{prefix}{field.of}" if field.of else "", field.note)
        for field in fields
    )


_CACHE = "cache_creation_input_tokens"
_ANTHROPIC_TOKENS = (
    UsageField("input_tokens", "input"),
    UsageField("output_tokens", "output"),
    UsageField("cache_read_input_tokens", "cache_read"),
    UsageField(_CACHE, "cache_write", note="a rest without an age counts as 1-hour writes if the call has such writes"),
    UsageField("cache_creation.ephemeral_1h_input_tokens", "cache_write_long", _CACHE),
    UsageField("cache_creation.ephemeral_5m_input_tokens", "cache_write", _CACHE),
)
_ANTHROPIC = (
    *_ANTHROPIC_TOKENS,
    UsageField("output_tokens_details.thinking_tokens", "inside", "output_tokens"),
    UsageField("server_tool_use.web_search_requests", "web_searches"),
    UsageField("server_tool_use.web_fetch_requests", "free", note="a fetch costs its input tokens only"),
    UsageField("service_tier", "tier"),
    UsageField("speed", "tier"),
    UsageField("inference_geo", "region"),
    UsageField(
        "iterations[].type", "kind", note="message and fallback_message are inside the fields above; others add"
    ),
    UsageField("iterations[].model", "model"),
    *_under("iterations[].", *_ANTHROPIC_TOKENS),
    UsageField("fallback_credit.*", "free", note="a discount that no field quantifies, so it is not deducted"),
)

_SENT, _MADE = "prompt_tokens", "completion_tokens"
_CHAT = (
    UsageField(_SENT, "input"),
    UsageField("prompt_tokens_details.audio_tokens", "input_audio", _SENT),
    UsageField("prompt_tokens_details.image_tokens", "input_image", _SENT),
    UsageField("prompt_tokens_details.cached_tokens", "cache_read", _SENT),
    UsageField("prompt_tokens_details.cache_write_tokens", "cache_write", _SENT),
    UsageField("prompt_tokens_details.text_tokens", "inside", _SENT),
    UsageField(_MADE, "output"),
    UsageField("completion_tokens_details.audio_tokens", "output_audio", _MADE),
    UsageField("completion_tokens_details.image_tokens", "output_image", _MADE, note="of compatible servers"),
    UsageField("completion_tokens_details.reasoning_tokens", "inside", _MADE),
    UsageField("completion_tokens_details.text_tokens", "inside", _MADE),
    UsageField("completion_tokens_details.accepted_prediction_tokens", "inside", _MADE),
    UsageField("completion_tokens_details.rejected_prediction_tokens", "inside", _MADE),
    UsageField("total_tokens", "total", _MADE, note="some servers report reasoning beside the completion"),
    UsageField("service_tier", "tier", note="beside `usage`"),
    UsageField("prompt_cache_hit_tokens", "inside", _SENT, note="DeepSeek"),
    UsageField("prompt_cache_miss_tokens", "inside", _SENT, note="DeepSeek"),
    UsageField("reasoning_tokens", "inside", "total_tokens", note="of compatible servers"),
    UsageField("queue_time", "free", note="Groq"),
    UsageField("prompt_time", "free", note="Groq"),
    UsageField("completion_time", "free", note="Groq"),
    UsageField("total_time", "free", note="Groq"),
    UsageField("cost", "free", note="OpenRouter's own price, which a subclass of `Prices` can read"),
    UsageField("cost_details.*", "free", note="OpenRouter"),
    UsageField("is_byok", "free", note="OpenRouter"),
)

_IN, _OUT, _WRITTEN = "input_tokens", "output_tokens", "input_tokens_details.cache_write_tokens"
_SVG = _under(
    "svg_usage[].",
    UsageField(_IN, "input"),
    UsageField(_OUT, "output"),
    UsageField("reasoning_tokens", "inside", _OUT),
    UsageField("total_tokens", "total", _OUT),
    UsageField("model", "model"),
)
_IMAGES = (
    UsageField(_IN, "input"),
    UsageField("input_tokens_details.image_tokens", "input_image", _IN),
    UsageField("input_tokens_details.text_tokens", "inside", _IN),
    UsageField(_OUT, "output_image"),
    UsageField("output_tokens_details.text_tokens", "output", _OUT),
    UsageField("output_tokens_details.image_tokens", "inside", _OUT),
    UsageField("total_tokens", "total", _OUT),
    *_SVG,
)
_RESPONSES = (
    UsageField(_IN, "input"),
    UsageField("input_tokens_details.cached_tokens", "cache_read", _IN),
    UsageField(_WRITTEN, "cache_write", _IN),
    UsageField("input_tokens_details.cache_write_tokens_details.ttl_12h_tokens", "cache_write_long", _WRITTEN),
    UsageField("input_tokens_details.cache_write_tokens_details.ttl_30m_tokens", "inside", _WRITTEN),
    UsageField(_OUT, "output"),
    UsageField("output_tokens_details.reasoning_tokens", "inside", _OUT),
    UsageField("total_tokens", "total", _OUT),
    UsageField("service_tier", "tier", note="beside `usage`"),
    UsageField("tool_usage.web_search.num_requests", "web_searches", note="beside `usage`"),
    *_under(
        "tool_usage.image_gen.",
        UsageField(_IN, "input", note="beside `usage`"),
        UsageField("input_tokens_details.image_tokens", "input_image", _IN),
        UsageField("input_tokens_details.text_tokens", "inside", _IN),
        UsageField("cached_tokens", "cache_read", _IN),
        UsageField("cached_tokens_details.*", "inside", "cached_tokens"),
        UsageField(_OUT, "output_image"),
        UsageField("output_tokens_details.text_tokens", "output", _OUT),
        UsageField("output_tokens_details.image_tokens", "inside", _OUT),
        UsageField("total_tokens", "inside", _IN),
    ),
    *_SVG,
)
_EMBEDDINGS = (UsageField(_SENT, "input"), UsageField("total_tokens", "total", _SENT))
_AUDIO = (
    UsageField(_IN, "input"),
    UsageField("input_token_details.audio_tokens", "input_audio", _IN),
    UsageField("input_token_details.text_tokens", "inside", _IN),
    UsageField(_OUT, "output"),
    UsageField("total_tokens", "total", _OUT),
    UsageField("seconds", "audio_seconds", note="rounded up to a whole second"),
    UsageField("type", "free", note="names the shape"),
)

#: The fields of each kind of usage.
SHAPES: dict[str, tuple[UsageField, ...]] = {
    "anthropic.messages": _ANTHROPIC,
    "openai.chat": _CHAT,
    "openai.responses": _RESPONSES,
    "openai.embeddings": _EMBEDDINGS,
    "openai.images": _IMAGES,
    "openai.audio": _AUDIO,
}
