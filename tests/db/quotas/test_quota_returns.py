"""Top-ups that a promise took along over the end of a month: what it then does not cost comes back to them."""

from __future__ import annotations

from typing import Any

import pytest
from doors import Door


@pytest.mark.every_server
@pytest.mark.parametrize("end", ["settle", "release", "late settle", "late release"])
@pytest.mark.parametrize("unit", ["tokens", "cost"])
def test_top_up_comes_back_from_a_promise_that_outlived_the_month(door: Door, end: str, unit: str) -> None:
    user_id = door.user(**{f"{unit}_limit": 100})
    grant = door.grant(user_id, **{unit: 1000})
    held = door.reserve(user_id, **{unit: 1000})
    door.end_period(user_id)
    assert door.reserve(user_id, **{unit: 100}).granted

    def counters() -> tuple[Any, ...]:
        quota, row = door.quota(user_id), door.grants(user_id)[grant]
        return getattr(quota, f"{unit}_limit"), getattr(quota, f"{unit}_granted"), getattr(row, f"{unit}_burned")

    assert counters() == (200, 100, 900)
    if end.startswith("late"):
        door.expire(held.id)
        assert not door.reserve(user_id, **{unit: 101}).granted
        assert counters() == (200, 100, 900)
    used = 10 if end.endswith("settle") else 0
    if used:
        door.settle(user_id, held.id, *((10, 0) if unit == "tokens" else (0, 10)))
    else:
        door.release(user_id, held.id)
    assert counters() == (1100, 1000, 0)
    door.balance(user_id)
    assert door.reserve(user_id, **{unit: 1000}).granted
    assert not door.reserve(user_id, **{unit: 1}).granted


@pytest.mark.every_server
def test_top_ups_come_back_the_last_to_expire_first(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    never, soon, later = door.grant(user_id, 100), door.grant(user_id, 100, days=50), door.grant(user_id, 100, days=90)
    held = door.reserve(user_id, 400)
    other = door.reserve(user_id, 0, slots=1)
    door.end_period(user_id)
    door.add(user_id, 0)
    assert {row.closed_at is None for row in door.grants(user_id).values()} == {False}
    door.settle(user_id, held.id, 250, 0)
    grants = door.grants(user_id)
    assert [grants[key].tokens_burned for key in (soon, later, never)] == [100, 50, 0]
    assert [grants[key].closed_at is None for key in (soon, later, never)] == [False, True, True]
    quota = door.quota(user_id)
    assert (quota.tokens_limit, quota.tokens_granted, quota.grants_expire_at) == (250, 150, grants[later].expires_at)
    door.release(user_id, other.id)
    assert door.quota(user_id).tokens_limit == 250


@pytest.mark.every_server
def test_what_was_used_beyond_all_top_ups_is_paid_first(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    door.grant(user_id, 100)
    one, two = door.reserve(user_id, 150), door.reserve(user_id, 50)
    door.add(user_id, 30)
    door.end_period(user_id)
    door.add(user_id, 0)
    # An overrun of 20 is not paid by anything either.
    door.settle(user_id, two.id, 70, 0)
    assert door.quota(user_id).tokens_limit == 100
    door.settle(user_id, one.id, 90, 0)
    # 190 were used of an allowance of 100.
    assert door.quota(user_id).tokens_limit == 110
    door.balance(user_id)


@pytest.mark.every_server
def test_top_up_that_expired_meanwhile_does_not_come_back(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    grant = door.grant(user_id, 50, days=9)
    held = door.reserve(user_id, 140)
    door.end_period(user_id)
    door.add(user_id, 0)
    assert door.quota(user_id).tokens_limit == 110
    door.expire_grant(user_id, grant)
    door.settle(user_id, held.id, 0, 0)
    quota = door.quota(user_id)
    assert (quota.tokens_limit, quota.tokens_granted, quota.grants_expire_at) == (100, 0, None)


@pytest.mark.every_server
def test_expiry_of_one_top_up_charges_a_promise_to_no_other(door: Door) -> None:
    user_id = door.user(tokens_limit=100)
    never, soon = door.grant(user_id, 1000), door.grant(user_id, 10, days=1)
    held = door.reserve(user_id, 1100)
    door.expire_grant(user_id, soon)
    assert not door.reserve(user_id, 100).granted
    door.settle(user_id, held.id, 10, 0)
    door.end_period(user_id)
    door.add(user_id, 0)
    assert door.quota(user_id).tokens_limit == 1100
    assert door.grants(user_id)[never].tokens_burned == 0
