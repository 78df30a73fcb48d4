"""The usage that providers report, its cost, and the upper bound of a request's usage."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sdk import InvalidInput
from atlas_sdk.integrations.bounds import input_bound, request_bytes
from atlas_sdk.integrations.prices import Price, Prices
from atlas_sdk.integrations.usage import TokenUsage

counts = st.integers(min_value=0, max_value=10**12)
dollars = st.decimals(min_value=0, max_value=10**6, places=6, allow_nan=False)


def thing(usage: dict[str, Any]) -> Any:
    """Return the usage as an object, as the client libraries return it."""
    return SimpleNamespace(**{k: thing(v) if isinstance(v, dict) else v for k, v in usage.items()})


@pytest.mark.parametrize("shape", [dict, thing], ids=["mapping", "object"])
def test_anthropic_input_excludes_the_cache(shape: Any) -> None:
    usage = {
        "input_tokens": 20,
        "output_tokens": 7,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 4000,
    }
    found = TokenUsage.from_anthropic(shape(usage))
    assert found == TokenUsage(input=20, output=7, cache_read=4000, cache_write=300)
    assert found.total == 4327


def test_anthropic_leaves_out_what_does_not_apply() -> None:
    usage = {
        "input_tokens": 20,
        "output_tokens": 7,
        "cache_creation_input_tokens": None,
        "cache_read_input_tokens": None,
    }
    assert TokenUsage.from_anthropic(usage) == TokenUsage(input=20, output=7)


@pytest.mark.parametrize("shape", [dict, thing], ids=["mapping", "object"])
def test_openai_prompt_includes_the_cache_and_output_the_reasoning(shape: Any) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 15},
    }
    found = TokenUsage.from_openai(shape(usage))
    assert found == TokenUsage(input=30, output=20, cache_read=60, cache_write=10)
    assert found.total == 120


@pytest.mark.parametrize("shape", [dict, thing], ids=["mapping", "object"])
def test_openai_responses_input_includes_the_cache(shape: Any) -> None:
    usage = {
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "input_tokens_details": {"cached_tokens": 60},
        "output_tokens_details": {"reasoning_tokens": 15},
    }
    assert TokenUsage.from_openai(shape(usage)) == TokenUsage(input=40, output=20, cache_read=60)


@given(sent=counts, output=counts, cached=counts, written=counts)
def test_openai_total_is_the_providers_whatever_the_details_say(
    sent: int, output: int, cached: int, written: int
) -> None:
    details = {"cached_tokens": cached, "cache_write_tokens": written}
    found = TokenUsage.from_openai(
        {"prompt_tokens": sent, "completion_tokens": output, "prompt_tokens_details": details}
    )
    assert found.total == sent + output
    assert min(found.input, found.cache_read, found.cache_write) >= 0


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None}, {"input_tokens": -5}, {"prompt_tokens": "9"}])
def test_nonsense_counts_nothing(usage: Any) -> None:
    assert TokenUsage.from_openai(usage).total == 0
    assert TokenUsage.from_anthropic(usage).total == 0


def test_cost_is_exact() -> None:
    price = Price("3", "15", "0.30", "3.75")
    usage = TokenUsage(input=1, output=2, cache_read=3, cache_write=4)
    assert price.cost(usage) == (Decimal(3) + 30 + Decimal("0.9") + 15) / 1_000_000


def test_cache_without_a_price_costs_as_input() -> None:
    assert Price(3, 15).cost(TokenUsage(cache_read=1_000_000)) == 3
    assert Price(3, 15).cost(TokenUsage(cache_write=1_000_000)) == 3
    assert Price(3, 15, 0, 0).cost(TokenUsage(cache_read=5, cache_write=5)) == 0


@given(prices=st.tuples(dollars, dollars, dollars, dollars), parts=st.tuples(counts, counts, counts, counts))
def test_cost_is_never_rounded_and_the_estimate_never_below(
    prices: tuple[Decimal, Decimal, Decimal, Decimal], parts: tuple[int, int, int, int]
) -> None:
    price = Price(*prices)
    sent, output, read, written = parts
    cost = price.cost(TokenUsage(input=sent, output=output, cache_read=read, cache_write=written))
    exact = sum((Fraction(p) * n for p, n in zip(prices, (sent, output, read, written), strict=True)), start=Fraction())
    assert Fraction(cost) == exact / 10**6
    estimate = price.estimate(input_tokens=sent + read + written, output_tokens=output)
    assert estimate >= cost
    # The ledger holds billionths, and the estimate is less than a billionth too high.
    assert estimate == estimate.quantize(Decimal("1e-9"))
    dearest = max(prices[0], prices[2], prices[3])
    most = (Fraction(dearest) * (sent + read + written) + Fraction(prices[1]) * output) / 10**6
    assert 0 <= Fraction(estimate) - most < Fraction(1, 10**9)


def test_names_are_exact_and_a_star_is_wide() -> None:
    prices = Prices({"small": Price(1, 1), "small-*": Price(2, 2), "small-2*": Price(3, 3), "small-21": Price(4, 4)})
    usage = TokenUsage(input=1_000_000)
    names = ("small", "small-1", "small-2", "small-20", "small-21", "small-21-pro")
    assert [prices.cost(name, usage) for name in names] == [1, 2, 3, 3, 4, 3]
    assert prices.of("smal") is None
    exact = Prices({"gpt-x": Price(1, 1)})
    assert [exact.of(name) for name in ("gpt-x-pro", "gpt-x.5", "gpt-x-2026-01-01", "GPT-X", "")] == [None] * 5


@pytest.mark.parametrize("name", ["", "a*b", "*a", "**"])
def test_names_without_meaning_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="at the end"):
        Prices({name: Price(1, 1)})


def test_unknown_model_has_no_cost_which_is_not_zero() -> None:
    prices = Prices({"small": Price(1, 1)})
    assert prices.cost("other", TokenUsage(input=5)) is None
    assert prices.estimate("other", input_tokens=5, output_tokens=5) is None
    assert Prices({"*": Price(1, 1)}).cost("other", TokenUsage(input=1_000_000)) == 1


def test_table_is_copied() -> None:
    table = {"small": Price(1, 1)}
    prices = Prices(table)
    table.clear()
    assert prices.of("small") is not None


@pytest.mark.parametrize("wrong", [0.1, "NaN", "Infinity", -1, "a", None, True, 10**7, "1." + "1" * 40])
def test_wrong_prices_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput):
        Price(wrong, 1)


def test_bound_is_the_bytes_and_a_constant() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Grüße 😀"}]}
    assert request_bytes(body) == len('{"model":"m","messages":[{"role":"user","content":"Grüße 😀"}]}'.encode())
    assert input_bound(body) == 256 + request_bytes(body)


@given(st.text())
def test_bound_is_at_least_the_bytes_of_the_text(text: str) -> None:
    assert input_bound({"input": text}) >= len(text.encode("utf-8", "replace")) + 256


def test_tools_and_formats_cost_a_constant() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "image"}}}
    plain, defined = {"name": "f", "input_schema": {"type": "object"}}, {"type": "bash_20250124", "name": "bash"}
    assert input_bound({"tools": [tool]}) == 256 + 1000 + request_bytes({"tools": [tool]})
    assert input_bound({"tools": [plain]}) == 256 + 1000 + request_bytes({"tools": [plain]})
    assert input_bound({"tools": [defined]}) == 256 + 1000 + 2000 + request_bytes({"tools": [defined]})
    form = {"response_format": {"type": "json_object"}}
    assert input_bound(form) == 256 + 1000 + request_bytes(form)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image", "source": {}}]}]}
            ]
        },
        {"system": [{"type": "document", "source": {}}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
        {"input": [{"type": "item_reference", "id": "i"}]},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_image", "file_id": "f"}]}]},
        {"tools": [{"type": "web_search_20250305"}]},
        {"tools": [{"type": "mcp", "server_url": "x"}]},
        {"previous_response_id": "r"},
        {"conversation": "c"},
        {"prompt": {"id": "p"}},
        {"mcp_servers": [{}]},
        {"container": "c"},
    ],
)
def test_what_bytes_do_not_bound_is_refused(body: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        input_bound(body)
    assert refused.value.field == "input_tokens"


def test_words_of_a_users_data_are_no_content() -> None:
    call = {"type": "tool_use", "id": "t", "name": "draw", "input": {"type": "image", "content": [{"type": "image"}]}}
    body = {"messages": [{"role": "assistant", "content": [call]}, {"role": "user", "content": "image"}]}
    assert input_bound(body) == 256 + request_bytes(body)


@pytest.mark.parametrize("module", ["asgi", "usage", "prices", "bounds", "problems"])
def test_plain_modules_need_no_third_party(module: str) -> None:
    code = f"import sys, atlas_sdk.integrations.{module}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"anthropic", "openai", "fastapi", "starlette", "httpx", "httpx2", "psycopg"}
