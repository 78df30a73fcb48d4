"""The texts and fields of a refusal for people, for programs and for HTTP clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from atlas_sdk import AuthenticationFailed, DatabaseUnreachable, EmbeddedServerFailed, QuotaExceeded

RESETS_AT = datetime(2026, 12, 1, tzinfo=UTC)


def refusal(dimension: str, **more: Any) -> QuotaExceeded:
    facts: dict[str, Any] = {"asked": 1, "remaining": 0, "limit": 100, "retry_after": timedelta(seconds=50)}
    return QuotaExceeded(dimension=dimension, **{**facts, "resets_at": RESETS_AT, **more})


@pytest.mark.parametrize(
    ("dimension", "status"),
    [
        ("requests", 429),
        ("containers", 429),
        ("tokens", 403),
        ("cost", 403),
        ("builds", 403),
        ("memory_bytes", 403),
    ],
)
def test_only_what_comes_back_soon_is_worth_repeating(dimension: str, status: int) -> None:
    error = refusal(dimension)
    assert error.http_status == status
    assert ("Retry-After" in error.headers) == (status == 429)


def test_requests_are_described_as_the_draft_has_it() -> None:
    assert refusal("requests").headers == {
        "Retry-After": "50",
        "RateLimit-Policy": '"requests";q=100;w=3600',
        "RateLimit": '"requests";r=0;t=50',
    }


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        (timedelta(seconds=50, microseconds=1), "51"),
        (timedelta(seconds=50), "50"),
        (timedelta(milliseconds=3), "1"),
        (timedelta(0), "1"),
    ],
)
def test_retry_after_is_never_early_and_never_now(wait: timedelta, seconds: str) -> None:
    headers = refusal("requests", retry_after=wait).headers
    assert headers["Retry-After"] == seconds
    assert headers["RateLimit"].endswith(f";t={seconds}")


def test_what_can_never_succeed_has_no_retry_after() -> None:
    error = refusal("requests", asked=200, remaining=30, retry_after=None)
    assert error.http_status == 429
    assert error.headers == {"RateLimit-Policy": '"requests";q=100;w=3600', "RateLimit": '"requests";r=30'}


def test_an_unknown_limit_has_no_policy() -> None:
    assert refusal("requests", limit=None).headers == {"Retry-After": "50", "RateLimit": '"requests";r=0;t=50'}


@pytest.mark.parametrize(
    ("dimension", "policy", "limit"),
    [
        ("tokens", '"tokens";q=100', '"tokens";r=0;t=50'),
        ("builds", '"builds";q=100;w=86400', '"builds";r=0;t=50'),
        ("containers", '"containers";q=100;qu="concurrent-requests"', '"containers";r=0;t=50'),
        ("memory_bytes", '"memory_bytes";q=100;qu="content-bytes"', '"memory_bytes";r=0;t=50'),
    ],
)
def test_every_dimension_has_its_policy(dimension: str, policy: str, limit: str) -> None:
    headers = refusal(dimension).headers
    assert (headers["RateLimit-Policy"], headers["RateLimit"]) == (policy, limit)


def test_money_is_told_in_whole_cents() -> None:
    headers = refusal("cost", asked=Decimal("0.03"), remaining=Decimal("0.019999999"), limit=Decimal("25.50")).headers
    assert headers["RateLimit-Policy"] == '"cost";q=2550;atlas-unit="cents"'
    assert headers["RateLimit"] == '"cost";r=1;t=50'


def test_integers_fit_a_structured_field() -> None:
    headers = refusal("tokens", remaining=-5, limit=2**63 - 1).headers
    assert headers["RateLimit-Policy"] == '"tokens";q=999999999999999'
    assert headers["RateLimit"] == '"tokens";r=0;t=50'


def test_the_sentence_says_what_is_left_of_what() -> None:
    said = str(refusal("tokens", asked=4096, remaining=812, limit=100_000))
    assert said.startswith("the tokens limit of 100000 leaves 812, and 4096 were asked for; try again in 50 s")
    said = str(refusal("memory_bytes", asked=10, remaining=0, limit=5, retry_after=None))
    assert said == "the memory limit of 5 bytes leaves 0 bytes, and 10 were asked for: have the limit raised"
    assert str(refusal("cost", limit=None, remaining=Decimal("0.01"))).startswith("the cost limit leaves 0.01 dollars")


def test_small_amounts_are_plain_numbers() -> None:
    tiny = Decimal("1E-9")
    said = str(refusal("cost", asked=2 * tiny, remaining=tiny, limit=3 * tiny, held=tiny))
    assert said.startswith(
        "the cost limit of 0.000000003 dollars leaves 0.000000001 dollars, and 0.000000002 were asked for, because "
        "running calls hold 0.000000001 dollars"
    )


@pytest.mark.parametrize("kind", [DatabaseUnreachable, AuthenticationFailed, EmbeddedServerFailed])
def test_a_database_that_is_gone_is_the_services_fault(kind: type[DatabaseUnreachable]) -> None:
    error = kind("no connection")
    assert (error.http_status, error.headers) == (503, {"Retry-After": "5"})
