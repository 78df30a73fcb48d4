"""Leases whose database fails or does not answer: nothing is lost, nothing is free, nothing is charged twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from guard_adapter import Both, expire_before, until, used
from leasing import Clock, lease_of, losing_of, once, user_with

from atlas_sdk import DatabaseUnreachable
from atlas_sdk.errors import StorageFull


@pytest.fixture(params=["blocking", "asyncio"])
def both(request: pytest.FixtureRequest, dsn: str) -> Iterator[Both]:
    client = Both(request.param, dsn)
    yield client
    client.close()


def test_an_answer_that_is_lost_is_asked_for_again(both: Both) -> None:
    user, runner = user_with(both), losing_of(both)
    lease = lease_of(both, user, runner=runner, tokens=1000)
    runner.lose()
    once(both, lease, 10)
    assert len(both.holds(user)) == 1
    runner.lose()
    both.do(lease.close())
    until(lambda: both.usage(user).tokens_held == 0)
    assert used(both, user)[0] == 10


def test_a_block_that_nobody_heard_of_is_given_back(both: Both) -> None:
    user, runner = user_with(both), losing_of(both)
    lease = lease_of(both, user, runner=runner, tokens=1000)
    runner.lose(2)
    with pytest.raises(DatabaseUnreachable):
        both.do(lease.reserve(10))
    assert lease._core.pool.current is None
    until(lambda: not both.holds(user))
    assert used(both, user)[0] == 0
    both.do(lease.close())


def test_a_block_that_expired_unheard_of_is_asked_for_anew_and_costs_nothing(both: Both, dsn: str) -> None:
    user, runner = user_with(both), losing_of(both)
    lease = lease_of(both, user, runner=runner, tokens=1000)
    runner.lose()
    expire_before(runner, dsn, "quotas.lease", 2)
    once(both, lease, 10)
    both.do(lease.close())
    # Nothing was spent of it, which the late settlement tells.
    until(lambda: used(both, user)[0] == 10)
    assert both.do(both.quotas.verify()).balanced


def test_a_live_block_serves_to_its_deadline_while_the_database_is_gone(both: Both) -> None:
    user, runner, clock = user_with(both), losing_of(both), Clock()
    lease = lease_of(both, user, runner=runner, tokens=1000, ttl=timedelta(seconds=100), clock=clock)
    once(both, lease, 10)
    runner.fail(1000)
    for _ in range(10):
        once(both, lease, 10)
        with pytest.raises(DatabaseUnreachable):
            both.do(lease.reserve(1001))
    clock.now += 89
    once(both, lease, 10)
    clock.now += 2
    for _ in range(3):
        with pytest.raises(DatabaseUnreachable):
            both.do(lease.reserve(10))
    runner._before.clear()
    once(both, lease, 10)
    both.do(lease.close())
    assert used(both, user)[0] == 130


@pytest.mark.parametrize("error", [DatabaseUnreachable("gone"), StorageFull("full")])
def test_a_settlement_that_fails_is_tried_again_later_and_not_for_ever(
    both: Both, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    user, runner, clock = user_with(both), losing_of(both), Clock()
    lease = lease_of(both, user, runner=runner, tokens=1000, clock=clock)
    call = once(both, lease, 77)
    runner.fail(1, error)
    with caplog.at_level(logging.WARNING, "atlas_sdk.guards"):
        both.do(lease.give_back())
    assert f"settlement of block {call.id} is kept for later" in caplog.text
    assert "77" not in caplog.text.replace(str(call.id), "")
    both.do(lease._core.run_maintenance())
    assert runner.sent.count("quotas.settle") == 1, "not at once"
    clock.now += 1
    both.do(lease._core.run_maintenance())
    assert used(both, user)[0] == 77
    call = once(both, lease, 5)
    runner.fail(1000, error)
    both.do(lease.give_back())
    runner.sent.clear()
    with caplog.at_level(logging.WARNING, "atlas_sdk.guards"):
        for _ in range(20):
            clock.now += 60
            both.do(lease._core.run_maintenance())
    assert runner.sent == ["quotas.settle"] * 9
    assert f"block {call.id} is left to its expiry" in caplog.text
    assert [hold.id for hold in both.holds(user)] == [call.id]
    runner._before.clear()
    both.do(lease.close())
