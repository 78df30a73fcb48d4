"""Top-ups that pay for a reservation over the end of a month get its unused part back."""

from __future__ import annotations

from typing import Any

import pytest
from quota_sql import QuotaSql


@pytest.mark.every_server
@pytest.mark.parametrize("end", ["settle", "release", "late settle", "late release"])
@pytest.mark.parametrize("unit", ["tokens", "cost"])
def test_top_up_comes_back_from_a_promise_that_outlived_the_month(quota_sql: QuotaSql, end: str, unit: str) -> None:
    user_id = quota_sql.user(**{f"{unit}_limit": 100})
    grant = quota_sql.grant(user_id, **{unit: 1000})
    held = quota_sql.reserve(user_id, **{unit: 1000})
    quota_sql.end_period(user_id)
    assert quota_sql.reserve(user_id, **{unit: 100}).granted

    def counters() -> tuple[Any, ...]:
        quota, row = quota_sql.quota(user_id), quota_sql.grants(user_id)[grant]
        return getattr(quota, f"{unit}_limit"), getattr(quota, f"{unit}_granted"), getattr(row, f"{unit}_burned")

    assert counters() == (200, 100, 900)
    if end.startswith("late"):
        quota_sql.expire(held.id)
        assert not quota_sql.reserve(user_id, **{unit: 101}).granted
        assert counters() == (200, 100, 900)
    used = 10 if end.endswith("settle") else 0
    if used:
        quota_sql.settle(user_id, held.id, *((10, 0) if unit == "tokens" else (0, 10)))
    else:
        quota_sql.release(user_id, held.id)
    assert counters() == (1100, 1000, 0)
    quota_sql.balance(user_id)
    assert quota_sql.reserve(user_id, **{unit: 1000}).granted
    assert not quota_sql.reserve(user_id, **{unit: 1}).granted


@pytest.mark.every_server
def test_top_ups_come_back_the_last_to_expire_first(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    never, soon, later = (
        quota_sql.grant(user_id, 100),
        quota_sql.grant(user_id, 100, days=50),
        quota_sql.grant(user_id, 100, days=90),
    )
    held = quota_sql.reserve(user_id, 400)
    other = quota_sql.reserve(user_id, 0, slots=1)
    quota_sql.end_period(user_id)
    quota_sql.add(user_id, 0)
    assert {row.closed_at is None for row in quota_sql.grants(user_id).values()} == {False}
    quota_sql.settle(user_id, held.id, 250, 0)
    grants = quota_sql.grants(user_id)
    assert [grants[key].tokens_burned for key in (soon, later, never)] == [100, 50, 0]
    assert [grants[key].closed_at is None for key in (soon, later, never)] == [False, True, True]
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_limit, quota.tokens_granted, quota.grants_expire_at) == (250, 150, grants[later].expires_at)
    quota_sql.release(user_id, other.id)
    assert quota_sql.quota(user_id).tokens_limit == 250


@pytest.mark.every_server
def test_what_was_used_beyond_all_top_ups_is_paid_first(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    quota_sql.grant(user_id, 100)
    one, two = quota_sql.reserve(user_id, 150), quota_sql.reserve(user_id, 50)
    quota_sql.add(user_id, 30)
    quota_sql.end_period(user_id)
    quota_sql.add(user_id, 0)
    # No top-up can pay the overrun of 20 either.
    quota_sql.settle(user_id, two.id, 70, 0)
    assert quota_sql.quota(user_id).tokens_limit == 100
    quota_sql.settle(user_id, one.id, 90, 0)
    # 190 tokens were used, with an allowance of 100.
    assert quota_sql.quota(user_id).tokens_limit == 110
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_top_up_that_expired_meanwhile_does_not_come_back(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    grant = quota_sql.grant(user_id, 50, days=9)
    held = quota_sql.reserve(user_id, 140)
    quota_sql.end_period(user_id)
    quota_sql.add(user_id, 0)
    assert quota_sql.quota(user_id).tokens_limit == 110
    quota_sql.expire_grant(user_id, grant)
    quota_sql.settle(user_id, held.id, 0, 0)
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_limit, quota.tokens_granted, quota.grants_expire_at) == (100, 0, None)


@pytest.mark.every_server
def test_expiry_of_one_top_up_charges_a_promise_to_no_other(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100)
    never, soon = quota_sql.grant(user_id, 1000), quota_sql.grant(user_id, 10, days=1)
    held = quota_sql.reserve(user_id, 1100)
    quota_sql.expire_grant(user_id, soon)
    assert not quota_sql.reserve(user_id, 100).granted
    quota_sql.settle(user_id, held.id, 10, 0)
    quota_sql.end_period(user_id)
    quota_sql.add(user_id, 0)
    assert quota_sql.quota(user_id).tokens_limit == 1100
    assert quota_sql.grants(user_id)[never].tokens_burned == 0
