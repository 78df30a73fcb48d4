"""Waiting as a refusal says: then the same call is granted. A refusal that no wait can change says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from quota_sql import QuotaSql

Fill = Callable[[QuotaSql, UUID], object]
#: Limits, a preparation, and the amounts of a call that is refused then.
Case = tuple[dict[str, Any], Fill, dict[str, Any]]

HOUR = timedelta(hours=1)


def charged(tokens: int, cost: int = 0) -> Fill:
    return lambda quota_sql, user_id: quota_sql.add(user_id, tokens, cost)


def held(**amounts: Any) -> Fill:
    return lambda quota_sql, user_id: quota_sql.reserve(user_id, **amounts)


def both(*fills: Fill) -> Fill:
    return lambda quota_sql, user_id: [fill(quota_sql, user_id) for fill in fills]


def leased(requests: int, minutes: int) -> Fill:
    ttl = timedelta(minutes=minutes)
    return lambda quota_sql, user_id: quota_sql.lease(user_id, requests=requests, min_requests=requests, ttl=ttl)


def top_up(days: int | None) -> Fill:
    return lambda quota_sql, user_id: quota_sql.grant(user_id, 50, days=days)


WAITS: dict[str, Case] = {
    "the month's tokens are used": ({"tokens_limit": 100}, charged(100), {"tokens": 50}),
    "a reservation holds the tokens": ({"tokens_limit": 100}, held(tokens=100, ttl=HOUR), {"tokens": 50}),
    "a reservation holds the dollars": ({"cost_limit": 100}, held(cost=100, ttl=HOUR), {"cost": 50}),
    "a reservation needs the top-up": (
        {"tokens_limit": 100},
        both(top_up(None), held(tokens=140, ttl=HOUR)),
        {"tokens": 110},
    ),
    "a top-up is left for the next month": ({"tokens_limit": 100}, both(top_up(90), charged(120)), {"tokens": 130}),
    "the hour's requests are used": ({"requests_limit": 3}, held(requests=3), {"requests": 2}),
    "a lease holds requests": ({"requests_limit": 10}, leased(8, 9), {"requests": 3}),
    "two leases hold requests": ({"requests_limit": 10}, both(leased(4, 9), leased(4, 5)), {"requests": 3}),
    "leases and requests": ({"requests_limit": 10}, both(held(requests=2), leased(8, 5)), {"requests": 9}),
    "the day's builds are used": ({"builds_limit": 1}, held(builds=1), {"builds": 1}),
    "the container's place is taken": ({"containers_limit": 1}, held(slots=1, ttl=HOUR), {"slots": 1}),
    "the place longer than the window": (
        {"containers_limit": 1, "requests_limit": 1},
        held(slots=1, requests=1, ttl=timedelta(hours=5)),
        {"slots": 1, "requests": 1},
    ),
    "the window longer than the place": (
        {"containers_limit": 1, "requests_limit": 1},
        held(slots=1, requests=1, ttl=timedelta(minutes=5)),
        {"slots": 1, "requests": 1},
    ),
    "the month longer than all others": (
        {"tokens_limit": 9, "containers_limit": 1, "requests_limit": 1, "builds_limit": 1},
        held(tokens=9, slots=1, requests=1, builds=1, ttl=HOUR),
        {"tokens": 9, "slots": 1, "requests": 1, "builds": 1},
    ),
}


@pytest.mark.every_server
@pytest.mark.parametrize("name", WAITS)
def test_whoever_waits_as_told_is_granted(quota_sql: QuotaSql, name: str) -> None:
    limits, fill, asked = WAITS[name]
    with quota_sql.own_clock():
        user_id = quota_sql.user(**limits)
        now = datetime.now(UTC)
        quota_sql.set_clock(now)
        fill(quota_sql, user_id)
        refused = quota_sql.reserve(user_id, **asked)
        assert (refused.granted, refused.resets_at) == (False, now + refused.retry_after)
        # A window ends with a minute.
        quota_sql.set_clock(refused.resets_at - timedelta(seconds=61))
        assert not quota_sql.reserve(user_id, **asked).granted
        quota_sql.set_clock(refused.resets_at)
        assert quota_sql.reserve(user_id, **asked).granted
        quota_sql.balance(user_id)


NEVER: dict[str, Case] = {
    "more than the limit": ({"tokens_limit": 100}, charged(0), {"tokens": 101}),
    "the top-up expires before the month": ({"tokens_limit": 100}, both(top_up(1), charged(40)), {"tokens": 120}),
    "a reservation may need the top-up": ({"tokens_limit": 100}, both(top_up(None), held(tokens=140)), {"tokens": 115}),
    "another dimension never fits": (
        {"tokens_limit": 100, "cost_limit": 5},
        charged(100),
        {"tokens": 50, "cost": 6},
    ),
    "more places than there are": (
        {"builds_limit": 1, "containers_limit": 1},
        held(builds=1),
        {"builds": 1, "slots": 2},
    ),
    "more requests than in any hour": (
        {"tokens_limit": 100, "requests_limit": 3},
        charged(100),
        {"tokens": 1, "requests": 4},
    ),
}


@pytest.mark.every_server
@pytest.mark.parametrize("name", NEVER)
def test_what_no_wait_changes_has_no_time(quota_sql: QuotaSql, name: str) -> None:
    limits, fill, asked = NEVER[name]
    user_id = quota_sql.user(**limits)
    fill(quota_sql, user_id)
    refused = quota_sql.reserve(user_id, **asked)
    assert (refused.granted, refused.retry_after) == (False, None)
    assert (
        refused.dimension
        == {"tokens": "tokens", "cost": "cost", "slots": "containers", "requests": "requests"}[list(asked)[-1]]
    )


def test_an_extension_is_not_granted_by_the_next_month(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    own = quota_sql.reserve(user_id, 60)
    quota_sql.add(user_id, 40)
    refused = quota_sql.extend(user_id, own.id, 10)
    assert (refused.granted, refused.dimension, refused.retry_after) == (False, "tokens", None)
