"""The table of usage fields has all fields of the present client libraries, and reads them as it says."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types.beta import BetaUsage
from openai.types import CompletionUsage
from openai.types.responses import ResponseUsage
from pydantic import BaseModel
from usage_models import MODELS, paths

from atlas_sdk.integrations.usage import TokenUsage, read_usage
from atlas_sdk.integrations.usage_fields import PARTS, SHAPES, UsageField

CACHE = "cache_creation_input_tokens"


def covered(path: str, shape: str) -> bool:
    return any(
        row.path == path or (row.path.endswith(".*") and path.startswith(row.path.removesuffix("*")))
        for row in SHAPES[shape]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_has_every_field_of_the_library(shape: str) -> None:
    found = {path for model, start in MODELS[shape] for path in paths(model, start)}
    assert len(found) > 1
    missing = {path for path in found if not covered(path, shape)}
    assert missing == set(), "add these fields to usage_fields.py, and say what becomes of them"


def test_a_new_field_of_the_library_is_noticed() -> None:
    class Newer(CompletionUsage):
        class Extra(BaseModel):
            gold_tokens: int = 0

        extra: Extra | None = None

    assert [path for path in paths(Newer, "") if not covered(path, "openai.chat")] == ["extra.gold_tokens"]


ROWS = [(shape, row) for shape, rows in SHAPES.items() for row in rows]


def raw_of(row: UsageField, value: int) -> dict[str, Any]:
    """Return a usage with this field only, and the field that includes it."""
    raw: dict[str, Any] = {}
    for path in (row.of, row.path):
        at, names = raw, path.split(".") if path else []
        for name in names[:-1]:
            at = at.setdefault(name, {})
            if isinstance(at, list):
                at = at[0]
        if names:
            at[names[-1]] = value
    return raw


@pytest.mark.parametrize(("shape", "row"), ROWS, ids=[f"{shape}-{row.path}" for shape, row in ROWS])
def test_every_row_becomes_what_the_table_says(shape: str, row: UsageField) -> None:
    if row.path.endswith(".*"):
        raw = raw_of(UsageField(row.path.replace("*", "anything"), row.becomes, ""), 7)
        found = read_usage(shape, raw)
        assert (found.total, found.unknown) == (TokenUsage(), ())
        return
    listed, plain = row.path.startswith(("iterations[].", "svg_usage[].")), row
    if listed:
        prefix = row.path.split("[].")[0]
        plain = UsageField(row.path.split("[].")[1], row.becomes, row.of.removeprefix(f"{prefix}[]."))
    raw = raw_of(plain, 7)
    if row.becomes in {"tier", "region"}:
        raw = {row.path: "special"}
    if listed:
        raw = {prefix: [{**raw, **({"type": "compaction"} if prefix == "iterations" else {})}]}
    found = read_usage(shape, raw)
    assert found.unknown == ()
    if row.becomes in PARTS:
        assert found.total == TokenUsage(**{row.becomes: 7})
    elif row.becomes == "total":
        part = next(other.becomes for other in SHAPES[shape] if other.path == row.of)
        assert found.total == TokenUsage(**{part: 7})
    elif row.becomes == "inside" and row.of and not row.of.endswith(("total_tokens", "cached_tokens")):
        part = next(other.becomes for other in SHAPES[shape] if other.path == row.of)
        assert found.total == TokenUsage(**{part: 7}), "counted once, with the field that includes it"
    elif row.becomes in {"tier", "region"}:
        assert getattr(found, row.becomes) == "special"
    else:
        assert found.total in (TokenUsage(), TokenUsage(output=7))


def test_compaction_comes_on_top_of_the_message() -> None:
    def entry(kind: str, sent: int, output: int, **more: Any) -> dict[str, Any]:
        none = {CACHE: 0, "cache_read_input_tokens": 0}
        return {"type": kind, "input_tokens": sent, "output_tokens": output, **none, **more}

    usage = BetaUsage.model_validate(
        {
            "input_tokens": 23_000,
            "output_tokens": 1_000,
            "iterations": [entry("compaction", 180_000, 3_500), entry("message", 23_000, 1_000)],
        }
    )
    found = read_usage("anthropic.messages", usage)
    assert (found.total.input, found.total.output, found.total.total) == (203_000, 4_500, 207_500)
    alone = {**usage.to_dict(), "iterations": [entry("compaction", 180_000, 3_500)]}
    assert read_usage("anthropic.messages", alone).total.total == 207_500
    assert found.unknown == ()
    advised = {**usage.to_dict(), "iterations": [entry("advisor_message", 400, 50, model="claude-advisor")]}
    found = read_usage("anthropic.messages", advised)
    assert found.lines[-1] == ("claude-advisor", TokenUsage(input=400, output=50))
    assert found.total.total == 24_450
    found = read_usage("anthropic.messages", {**advised, "iterations": [entry("dream", 9, 1)]})
    assert (found.total.total, found.unknown) == (24_010, ("iterations[].type=dream",))


def test_a_fallback_is_priced_by_the_model_that_answered() -> None:
    none = {CACHE: 0, "cache_read_input_tokens": 0}
    usage = {
        "input_tokens": 100,
        "output_tokens": 20,
        "iterations": [
            {"type": "message", "model": "first", "input_tokens": 100, "output_tokens": 1, **none},
            {"type": "fallback_message", "model": "second", "input_tokens": 100, "output_tokens": 20, **none},
        ],
    }
    found = read_usage("anthropic.messages", BetaUsage.model_validate({**usage, "iterations": []}).to_dict() | usage)
    assert found.lines == (
        (None, TokenUsage()),
        ("first", TokenUsage(input=100, output=1)),
        ("second", TokenUsage(input=100, output=20)),
    )


def test_cache_writes_have_an_age() -> None:
    ages = {"ephemeral_1h_input_tokens": 60, "ephemeral_5m_input_tokens": 40}
    usage = BetaUsage(input_tokens=1, output_tokens=1, cache_creation_input_tokens=100, cache_creation=ages)  # type: ignore[arg-type]  # as JSON
    found = read_usage("anthropic.messages", usage).total
    assert (found.cache_write, found.cache_write_long) == (40, 60)
    # A later event reports a higher total without ages.
    found = read_usage("anthropic.messages", {**usage.to_dict(), CACHE: 130}).total
    assert (found.cache_write, found.cache_write_long) == (40, 90)
    found = read_usage("anthropic.messages", {CACHE: 130}).total
    assert (found.cache_write, found.cache_write_long) == (130, 0)


def test_reasoning_beside_the_completion_is_output() -> None:
    usage = CompletionUsage.model_validate(
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 620,
            "completion_tokens_details": {"reasoning_tokens": 500},
        }
    )
    assert read_usage("openai.chat", usage).total == TokenUsage(input=100, output=520)


def test_audio_counts_before_the_cache() -> None:
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"audio_tokens": 60, "cached_tokens": 60}}
    assert read_usage("openai.chat", usage).total == TokenUsage(input_audio=60, cache_read=40)


def test_tools_of_a_response_come_on_top() -> None:
    usage = ResponseUsage.model_validate(
        {
            "input_tokens": 100,
            "input_tokens_details": {
                "cached_tokens": 10,
                "cache_write_tokens": 50,
                "cache_write_tokens_details": {"ttl_12h_tokens": 30, "ttl_30m_tokens": 20},
            },
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": 120,
        }
    )
    drawn = {
        "input_tokens": 40,
        "output_tokens": 1000,
        "total_tokens": 1040,
        "input_tokens_details": {"image_tokens": 9},
    }
    raw = {**usage.to_dict(), "tool_usage": {"web_search": {"num_requests": 2}, "image_gen": drawn}}
    svg = {"model": "drawer", "input_tokens": 3, "output_tokens": 4, "reasoning_tokens": 1, "total_tokens": 7}
    found = read_usage("openai.responses", {**raw, "svg_usage": svg})
    main = TokenUsage(
        input=71,
        cache_read=10,
        cache_write=20,
        cache_write_long=30,
        input_image=9,
        output=20,
        output_image=1000,
        web_searches=2,
    )
    assert found.lines == ((None, main), ("drawer", TokenUsage(input=3, output=4)))
    beside = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 40, "tool_usage": {"image_gen": drawn}}
    assert read_usage("openai.responses", beside).total.output == 30, "the total does not count the tools"


def test_an_unknown_field_is_marked_and_charged_by_its_bound() -> None:
    told = {"input_tokens": 10, "output_tokens": 5, "dream_tokens": 70, "dreams": 3, "calm": "yes", "no_tokens": 0}
    found = read_usage("anthropic.messages", told)
    assert found.unknown == ("calm", "dream_tokens", "dreams")
    assert found.total == TokenUsage(input=10, output=5, other=70), "no total bounds these tokens"
    told = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "dream_tokens": 7}
    found = read_usage("openai.chat", told)
    assert (found.unknown, found.total.total) == (("dream_tokens",), 15), "the total bounds them"


def test_unknown_fields_of_several_entries_are_added() -> None:
    told = {"input_tokens": 10, "dreams": [{"dream_tokens": 70}, {"dream_tokens": 30}]}
    found = read_usage("anthropic.messages", told)
    assert (found.unknown, found.total) == (("dreams[].dream_tokens",), TokenUsage(input=10, other=100))


def test_normal_tiers_and_regions_have_no_name() -> None:
    found = read_usage(
        "anthropic.messages", {"service_tier": "standard", "speed": "standard", "inference_geo": "global"}
    )
    assert (found.tier, found.region) == (None, None)
    found = read_usage("anthropic.messages", {"service_tier": "standard", "speed": "fast", "inference_geo": "us"})
    assert (found.tier, found.region) == ("fast", "us")
