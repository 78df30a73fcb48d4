"""Leases whose database fails or does not answer. No usage is lost, free or charged twice."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from guard_adapter import QuotaClient, expire_before, until, used
from leasing import Clock, lease_of, losing_of, once, user_with

from atlas_sdk import DatabaseUnreachable
from atlas_sdk.errors import StorageFull


def test_an_answer_that_is_lost_is_asked_for_again(client: QuotaClient) -> None:
    user, runner = user_with(client), losing_of(client)
    lease = lease_of(client, user, runner=runner, tokens=1000)
    runner.lose()
    once(client, lease, 10)
    assert len(client.holds(user)) == 1
    runner.lose()
    client.do(lease.close())
    until(lambda: client.usage_of(user).tokens_held == 0)
    assert used(client, user)[0] == 10


def test_a_block_that_nobody_heard_of_is_given_back(client: QuotaClient) -> None:
    user, runner = user_with(client), losing_of(client)
    lease = lease_of(client, user, runner=runner, tokens=1000)
    runner.lose(2)
    with pytest.raises(DatabaseUnreachable):
        client.do(lease.reserve(10))
    assert lease._core.pool.current is None
    until(lambda: not client.holds(user))
    assert used(client, user)[0] == 0
    client.do(lease.close())


def test_a_block_that_expired_unheard_of_is_asked_for_anew_and_costs_nothing(client: QuotaClient, dsn: str) -> None:
    user, runner = user_with(client), losing_of(client)
    lease = lease_of(client, user, runner=runner, tokens=1000)
    runner.lose()
    expire_before(runner, dsn, "quotas.lease", 2)
    once(client, lease, 10)
    client.do(lease.close())
    # Nothing of the expired block was spent, so the late settlement corrects its charge.
    until(lambda: used(client, user)[0] == 10)
    assert client.quotas.verify().balanced


def test_a_live_block_serves_to_its_deadline_while_the_database_is_gone(client: QuotaClient) -> None:
    user, runner, clock = user_with(client), losing_of(client), Clock()
    lease = lease_of(client, user, runner=runner, tokens=1000, ttl=timedelta(seconds=100), clock=clock)
    once(client, lease, 10)
    runner.fail(1000)
    for _ in range(10):
        once(client, lease, 10)
        with pytest.raises(DatabaseUnreachable):
            client.do(lease.reserve(1001))
    clock.now += 89
    once(client, lease, 10)
    clock.now += 2
    for _ in range(3):
        with pytest.raises(DatabaseUnreachable):
            client.do(lease.reserve(10))
    runner._before.clear()
    once(client, lease, 10)
    client.do(lease.close())
    assert used(client, user)[0] == 130


@pytest.mark.parametrize("error", [DatabaseUnreachable("gone"), StorageFull("full")])
def test_a_settlement_that_fails_is_tried_again_later_and_not_for_ever(
    client: QuotaClient, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    user, runner, clock = user_with(client), losing_of(client), Clock()
    lease = lease_of(client, user, runner=runner, tokens=1000, clock=clock)
    call = once(client, lease, 77)
    runner.fail(1, error)
    with caplog.at_level(logging.WARNING, "atlas_sdk.guards"):
        client.do(lease.give_back())
    assert f"settlement of block {call.id} is kept for later" in caplog.text
    assert "77" not in caplog.text.replace(str(call.id), "")
    client.do(lease._core.run_maintenance())
    assert runner.sent.count("quotas.settle") == 1, "not at once"
    clock.now += 1
    client.do(lease._core.run_maintenance())
    assert used(client, user)[0] == 77
    call = once(client, lease, 5)
    runner.fail(1000, error)
    client.do(lease.give_back())
    runner.sent.clear()
    with caplog.at_level(logging.WARNING, "atlas_sdk.guards"):
        for _ in range(20):
            clock.now += 60
            client.do(lease._core.run_maintenance())
    assert runner.sent == ["quotas.settle"] * 9
    assert f"block {call.id} is left to its expiry" in caplog.text
    assert [hold.id for hold in client.holds(user)] == [call.id]
    runner._before.clear()
    client.do(lease.close())
