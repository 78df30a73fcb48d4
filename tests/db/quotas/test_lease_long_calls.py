"""Calls that take longer than their block lasts: their reservations are kept, and nothing else of the block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from guard_adapter import QuotaClient, until, used
from leasing import Clock, lease_of, losing_of, once, user_with
from quota_sql import QuotaSql

from atlas_sdk import QuotaExceeded
from atlas_sdk.errors import StorageFull

#: A `ttl` that is long enough for a heartbeat on a busy machine, and short enough to wait for.
SHORT = timedelta(seconds=1)


def kept_until(client: QuotaClient, condition: Callable[[], object]) -> None:
    """Wait for a condition. An asyncio lease manager only runs while its event loop runs."""

    def holds() -> object:
        if client.kind == "asyncio":
            client.do(asyncio.sleep(0.01))
        return condition()

    until(holds)


def tended(client: QuotaClient, lease: Any, condition: Callable[[], object]) -> None:
    """Run the maintenance of a lease until a condition holds. Its manager does the same by the real clock."""
    kept_until(client, lambda: (client.do(lease._core.run_maintenance()), condition())[1])


def test_long_calls_hold_what_they_were_promised_and_not_whole_blocks(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user, clock = client.user(tokens=100_000, requests_per_hour=1000), Clock()
    lease = lease_of(client, user, tokens=50_000, ttl=timedelta(seconds=100), idle_s=2.0, clock=clock)
    first = client.do(lease.reserve(10))
    clock.now += 91
    second = client.do(lease.reserve(10))
    # If the manager looks at the clock before the call, the second block shares the limit with the first.

    def narrowed() -> bool:
        held = sorted(hold.tokens for hold in client.holds(user))
        # The smaller reservation is made before its block is settled, so for a moment there are three.
        return len(held) == 2 and held[0] == 10

    tended(client, lease, narrowed)
    clock.now += 34
    tended(client, lease, lambda: client.usage_of(user).tokens_held == 20)
    assert client.usage_of(user).requests_last_hour == 2
    sixty = client.quotas.reserve(user, tokens=60_000)
    client.quotas.release(user, sixty.id)
    assert once(client, lease, 40_000, 0).tokens == 40_000
    first.settle(7)
    second.settle(8)
    client.do(lease.close())
    until(lambda: client.usage_of(user).tokens_held == 0)
    assert used(client, user)[0] == 15
    assert client.usage_of(user).requests_last_hour == 4
    assert not quota_sql.value(
        "SELECT count(*) FROM events WHERE user_id = %s AND type = 'quota.threshold'", user.id
    ), "nobody has used half of it"


def test_a_call_keeps_its_block_alive_and_its_requests_uncounted(client: QuotaClient) -> None:
    user = client.user(tokens=1000, requests_per_hour=100)
    lease = lease_of(client, user, tokens=400, requests=80, ttl=SHORT)
    call = client.do(lease.reserve(100))
    (hold,) = client.holds(user)
    kept_until(client, lambda: client.holds(user)[0].expires_at > hold.expires_at + 2 * SHORT)
    with pytest.raises(QuotaExceeded):
        # If the block had expired, this refused request would have charged it.
        client.quotas.reserve(user, tokens=1000)
    assert (client.usage_of(user).tokens_used, client.usage_of(user).requests_last_hour) == (0, 0)
    assert once(client, lease, 10, 1).id != call.id, "no call begins on a block past its time"
    call.settle(30)
    client.do(lease.close())
    assert used(client, user)[0] == 31
    assert client.usage_of(user).requests_last_hour == 2


def test_a_smaller_reservation_is_kept_alive_too(client: QuotaClient) -> None:
    user = client.user(tokens=1000)
    lease = lease_of(client, user, tokens=400, ttl=SHORT)
    call = client.do(lease.reserve(100))
    client.do(lease.close())
    (hold,) = client.holds(user)
    assert (hold.id, hold.tokens) == (call.id, 100)
    kept_until(client, lambda: client.holds(user)[0].expires_at > hold.expires_at + 2 * SHORT)
    call.settle(30)
    kept_until(client, lambda: not client.holds(user))
    assert used(client, user)[0] == 30


def test_without_room_for_both_a_block_is_kept_and_made_smaller_later(client: QuotaClient) -> None:
    user, clock = user_with(client, tokens=1000), Clock()
    lease = lease_of(client, user, tokens=500, ttl=timedelta(seconds=60), idle_s=2.0, clock=clock)
    call = client.do(lease.reserve(100))
    other = client.quotas.reserve(user, tokens=450)
    (block,) = (hold for hold in client.holds(user) if hold.id == call.id)
    clock.now += 21

    def kept() -> Any:
        return next(hold for hold in client.holds(user) if hold.id == call.id)

    tended(client, lease, lambda: kept().expires_at > block.expires_at)
    assert kept().tokens == 500
    assert once(client, lease, 10, 0).id == call.id, "it serves others still"
    client.quotas.release(user, other.id)
    clock.now += 21
    tended(client, lease, lambda: client.usage_of(user).tokens_held == 100)
    call.settle(100)
    client.do(lease.close())
    assert used(client, user)[0] == 100


def test_a_busy_block_stays_as_it_is(client: QuotaClient) -> None:
    user, clock = user_with(client), Clock()
    lease = lease_of(client, user, tokens=500, ttl=timedelta(seconds=60), idle_s=2.0, clock=clock)
    running = client.do(lease.reserve(10))
    clock.now += 19
    once(client, lease, 10)
    clock.now += 1.5
    client.do(lease._core.run_maintenance())
    assert [hold.tokens for hold in client.holds(user)] == [500]
    running.settle(10)
    client.do(lease.close())


def test_a_block_of_which_most_is_promised_stays_as_it_is(client: QuotaClient) -> None:
    user, clock = user_with(client), Clock()
    lease = lease_of(client, user, tokens=500, requests=0, ttl=timedelta(seconds=60), idle_s=2.0, clock=clock)
    running = client.do(lease.reserve(400))
    for _ in range(5):
        clock.now += 21
        client.do(lease._core.run_maintenance())
    assert [hold.id for hold in client.holds(user)] == [running.id]
    assert client.usage_of(user).tokens_held == 500
    running.settle(400)
    client.do(lease.close())
    assert used(client, user)[0] == 400


def test_a_heartbeat_that_fails_comes_again_sooner(client: QuotaClient) -> None:
    user, runner, clock = user_with(client), losing_of(client), Clock()
    lease = lease_of(client, user, runner=runner, tokens=500, ttl=timedelta(seconds=90), clock=clock)
    call = client.do(lease.reserve(10))
    runner.sent.clear()
    for error in (None, StorageFull("full")):
        # Set the error before the clock, and only when the script is over, because the manager reads the clock too.
        runner.fail(1, error)
        clock.now += 31
        tended(client, lease, lambda: runner.sent == ["quotas.extend"] and not lease._core.busy)
        clock.now += 11
        tended(client, lease, lambda: runner.sent == ["quotas.extend"] * 2 and not lease._core.busy)
        runner.sent.clear()
    call.settle(10)
    client.do(lease.close())


def test_a_block_that_ended_under_its_calls_admits_none_and_is_corrected(
    client: QuotaClient, quota_sql: QuotaSql
) -> None:
    user, clock = user_with(client, tokens=1000), Clock()
    lease = lease_of(client, user, tokens=400, ttl=timedelta(seconds=90), clock=clock)
    call = client.do(lease.reserve(100))
    quota_sql.expire(call.id)
    with pytest.raises(QuotaExceeded):
        client.quotas.reserve(user, tokens=700)
    clock.now += 31
    tended(client, lease, lambda: lease._core.pool.current is None)
    assert once(client, lease, 10, 1).id != call.id
    call.settle(30)
    client.do(lease.close())
    until(lambda: client.usage_of(user).tokens_used == 31)
    assert used(client, user)[0] == 31


def test_a_smaller_reservation_does_not_end_with_the_month(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user, clock = user_with(client), Clock()
    end = quota_sql.value("SELECT clock_timestamp() + interval '20 s'")
    quota_sql.change(user.id, period_end=end)
    lease = lease_of(client, user, tokens=400, clock=clock)
    call = client.do(lease.reserve(100))
    assert client.holds(user)[0].expires_at == end
    client.do(lease.close())
    assert client.holds(user)[0].expires_at > end
    call.settle(5)
    kept_until(client, lambda: not client.holds(user))
    assert used(client, user)[0] == 5


def test_a_call_is_extended_after_its_move(client: QuotaClient) -> None:
    user = user_with(client, tokens=1000)
    lease = lease_of(client, user, tokens=400)
    call = client.do(lease.reserve(100))
    client.do(lease.close())
    client.do(lease.extend(call, tokens=50))
    assert (call.tokens, client.usage_of(user).tokens_held) == (150, 150)
    call.settle(149)
    kept_until(client, lambda: not client.holds(user))
    assert used(client, user)[0] == 149


def test_calls_that_promised_nothing_but_a_request_are_kept_by_one_token(client: QuotaClient) -> None:
    user = client.user(tokens=1000, requests_per_hour=50)
    lease = lease_of(client, user, tokens=400, requests=20)
    call = client.do(lease.reserve(0))
    client.do(lease.close())
    assert client.usage_of(user).tokens_held == 1
    assert client.usage_of(user).requests_last_hour == 1
    call.settle(0)
    kept_until(client, lambda: not client.holds(user))
    assert used(client, user)[0] == 0
    assert client.usage_of(user).requests_last_hour == 1


def test_a_lost_answer_about_a_smaller_reservation_costs_nothing(client: QuotaClient) -> None:
    user, runner = user_with(client), losing_of(client)
    lease = lease_of(client, user, runner=runner, tokens=400)
    call = client.do(lease.reserve(100))
    runner.lose(2)
    client.do(lease.close())
    kept_until(client, lambda: [hold.id for hold in client.holds(user)] == [call.id])
    assert client.usage_of(user).tokens_held == 400
    call.settle(30)
    kept_until(client, lambda: not client.holds(user))
    assert used(client, user)[0] == 30


# Events while the lease requests the smaller reservation.


def during(runner: Any, statement: str, act: Callable[[], object]) -> None:
    def watch(name: str) -> None:
        if name == statement:
            runner.watch = None
            act()

    runner.watch = watch


def test_a_call_that_ends_meanwhile_is_charged_once(blocking_client: QuotaClient) -> None:
    user, runner = user_with(blocking_client), losing_of(blocking_client)
    lease = lease_of(blocking_client, user, runner=runner, tokens=400)
    call = lease.reserve(100)
    during(runner, "quotas.reserve", lambda: call.settle(3))
    lease.close()
    until(lambda: not blocking_client.holds(user))
    assert used(blocking_client, user)[0] == 3


def test_a_call_that_is_extended_meanwhile_keeps_its_block(blocking_client: QuotaClient) -> None:
    user, runner = user_with(blocking_client, tokens=1000), losing_of(blocking_client)
    lease = lease_of(blocking_client, user, runner=runner, tokens=400)
    call = lease.reserve(100)
    during(runner, "quotas.reserve", lambda: lease.extend(call, tokens=50, ttl=timedelta(minutes=1)))
    lease.close()
    until(lambda: len(blocking_client.holds(user)) == 1)
    assert blocking_client.usage_of(user).tokens_held == 450
    call.settle(150)
    until(lambda: not blocking_client.holds(user))
    assert used(blocking_client, user)[0] == 150


def test_an_extension_that_is_on_its_way_keeps_the_block_where_it_is(blocking_client: QuotaClient) -> None:
    user, runner = user_with(blocking_client, tokens=1000), losing_of(blocking_client)
    lease = lease_of(blocking_client, user, runner=runner, tokens=400)
    call = lease.reserve(100)
    during(runner, "quotas.extend", lease.give_back)
    lease.extend(call, tokens=50, ttl=timedelta(minutes=1))
    assert [hold.tokens for hold in blocking_client.holds(user)] == [450]
    call.settle(150)
    lease.close()
    assert used(blocking_client, user)[0] == 150
