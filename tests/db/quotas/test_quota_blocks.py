"""Blocks: granted between a minimum and the asked amount, shared near a limit, and charged once at their end."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors
from quota_sql import QuotaSql

from atlas_sdk import InvalidInput, NotFound, QuotaExceeded

WANT: dict[str, Any] = {
    "tokens": 1000,
    "min_tokens": 10,
    "cost": "10",
    "min_cost": "0.1",
    "requests": 100,
    "min_requests": 1,
}
DIMENSIONS = ["tokens", "cost", "requests"]


def user_with(client: Any, **limits: Any) -> Any:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    names = ("tokens", "cost", "containers", "requests_per_hour", "builds_per_day")
    client.quotas.set_limits(user, **{**dict.fromkeys(names), **limits})
    return user


# Size.


@pytest.mark.every_server
def test_block_is_whole_while_there_is_plenty_and_a_share_near_the_limit(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=4000, cost_limit=40, requests_limit=400)
    first = quota_sql.lease(user_id, **WANT, holder="a")
    assert (first.tokens, first.cost, first.requests) == (1000, 10, 100)
    # All blocks of one holder count as one share, so the holder's next block gets half of the rest.
    second = quota_sql.lease(user_id, **{**WANT, "tokens": 9999, "cost": 99, "requests": 999}, holder="a")
    assert (second.tokens, second.cost, second.requests) == (1500, 15, 150)
    # With two holders, each may get a quarter of the rest.
    third = quota_sql.lease(user_id, **WANT, holder="b")
    assert (third.tokens, third.cost, third.requests) == (375, Decimal("3.75"), 37)
    fourth = quota_sql.lease(user_id, **WANT, holder="c")
    assert (fourth.tokens, fourth.cost, fourth.requests) == (1125 // 6, Decimal("1.875"), 113 // 6)
    # Reservations do not count as holders, and neither do blocks that were given back.
    quota_sql.reserve(user_id, 1, holder="d")
    quota_sql.release(user_id, third.id)
    assert quota_sql.lease(user_id, tokens=9999, holder="b").tokens == (4000 - 1000 - 1500 - 187 - 1) // 6
    quota = quota_sql.quota(user_id)
    assert (quota.cost_held, quota.requests_held) == (Decimal("26.875"), 268)
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_share_is_never_below_the_minimum(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=10, cost_limit="0.000000009", requests_limit=10)
    for number in range(4):
        quota_sql.lease(user_id, holder=str(number), tokens=1, cost="0.000000001", requests=1)
    least = {"min_tokens": 5, "min_cost": "0.000000004", "min_requests": 5}
    block = quota_sql.lease(user_id, holder="x", tokens=9, cost=1, requests=9, **least)
    assert (block.tokens, block.cost, block.requests) == (5, Decimal("0.000000004"), 5)
    # Without a minimum, a block has at least one unit of each asked dimension.
    last = quota_sql.lease(user_id, holder="y", tokens=9, cost=1, requests=9)
    assert (last.tokens, last.cost, last.requests) == (1, Decimal("0.000000001"), 1)
    refused = quota_sql.lease(user_id, holder="z", tokens=9)
    assert (refused.granted, refused.dimension, refused.remaining, refused.bound) == (False, "tokens", 0, 10)
    quota_sql.balance(user_id)


@pytest.mark.every_server
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_one_dimension_below_its_minimum_refuses_all(quota_sql: QuotaSql, dimension: str) -> None:
    left = {"tokens": 9, "cost": Decimal("0.099999999"), "requests": 1}
    user_id = quota_sql.user(**{f"{dimension}_limit": left[dimension]})
    before = quota_sql.quota(user_id)
    refused = quota_sql.lease(user_id, **{**WANT, "min_requests": 2})
    assert (refused.granted, refused.dimension, refused.remaining) == (False, dimension, left[dimension])
    assert refused.retry_after is None
    assert quota_sql.quota(user_id) == before


@pytest.mark.every_server
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_unlimited_dimension_gives_all(quota_sql: QuotaSql, dimension: str) -> None:
    bounds = {"tokens_limit": 40, "cost_limit": 40, "requests_limit": 40}
    user_id = quota_sql.user(**{**bounds, f"{dimension}_limit": None})
    block = quota_sql.lease(user_id, tokens=100, cost=100, requests=100)
    granted = {name: getattr(block, name) for name in DIMENSIONS}
    assert granted == {**dict.fromkeys(DIMENSIONS, 20), dimension: 100}
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_dimension_that_is_not_asked_for_is_not_looked_at(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=0, cost_limit=1, requests_limit=0)
    quota_sql.add(user_id, 50)
    block = quota_sql.lease(user_id, cost="0.5")
    assert (block.granted, block.tokens, block.cost, block.requests) == (True, 0, Decimal("0.5"), 0)


@pytest.mark.every_server
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    limit=st.integers(0, 300),
    asks=st.lists(st.tuples(st.integers(1, 200), st.integers(0, 200), st.integers(0, 3)), min_size=1, max_size=8),
)
def test_blocks_never_exceed_a_limit_and_keep_their_bounds(
    quota_sql: QuotaSql, limit: int, asks: list[tuple[int, int, int]]
) -> None:
    user_id = quota_sql.user(tokens_limit=limit, cost_limit=Decimal(limit) / 1000, requests_limit=limit)
    left = limit
    holders: set[int] = set()
    for want, least_drawn, holder in asks:
        least = min(least_drawn, want)
        asked = {"tokens": want, "min_tokens": least, "requests": want, "min_requests": least}
        money = {"cost": Decimal(want) / 1000, "min_cost": Decimal(least) / 1000}
        block = quota_sql.lease(user_id, **asked, **money, holder=f"h{holder}")
        assert block.granted is (max(least, 1) <= left)
        if block.granted:
            share = left // (2 * len(holders | {holder}))
            assert block.tokens == block.requests == min(want, max(least, 1, share))
            assert least <= block.cost * 1000 <= want
            left -= block.tokens
            holders.add(holder)
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_held, quota.requests_held) == (limit - left, limit - left)
    assert quota.cost_held <= Decimal(limit) / 1000
    quota_sql.balance(user_id)


# Lifetime.


@pytest.mark.every_server
def test_block_ends_with_the_period(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    quota_sql.connection.execute(
        "UPDATE user_quotas SET period_end = clock_timestamp() + interval '30 s' WHERE user_id = %s", (user_id,)
    )
    block = quota_sql.lease(user_id, 5, ttl=timedelta(hours=1))
    assert block.expires_at == quota_sql.quota(user_id).period_end
    assert timedelta(0) < block.lasts <= timedelta(seconds=30)
    other = quota_sql.lease(user_id, 5, ttl=timedelta(seconds=3))
    assert other.lasts == timedelta(seconds=3)


@pytest.mark.every_server
def test_block_of_an_ended_period_is_charged_to_it_and_its_requests_to_the_hour(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, requests_limit=10)
    settled, lost = (quota_sql.lease(user_id, 30, min_tokens=30, requests=4, min_requests=4) for _ in range(2))
    quota_sql.end_period(user_id)
    assert quota_sql.settle(user_id, settled.id, 20, 0, requests=3).outcome == "settled"
    quota_sql.expire(lost.id)
    assert not quota_sql.reserve(user_id, 101, requests=1).granted
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.requests_used, quota.requests_held) == (0, 0, 7, 0)
    assert quota_sql.value("SELECT tokens_used FROM quota_history WHERE user_id = %s", user_id) == 50
    quota_sql.balance(user_id)


# Ends.


@pytest.mark.every_server
@pytest.mark.parametrize(("told", "counted"), [(0, 0), (3, 3), (None, 8), (9, 9)])
def test_settlement_counts_the_requests_that_were_made(quota_sql: QuotaSql, told: int | None, counted: int) -> None:
    user_id = quota_sql.user(requests_limit=100)
    block = quota_sql.lease(user_id, 100, cost=1, requests=8)
    done = quota_sql.settle(user_id, block.id, 40, "0.5", requests=told)
    # Requests beyond the granted number are counted, and marked as an overrun.
    assert (done.outcome, done.tokens, done.cost, done.overrun) == ("settled", 40, Decimal("0.5"), counted > 8)
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.cost_used) == (40, 0, Decimal("0.5"))
    assert (quota.requests_used, quota.requests_held, sum(quota.request_cells)) == (counted, 0, counted)
    assert quota_sql.settle(user_id, block.id, 99, 9, requests=8).outcome == "repeated"
    assert quota_sql.quota(user_id).requests_used == counted
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_requests_of_other_reservations_are_not_counted_twice(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(requests_limit=100)
    for short in (True, False):
        held = quota_sql.reserve(user_id, 10, requests=5)
        # An overrun does not take the short cut.
        quota_sql.settle(user_id, held.id, 10 if short else 11, 0, requests=5)
    assert quota_sql.quota(user_id).requests_used == 10


@pytest.mark.every_server
def test_released_block_counts_nothing(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, requests_limit=10)
    block = quota_sql.lease(user_id, 50, requests=5)
    assert quota_sql.release(user_id, block.id).outcome == "released"
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_held, quota.tokens_used, quota.requests_held, quota.requests_used) == (0, 0, 0, 0)
    again = quota_sql.lease(user_id, 50, requests=5, key=block.id)
    assert (again.granted, again.state) == (False, "released")
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_expired_block_is_charged_in_full_and_a_late_settlement_corrects_it_once(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=1, requests_limit=10)
    block = quota_sql.lease(user_id, 50, cost="0.5", requests=5)
    quota_sql.expire(block.id)
    assert not quota_sql.hit(user_id, 11).granted
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.tokens_held, quota.cost_used) == (50, 0, Decimal("0.5"))
    assert (quota.requests_used, quota.requests_held) == (5, 0)
    assert quota_sql.ledger(user_id) == [("expired", 50, Decimal("0.5"))]
    late = quota_sql.settle(user_id, block.id, 20, "0.1", requests=2)
    assert (late.outcome, late.tokens, late.cost) == ("corrected", 20, Decimal("0.1"))
    assert quota_sql.settle(user_id, block.id, 0, 0, requests=0).outcome == "repeated"
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.cost_used, quota.requests_used) == (20, Decimal("0.1"), 2)
    assert sum(quota.request_cells) == 2
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_asking_again_repeats_the_first_answer(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, requests_limit=10)
    first = quota_sql.lease(user_id, 80, requests=8, holder="a")
    before = quota_sql.quota(user_id)
    again = quota_sql.lease(user_id, 80, requests=8, holder="a", key=first.id)
    assert (again.granted, again.repeated, again.tokens, again.requests) == (True, True, 50, 5)
    assert (again.epoch, again.expires_at) == (first.epoch, first.expires_at)
    assert timedelta(0) < again.lasts < first.lasts
    assert quota_sql.quota(user_id) == before


WRONG: list[dict[str, Any]] = [
    {"tokens": 0},
    {"tokens": -1},
    {"tokens": 10, "min_tokens": 11},
    {"tokens": 10, "min_tokens": -1},
    {"tokens": 10, "min_tokens": None},
    {"cost": "NaN"},
    {"cost": -1},
    {"cost": 1, "min_cost": 2},
    {"cost": 1, "min_cost": "NaN"},
    {"requests": 10**6 + 1},
    {"requests": 1, "min_requests": 2},
    {"requests": None},
    {"tokens": 1, "ttl": timedelta(0)},
    {"tokens": 1, "ttl": timedelta(hours=25)},
    {"tokens": 1, "ttl": None},
    {"tokens": 1, "holder": "x" * 201},
    {"tokens": 1, "key": None},
]


@pytest.mark.every_server
def test_what_is_no_block_is_refused_before_anything_changes(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    before = quota_sql.quota(user_id)
    for asked in WRONG:
        with pytest.raises(errors.InvalidParameterValue):
            quota_sql.lease(user_id, **asked)
    block = quota_sql.lease(user_id, 1)
    for requests in (-1, 10**6 + 1):
        with pytest.raises(errors.InvalidParameterValue):
            quota_sql.settle(user_id, block.id, 1, 0, requests=requests)
    with pytest.raises(errors.ForeignKeyViolation):
        quota_sql.lease(uuid.uuid4(), 1)
    assert quota_sql.quota(user_id).tokens_used == before.tokens_used


# Through both clients.


def test_block_through_a_client(client: Any) -> None:
    user = user_with(client, tokens=1000, requests_per_hour=100)
    key = uuid.uuid4()
    want = {"tokens": 600, "min_tokens": 1, "cost": "0.5", "requests": 60, "min_requests": 1}
    block = client.quotas.lease_block(user, **want, holder="a", ttl=timedelta(minutes=2), reservation_id=key)
    assert (block.id, block.user_id, block.repeated, block.epoch) == (key, user.id, False, 1)
    assert (block.tokens, block.cost, block.requests) == (500, Decimal("0.5"), 50)
    assert block.lasts == timedelta(minutes=2)
    assert client.quotas.lease_block(user, **want, reservation_id=key).repeated
    (hold,) = client.quotas.reservations(user)
    assert (hold.id, hold.leased, hold.requests, hold.holder) == (key, True, 50, "a")
    # Without a minimum, the client wants the whole amount.
    with pytest.raises(QuotaExceeded) as refused:
        client.quotas.lease_block(user, tokens=501)
    assert (refused.value.dimension, refused.value.asked, refused.value.remaining) == ("tokens", 501, 500)
    assert client.quotas.settle(user, key, tokens=10, cost=0, requests=4).outcome == "settled"
    usage = client.quotas.usage(user)
    assert (usage.tokens_used, usage.requests_last_hour, usage.requests_held) == (10, 4, 0)
    with pytest.raises(InvalidInput, match="settled already"):
        client.quotas.lease_block(user, **want, reservation_id=key)
    with pytest.raises(NotFound):
        client.quotas.settle(user, uuid.uuid4(), requests=1)
    for wrong in ({}, {"requests": -1}, {"tokens": 1, "min_tokens": 2}, {"tokens": 1, "ttl": timedelta(0)}):
        with pytest.raises(InvalidInput):
            client.quotas.lease_block(user, **wrong)


def test_verify_finds_promised_requests_that_nobody_holds(client: Any, quota_sql: QuotaSql) -> None:
    user = user_with(client)
    client.quotas.lease_block(user, requests=7)
    client.quotas.reserve(user, tokens=1, requests=3)
    assert client.quotas.verify(user).balanced
    quota_sql.change(user.id, requests_held=5)
    (books,) = client.quotas.verify(user).unbalanced
    assert (books.requests_held, books.requests_reserved) == (5, 7)
    quota_sql.change(user.id, requests_held=7)


def test_lease_that_is_extended_still_ends_with_its_period(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    quota_sql.connection.execute(
        "UPDATE user_quotas SET period_end = now() + interval '5 minutes' WHERE user_id = %s", (user_id,)
    )
    block = quota_sql.lease(user_id, 100)
    plain = quota_sql.reserve(user_id, 100)
    for key in (block.id, plain.id):
        assert quota_sql.extend(user_id, key, ttl=timedelta(hours=1)).granted
    ends = {
        key: quota_sql.value("SELECT expires_at FROM quota_reservations WHERE id = %s", key)
        for key in (block.id, plain.id)
    }
    assert ends[block.id] == quota_sql.quota(user_id).period_end < ends[plain.id]
