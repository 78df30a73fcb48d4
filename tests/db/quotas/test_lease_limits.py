"""Leases learn that a limit was lowered, or that their user was deleted, within LOOK_S seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from guard_adapter import QuotaClient
from leasing import Clock, lease_of, once
from test_lease_long_calls import tended

from atlas_sdk import NotFound, QuotaExceeded
from atlas_sdk.guards.block_requests import LOOK_S

LIMITS: dict[str, Any] = {"tokens": 1000, "cost": 10, "requests_per_hour": 100}


def opened(client: QuotaClient, clock: Clock, **limits: Any) -> tuple[Any, Any]:
    user = client.user(**{**LIMITS, **limits})
    lease = lease_of(client, user, tokens=400, cost=1, requests=40, ttl=timedelta(hours=1), clock=clock)
    once(client, lease, 10, cost_nano=1)
    return user, lease


@pytest.mark.parametrize("lowered", [{"tokens": 0}, {"cost": 0}, {"requests_per_hour": 0}, {"tokens": 399}])
def test_a_lowered_limit_ends_the_block_at_the_next_look(client: QuotaClient, lowered: dict[str, Any]) -> None:
    clock = Clock()
    user, lease = opened(client, clock)
    client.quotas.set_limits(user, **lowered)
    clock.now += LOOK_S - 1
    client.do(lease._core.run_maintenance())
    # Until the next look, calls are admitted from the block.
    once(client, lease, 10, cost_nano=1)
    clock.now += 1
    tended(client, lease, lambda: client.usage_of(user).tokens_held == 0)
    if lowered == {"tokens": 399}:
        once(client, lease, 10, cost_nano=1)
        assert client.usage_of(user).tokens_held < 400
        return
    with pytest.raises(QuotaExceeded) as refused:
        client.do(lease.reserve(10, cost_nano=1))
    assert refused.value.dimension == next(iter(lowered)).removesuffix("_per_hour")
    assert client.usage_of(user).tokens_used == 20


def test_running_calls_keep_their_part_under_a_lowered_limit(client: QuotaClient) -> None:
    clock = Clock()
    user, lease = opened(client, clock)
    running = client.do(lease.reserve(100))
    client.quotas.set_limits(user, tokens=0)
    clock.now += LOOK_S
    tended(client, lease, lambda: lease._core.pool.current is None)
    with pytest.raises(QuotaExceeded):
        client.do(lease.reserve(10))
    running.settle(90)
    tended(client, lease, lambda: client.usage_of(user).tokens_held == 0)
    assert client.usage_of(user).tokens_used == 100


def test_a_block_within_the_limits_is_spent_on(client: QuotaClient) -> None:
    clock = Clock()
    user, lease = opened(client, clock)
    (block,) = client.holds(user)
    client.quotas.set_limits(user, tokens=400, cost=1, requests_per_hour=40)
    for _ in range(3):
        clock.now += LOOK_S
        client.do(lease._core.run_maintenance())
        once(client, lease, 10)
    # A look leaves the expiry as it is.
    assert [(hold.id, hold.expires_at) for hold in client.holds(user)] == [(block.id, block.expires_at)]


def test_a_deleted_user_ends_the_lease_at_the_next_look(client: QuotaClient) -> None:
    clock = Clock()
    user, lease = opened(client, clock)
    client.users.delete(user)
    once(client, lease, 10)
    clock.now += LOOK_S
    tended(client, lease, lambda: lease._core.pool.current is None)
    with pytest.raises(NotFound):
        client.do(lease.reserve(10))
