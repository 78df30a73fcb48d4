"""Expired reservations: charged once to their month, reported correctly, and corrected by a late settlement."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from mutants import mutated
from psycopg import errors
from quota_sql import QuotaSql

from atlas_sdk import InvalidInput, QuotaExceeded
from atlas_sdk._sql import statements


def user_with(client: Any, **limits: Any) -> Any:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    names = ("tokens", "cost", "containers", "requests_per_hour", "builds_per_day")
    client.quotas.set_limits(user, **{**dict.fromkeys(names), **limits})
    return user


# Reports.


def test_check_lets_in_whom_the_next_reservation_lets_in(client: Any, quota_sql: QuotaSql) -> None:
    user = user_with(client, tokens=100, containers=1, requests_per_hour=10)
    lost = client.quotas.reserve(user, tokens=30, cost="0.5", slots=1, requests=0)
    block = client.quotas.lease_block(user, tokens=20, requests=5)
    assert client.quotas.check(user).exceeded
    quota_sql.expire(lost.id)
    quota_sql.expire(block.id)
    usage = client.quotas.usage(user)
    assert (usage.tokens_used, usage.tokens_held, usage.cost_used, usage.cost_held) == (50, 0, Decimal("0.5"), 0)
    assert (usage.slots_held, usage.requests_held, usage.requests_last_hour) == (0, 0, 5)
    assert not client.quotas.check(user).exceeded
    # The report changed nothing, and the next call finds the reported state.
    assert quota_sql.quota(user.id).containers_used == 1
    assert client.quotas.reserve(user, slots=1, requests=0).epoch > lost.epoch
    again = client.quotas.usage(user)
    assert (again.tokens_used, again.tokens_held, again.requests_last_hour) == (50, 0, 5)


# The month that is charged.


@pytest.mark.every_server
def test_end_of_the_month_charges_what_has_expired_in_it(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=10)
    lost, running = quota_sql.reserve(user_id, 40, cost=4), quota_sql.reserve(user_id, 10)
    quota_sql.expire(lost.id)
    quota_sql.end_period(user_id)
    # The reservation fits, so no refusal has charged the expired one.
    assert quota_sql.reserve(user_id, 100).granted
    closed = quota_sql.row("SELECT * FROM quota_history WHERE user_id = %s", user_id)
    assert (closed.tokens_used, closed.cost_used) == (40, 4)
    assert quota_sql.ledger(user_id) == [("expired", 40, 4)]
    quota_sql.balance(user_id)
    assert quota_sql.settle(user_id, running.id, 5, 0).outcome == "settled"
    assert quota_sql.value("SELECT tokens_used FROM quota_history WHERE user_id = %s", user_id) == 45
    quota_sql.balance(user_id)


def test_resetting_months_charges_what_has_expired(client: Any, quota_sql: QuotaSql) -> None:
    user = user_with(client, tokens=100)
    quota_sql.expire(client.quotas.reserve(user, tokens=40).id)
    quota_sql.end_period(user.id)
    client.quotas.reset_monthly()
    assert client.quotas.reservations(user) == []
    (period,) = client.quotas.history(user)
    assert period.tokens_used == 40


# Requests of a block.


def age(quota_sql: QuotaSql, key: uuid.UUID, by: timedelta) -> None:
    quota_sql.connection.execute(
        "UPDATE quota_reservations SET expires_at = clock_timestamp() - %s WHERE id = %s", (by, key)
    )


@pytest.mark.every_server
def test_requests_of_an_expired_block_count_where_it_expired(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(requests_limit=10)
    block = quota_sql.lease(user_id, requests=10, min_requests=10)
    age(quota_sql, block.id, timedelta(hours=3))
    assert quota_sql.usage(user_id).requests_last_hour == 0
    assert quota_sql.reserve(user_id, requests=10).granted
    other = quota_sql.user(requests_limit=10)
    block = quota_sql.lease(other, requests=10, min_requests=10)
    age(quota_sql, block.id, timedelta(minutes=30))
    refused = quota_sql.reserve(other, requests=1)
    assert not refused.granted
    assert timedelta(minutes=29) < refused.retry_after <= timedelta(minutes=31)
    assert quota_sql.usage(other).requests_last_hour == 10
    quota_sql.balance(other)


@pytest.mark.every_server
@pytest.mark.parametrize(
    ("ago", "told", "counted"),
    [(30, 2, 2), (30, 8, 8), (30, None, 5), (90, 2, 0), (90, 8, 3)],
)
def test_late_settlement_corrects_the_requests_that_still_count(
    quota_sql: QuotaSql, ago: int, told: int | None, counted: int
) -> None:
    user_id = quota_sql.user(requests_limit=10)
    block = quota_sql.lease(user_id, requests=5, min_requests=5)
    age(quota_sql, block.id, timedelta(minutes=ago))
    assert not quota_sql.reserve(user_id, requests=11).granted
    assert quota_sql.settle(user_id, block.id, 0, 0, requests=told).outcome == "corrected"
    quota = quota_sql.quota(user_id)
    assert (quota.requests_used, sum(quota.request_cells), quota.requests_held) == (counted, counted, 0)


@pytest.mark.every_server
def test_requests_that_a_released_block_had_made_are_counted_late(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(requests_limit=10)
    block = quota_sql.lease(user_id, requests=5, min_requests=5)
    quota_sql.release(user_id, block.id)
    assert quota_sql.settle(user_id, block.id, 0, 0, requests=3).outcome == "corrected"
    assert quota_sql.quota(user_id).requests_used == 3


@pytest.mark.every_server
def test_late_settlement_of_a_call_takes_no_requests_off(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, requests_limit=10)
    held = quota_sql.reserve(user_id, 10, requests=5, meta={"counted_requests": 5, "requests": 5})
    quota_sql.expire(held.id)
    assert not quota_sql.reserve(user_id, 101).granted
    assert quota_sql.settle(user_id, held.id, 0, 0, requests=0).outcome == "corrected"
    assert quota_sql.quota(user_id).requests_used == 5


# Late releases.


@pytest.mark.every_server
@pytest.mark.parametrize(("progressed", "requests"), [(0, 0), (30, 5)])
def test_release_after_the_expiry_gives_back_what_was_not_used(
    quota_sql: QuotaSql, progressed: int, requests: int
) -> None:
    user_id = quota_sql.user(tokens_limit=100, cost_limit=1, requests_limit=10)
    block = quota_sql.lease(user_id, 50, cost="0.5", requests=5, min_requests=5)
    quota_sql.progress(user_id, block.id, progressed)
    quota_sql.expire(block.id)
    assert not quota_sql.reserve(user_id, 101).granted
    late = quota_sql.release(user_id, block.id)
    assert (late.outcome, late.tokens, late.cost) == ("corrected", progressed, 0)
    quota = quota_sql.quota(user_id)
    assert (quota.tokens_used, quota.cost_used, quota.requests_used) == (progressed, 0, requests)
    again = quota_sql.release(user_id, block.id)
    assert (again.outcome, again.tokens, again.cost) == ("repeated", progressed, 0)
    assert quota_sql.settle(user_id, block.id, 50, 0).outcome == "repeated"
    quota_sql.balance(user_id)


@pytest.mark.every_server
def test_release_after_a_settlement_tells_what_was_charged(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    held = quota_sql.reserve(user_id, 50, cost=1)
    quota_sql.settle(user_id, held.id, 20, "0.25")
    again = quota_sql.release(user_id, held.id)
    assert (again.outcome, again.tokens, again.cost) == ("repeated", 20, Decimal("0.25"))
    released = quota_sql.reserve(user_id, 50, cost=1)
    quota_sql.release(user_id, released.id)
    again = quota_sql.release(user_id, released.id)
    assert (again.outcome, again.tokens, again.cost) == ("repeated", 0, 0)


# Running calls that hold the rest.


@pytest.mark.parametrize("dimension", ["tokens", "cost"])
def test_running_calls_are_waited_for_and_not_the_month(client: Any, dimension: str) -> None:
    user = user_with(client, **{dimension: 1000})
    first = client.quotas.reserve(user, **{dimension: 400}, ttl=timedelta(minutes=5))
    client.quotas.reserve(user, **{dimension: 600}, ttl=timedelta(minutes=10))
    for asked in (10, 401):
        with pytest.raises(QuotaExceeded) as refused:
            client.quotas.reserve(user, **{dimension: asked})
        problem = refused.value
        assert (problem.held, problem.remaining, problem.http_status) == (1000, 0, 429)
        # They may end at any time, but their expiry frees nothing: it charges them.
        assert problem.resets_at == client.quotas.usage(user).period_end
        assert "Retry-After" not in problem.headers
        assert "running calls hold 1000" in str(problem)
        assert "try again when one has ended, at the latest in" in str(problem)
    # After one unit is used, a call for the whole limit must wait for the next month.
    client.quotas.settle(user, first.id, **{dimension: 1})
    with pytest.raises(QuotaExceeded) as refused:
        client.quotas.reserve(user, **{dimension: 1000})
    assert (refused.value.held, refused.value.http_status) == (None, 403)
    assert refused.value.resets_at == client.quotas.usage(user).period_end


def test_extension_does_not_wait_for_itself(client: Any) -> None:
    user = user_with(client, tokens=100)
    own = client.quotas.reserve(user, tokens=60)
    other = client.quotas.reserve(user, tokens=40)
    with pytest.raises(QuotaExceeded) as refused:
        client.quotas.extend(user, own.id, tokens=10)
    assert (refused.value.held, refused.value.http_status, refused.value.retry_after) == (40, 429, None)
    assert str(refused.value).endswith("because running calls hold 40; try again when one has ended")
    client.quotas.settle(user, other.id, tokens=40)
    with pytest.raises(QuotaExceeded) as refused:
        client.quotas.extend(user, own.id, tokens=10)
    assert (refused.value.held, refused.value.http_status) == (None, 403)


# Ids.


def test_usage_is_not_added_to_a_promise_that_is_held(client: Any, quota_sql: QuotaSql) -> None:
    user = user_with(client, tokens=100)
    held = client.quotas.reserve(user, tokens=50)
    with pytest.raises(InvalidInput, match="still held") as refused:
        client.quotas.add_tokens(user, 20, reservation_id=held.id)
    assert refused.value.field == "reservation_id"
    client.quotas.settle(user, held.id, tokens=20)
    assert client.quotas.add_tokens(user, 20, reservation_id=held.id).outcome == "repeated"
    assert client.quotas.usage(user).tokens_used == 20


# The accounting of one user.


def test_books_of_one_user_are_found_by_index(quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user()
    quota_sql.connection.execute("SET enable_seqscan = off")
    try:
        found = quota_sql.connection.execute(
            "EXPLAIN " + statements("quota_accounting")["verify"].text, {"user_id": user_id}
        ).fetchall()
    finally:
        quota_sql.connection.execute("SET enable_seqscan = on")
    lines = [str(next(iter(row.values()))) for row in found]
    assert not [line for line in lines if "Seq Scan" in line]
    conditions = [line for line in lines if "Index Cond" in line and f"user_id = '{user_id}'" in line]
    assert len(conditions) >= 5


# Locked limits.


def test_the_sql_api_does_not_wait_for_ever(dsn: str, quota_sql: QuotaSql) -> None:
    user_id = quota_sql.user(tokens_limit=100, requests_limit=10)
    held = quota_sql.reserve(user_id, 10)
    with mutated(quota_sql.connection, "quota_lock_timeout", ("'8s'", "'40ms'")), psycopg.connect(dsn) as other:
        other.execute("SELECT FROM user_quotas WHERE user_id = %s FOR UPDATE", (user_id,))
        other.execute("SELECT FROM quota_reservations WHERE id = %s FOR UPDATE", (held.id,))
        calls: tuple[Callable[[], object], ...] = (
            lambda: quota_sql.reserve(user_id, 10),
            lambda: quota_sql.lease(user_id, 10),
            lambda: quota_sql.hit(user_id),
            lambda: quota_sql.settle(user_id, held.id, 5, 0),
            lambda: quota_sql.settle(user_id, held.id, 11, 0),
            lambda: quota_sql.release(user_id, held.id),
            lambda: quota_sql.extend(user_id, held.id, 1),
            lambda: quota_sql.progress(user_id, held.id, 1),
            lambda: quota_sql.add(user_id, 1),
        )
        for call in calls:
            with pytest.raises(errors.LockNotAvailable):
                call()
        # The session's own `lock_timeout` counts.
        quota_sql.connection.execute("SET lock_timeout = '1ms'")
        with (
            mutated(quota_sql.connection, "quota_lock_timeout", ("'40ms'", "'1h'")),
            pytest.raises(errors.LockNotAvailable),
        ):
            quota_sql.reserve(user_id, 10)
        quota_sql.connection.execute("RESET lock_timeout")
    assert quota_sql.settle(user_id, held.id, 5, 0).outcome == "settled"
    assert quota_sql.value("SHOW lock_timeout") == "0"
    quota_sql.balance(user_id)
