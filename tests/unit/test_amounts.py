"""Amounts of calls. A wrong type or size is refused by name before any statement."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from atlas_sdk import InvalidInput
from atlas_sdk.ops.amounts import as_json, count, meta_text, money, ttl_of


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize("value", [60, None, "1 minute", 0.5, True, timedelta(0), timedelta(hours=25)])
def test_a_time_that_is_none_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        ttl_of(value)
    assert refused.value.field == "ttl"


def test_times_pass() -> None:
    assert ttl_of(timedelta(hours=24)) == timedelta(hours=24)


@pytest.mark.parametrize("value", ["1", None, 1.0, True, [1]])
def test_a_count_of_another_type_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        count("slots", value)
    assert refused.value.field == "slots"


@pytest.mark.parametrize("value", [0.1, None, True, "", "x", [1]])
def test_money_of_another_type_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        money("cost", value)
    assert refused.value.field == "cost"


@pytest.mark.parametrize("value", [[1], [("a", 1)], "a", 1, {1, 2}])
def test_meta_that_is_no_mapping_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        as_json(value)
    assert refused.value.field == "meta"


@pytest.mark.parametrize(
    "meta",
    [
        {"a": float("nan")},
        {"a": float("-inf")},
        {"a": "\x00"},
        {"a\x00": 1},
        {"a": ["\\\x00"]},
        {"a": "\ud800"},
        {"\udfff": 1},
        {"a": "x" * 16_376},
        {"a": "ü" * 8_188},
        {"a": [1e300] * 60},
        {"a": object()},
        {"a": {1, 2}},
        {(1, 2): 1},
        nested(100_000),
    ],
    ids=lambda meta: None,
)
def test_meta_that_cannot_be_stored_is_named(meta: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        meta_text(meta)
    assert refused.value.field == "meta"


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"a": "x" * 16_375},
        {"a": "ü" * 8_187},
        {"a": "\\u0000"},
        {"a": "\\\\u0000 \x01"},
        {"a": "😀"},
        {"a": "1e300" * 3000},
        {"a": [1e-300, -0.0, 1e22, None, True, 2**64]},
        {1: 2, "b": {"c": []}},
    ],
    ids=lambda meta: None,
)
def test_meta_that_can_be_stored_passes(meta: Any) -> None:
    assert meta_text(meta)
    assert as_json(None) is None
