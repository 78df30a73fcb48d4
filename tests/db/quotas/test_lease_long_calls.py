"""Calls that outlive their block: what they were promised is kept for them, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from doors import Door
from guard_adapter import Both, until, used
from leasing import Clock, lease_of, losing_of, once, user_with

from atlas_sdk import QuotaExceeded
from atlas_sdk.errors import StorageFull

#: Long enough for a heartbeat of a busy machine, short enough to wait for.
SHORT = timedelta(seconds=1)


@pytest.fixture(params=["blocking", "asyncio"])
def both(request: pytest.FixtureRequest, dsn: str) -> Iterator[Both]:
    client = Both(request.param, dsn)
    yield client
    client.close()


@pytest.fixture
def threaded(dsn: str) -> Iterator[Both]:
    client = Both("blocking", dsn)
    yield client
    client.close()


def kept_until(both: Both, condition: Callable[[], object]) -> None:
    """Wait for a condition; an asyncio lease manager only runs while its event loop does."""

    def holds() -> object:
        if both.kind == "asyncio":
            both.do(asyncio.sleep(0.01))
        return condition()

    until(holds)


def tended(both: Both, lease: Any, condition: Callable[[], object]) -> None:
    """Look after a lease, as its manager does at the same time by the real clock, until a condition comes."""
    kept_until(both, lambda: (both.do(lease._core.run_maintenance()), condition())[1])


def test_long_calls_hold_what_they_were_promised_and_not_whole_blocks(both: Both, door: Door) -> None:
    user, clock = both.user(tokens=100_000, requests_per_hour=1000), Clock()
    lease = lease_of(both, user, tokens=50_000, ttl=timedelta(seconds=100), idle_s=2.0, clock=clock)
    first = both.do(lease.reserve(10))
    clock.now += 91
    second = both.do(lease.reserve(10))
    # The second block has to share with the first one when the manager saw the clock before the call did.

    def narrowed() -> bool:
        held = sorted(hold.tokens for hold in both.holds(user))
        # The smaller reservation comes before its block goes: for a moment there are three.
        return len(held) == 2 and held[0] == 10

    tended(both, lease, narrowed)
    clock.now += 34
    tended(both, lease, lambda: both.usage(user).tokens_held == 20)
    assert both.usage(user).requests_last_hour == 2
    sixty = both.do(both.quotas.reserve(user, tokens=60_000))
    both.do(both.quotas.release(user, sixty.id))
    assert once(both, lease, 40_000, 0).tokens == 40_000
    first.settle(7)
    second.settle(8)
    both.do(lease.close())
    until(lambda: both.usage(user).tokens_held == 0)
    assert used(both, user)[0] == 15
    assert both.usage(user).requests_last_hour == 4
    assert not door.value("SELECT count(*) FROM events WHERE user_id = %s AND type = 'quota.threshold'", user.id), (
        "nobody has used half of it"
    )


def test_a_call_keeps_its_block_alive_and_its_requests_uncounted(both: Both) -> None:
    user = both.user(tokens=1000, requests_per_hour=100)
    lease = lease_of(both, user, tokens=400, requests=80, ttl=SHORT)
    call = both.do(lease.reserve(100))
    (hold,) = both.holds(user)
    kept_until(both, lambda: both.holds(user)[0].expires_at > hold.expires_at + 2 * SHORT)
    with pytest.raises(QuotaExceeded):
        # The one who is refused would have charged what has expired.
        both.do(both.quotas.reserve(user, tokens=1000))
    assert (both.usage(user).tokens_used, both.usage(user).requests_last_hour) == (0, 0)
    assert once(both, lease, 10, 1).id != call.id, "no call begins on a block past its time"
    call.settle(30)
    both.do(lease.close())
    assert used(both, user)[0] == 31
    assert both.usage(user).requests_last_hour == 2


def test_a_smaller_reservation_is_kept_alive_too(both: Both) -> None:
    user = both.user(tokens=1000)
    lease = lease_of(both, user, tokens=400, ttl=SHORT)
    call = both.do(lease.reserve(100))
    both.do(lease.close())
    (hold,) = both.holds(user)
    assert (hold.id, hold.tokens) == (call.id, 100)
    kept_until(both, lambda: both.holds(user)[0].expires_at > hold.expires_at + 2 * SHORT)
    call.settle(30)
    kept_until(both, lambda: not both.holds(user))
    assert used(both, user)[0] == 30


def test_without_room_for_both_a_block_is_kept_and_made_smaller_later(both: Both) -> None:
    user, clock = user_with(both, tokens=1000), Clock()
    lease = lease_of(both, user, tokens=500, ttl=timedelta(seconds=60), idle_s=2.0, clock=clock)
    call = both.do(lease.reserve(100))
    other = both.do(both.quotas.reserve(user, tokens=450))
    (block,) = (hold for hold in both.holds(user) if hold.id == call.id)
    clock.now += 21

    def kept() -> Any:
        return next(hold for hold in both.holds(user) if hold.id == call.id)

    tended(both, lease, lambda: kept().expires_at > block.expires_at)
    assert kept().tokens == 500
    assert once(both, lease, 10, 0).id == call.id, "it serves others still"
    both.do(both.quotas.release(user, other.id))
    clock.now += 21
    tended(both, lease, lambda: both.usage(user).tokens_held == 100)
    call.settle(100)
    both.do(lease.close())
    assert used(both, user)[0] == 100


def test_a_busy_block_stays_as_it_is(both: Both) -> None:
    user, clock = user_with(both), Clock()
    lease = lease_of(both, user, tokens=500, ttl=timedelta(seconds=60), idle_s=2.0, clock=clock)
    running = both.do(lease.reserve(10))
    clock.now += 19
    once(both, lease, 10)
    clock.now += 1.5
    both.do(lease._core.run_maintenance())
    assert [hold.tokens for hold in both.holds(user)] == [500]
    running.settle(10)
    both.do(lease.close())


def test_a_block_of_which_most_is_promised_stays_as_it_is(both: Both) -> None:
    user, clock = user_with(both), Clock()
    lease = lease_of(both, user, tokens=500, requests=0, ttl=timedelta(seconds=60), idle_s=2.0, clock=clock)
    running = both.do(lease.reserve(400))
    for _ in range(5):
        clock.now += 21
        both.do(lease._core.run_maintenance())
    assert [hold.id for hold in both.holds(user)] == [running.id]
    assert both.usage(user).tokens_held == 500
    running.settle(400)
    both.do(lease.close())
    assert used(both, user)[0] == 400


def test_a_heartbeat_that_fails_comes_again_sooner(both: Both) -> None:
    user, runner, clock = user_with(both), losing_of(both), Clock()
    lease = lease_of(both, user, runner=runner, tokens=500, ttl=timedelta(seconds=90), clock=clock)
    call = both.do(lease.reserve(10))
    runner.sent.clear()
    for error in (None, StorageFull("full")):
        # In this order, and when the script is over: the manager sees the clock too.
        runner.fail(1, error)
        clock.now += 31
        tended(both, lease, lambda: runner.sent == ["quotas.extend"] and not lease._core.busy)
        clock.now += 11
        tended(both, lease, lambda: runner.sent == ["quotas.extend"] * 2 and not lease._core.busy)
        runner.sent.clear()
    call.settle(10)
    both.do(lease.close())


def test_a_block_that_ended_under_its_calls_admits_none_and_is_corrected(both: Both, door: Door) -> None:
    user, clock = user_with(both, tokens=1000), Clock()
    lease = lease_of(both, user, tokens=400, ttl=timedelta(seconds=90), clock=clock)
    call = both.do(lease.reserve(100))
    door.expire(call.id)
    with pytest.raises(QuotaExceeded):
        both.do(both.quotas.reserve(user, tokens=700))
    clock.now += 31
    tended(both, lease, lambda: lease._core.pool.current is None)
    assert once(both, lease, 10, 1).id != call.id
    call.settle(30)
    both.do(lease.close())
    until(lambda: both.usage(user).tokens_used == 31)
    assert used(both, user)[0] == 31


def test_a_smaller_reservation_does_not_end_with_the_month(both: Both, door: Door) -> None:
    user, clock = user_with(both), Clock()
    end = door.value("SELECT clock_timestamp() + interval '20 s'")
    door.change(user.id, period_end=end)
    lease = lease_of(both, user, tokens=400, clock=clock)
    call = both.do(lease.reserve(100))
    assert both.holds(user)[0].expires_at == end
    both.do(lease.close())
    assert both.holds(user)[0].expires_at > end
    call.settle(5)
    kept_until(both, lambda: not both.holds(user))
    assert used(both, user)[0] == 5


def test_a_call_is_extended_after_its_move(both: Both) -> None:
    user = user_with(both, tokens=1000)
    lease = lease_of(both, user, tokens=400)
    call = both.do(lease.reserve(100))
    both.do(lease.close())
    both.do(lease.extend(call, tokens=50))
    assert (call.tokens, both.usage(user).tokens_held) == (150, 150)
    call.settle(149)
    kept_until(both, lambda: not both.holds(user))
    assert used(both, user)[0] == 149


def test_calls_that_promised_nothing_but_a_request_are_kept_by_one_token(both: Both) -> None:
    user = both.user(tokens=1000, requests_per_hour=50)
    lease = lease_of(both, user, tokens=400, requests=20)
    call = both.do(lease.reserve(0))
    both.do(lease.close())
    assert both.usage(user).tokens_held == 1
    assert both.usage(user).requests_last_hour == 1
    call.settle(0)
    kept_until(both, lambda: not both.holds(user))
    assert used(both, user)[0] == 0
    assert both.usage(user).requests_last_hour == 1


def test_a_lost_answer_about_a_smaller_reservation_costs_nothing(both: Both) -> None:
    user, runner = user_with(both), losing_of(both)
    lease = lease_of(both, user, runner=runner, tokens=400)
    call = both.do(lease.reserve(100))
    runner.lose(2)
    both.do(lease.close())
    kept_until(both, lambda: [hold.id for hold in both.holds(user)] == [call.id])
    assert both.usage(user).tokens_held == 400
    call.settle(30)
    kept_until(both, lambda: not both.holds(user))
    assert used(both, user)[0] == 30


# What happens while the smaller reservation is asked for.


def during(runner: Any, statement: str, act: Callable[[], object]) -> None:
    def watch(name: str) -> None:
        if name == statement:
            runner.watch = None
            act()

    runner.watch = watch


def test_a_call_that_ends_meanwhile_is_charged_once(threaded: Both) -> None:
    user, runner = user_with(threaded), losing_of(threaded)
    lease = lease_of(threaded, user, runner=runner, tokens=400)
    call = lease.reserve(100)
    during(runner, "quotas.reserve", lambda: call.settle(3))
    lease.close()
    until(lambda: not threaded.holds(user))
    assert used(threaded, user)[0] == 3


def test_a_call_that_is_extended_meanwhile_keeps_its_block(threaded: Both) -> None:
    user, runner = user_with(threaded, tokens=1000), losing_of(threaded)
    lease = lease_of(threaded, user, runner=runner, tokens=400)
    call = lease.reserve(100)
    during(runner, "quotas.reserve", lambda: lease.extend(call, tokens=50, ttl=timedelta(minutes=1)))
    lease.close()
    until(lambda: len(threaded.holds(user)) == 1)
    assert threaded.usage(user).tokens_held == 450
    call.settle(150)
    until(lambda: not threaded.holds(user))
    assert used(threaded, user)[0] == 150


def test_an_extension_that_is_on_its_way_keeps_the_block_where_it_is(threaded: Both) -> None:
    user, runner = user_with(threaded, tokens=1000), losing_of(threaded)
    lease = lease_of(threaded, user, runner=runner, tokens=400)
    call = lease.reserve(100)
    during(runner, "quotas.extend", lease.give_back)
    lease.extend(call, tokens=50, ttl=timedelta(minutes=1))
    assert [hold.tokens for hold in threaded.holds(user)] == [450]
    call.settle(150)
    lease.close()
    assert used(threaded, user)[0] == 150
