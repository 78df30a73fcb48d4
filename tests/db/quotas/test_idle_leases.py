"""Idle blocks of the same process never cause a refusal."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from guard_adapter import QuotaClient, used
from leasing import hurried, losing_of, once, user_with
from patience import PATIENCE_S
from quota_sql import QuotaSql

from atlas_sdk import InvalidInput, QuotaExceeded

LIMIT = 30_000
MANY = 60
HOURS = {"idle_s": 3600.0, "ttl": timedelta(hours=1)}


def test_a_guard_gets_what_an_idle_lease_holds(client: QuotaClient) -> None:
    user = user_with(client, tokens=LIMIT)
    with client.entered(client.quotas.lease(user, tokens=10_000, **HOURS)) as lease:
        once(client, lease, 10, 4)
        with client.guard(user, tokens=LIMIT - 4) as g:
            g.settle(tokens=6)
        once(client, lease, 10, 1)
    assert used(client, user)[0] == 11


def test_a_guard_gets_what_a_busy_lease_does_not_need(client: QuotaClient) -> None:
    user = user_with(client, tokens=LIMIT)
    with client.entered(client.quotas.lease(user, tokens=10_000, **HOURS)) as lease:
        running = client.do(lease.reserve(10))
        with client.guard(user, tokens=LIMIT - 10) as g:
            g.settle(tokens=6)
        running.settle(10)
    assert used(client, user)[0] == 16


def test_an_extension_gets_what_an_idle_lease_holds(client: QuotaClient) -> None:
    user = user_with(client, tokens=LIMIT)
    with client.entered(client.quotas.lease(user, tokens=10_000, **HOURS)) as lease:
        once(client, lease, 10, 4)
        with client.guard(user, tokens=10) as g:
            client.do(g.extend(tokens=LIMIT - 14))
            g.settle(tokens=6)
    assert used(client, user)[0] == 10


def test_requests_that_lie_idle_are_given_back_too(client: QuotaClient) -> None:
    user = client.user(requests_per_hour=40)
    with client.entered(client.quotas.lease(user, requests=20, tokens=1000, **HOURS)) as lease:
        once(client, lease, 10)
        with client.guard(user, requests=39):
            pass
    assert client.usage_of(user).requests_last_hour == 40


def test_a_lease_gets_what_another_lease_holds(client: QuotaClient) -> None:
    user = user_with(client, tokens=LIMIT)
    with (
        client.entered(client.quotas.lease(user, tokens=10_000, meta={"model": "a"}, **HOURS)) as idle,
        client.entered(client.quotas.lease(user, tokens=10_000, meta={"model": "b"}, **HOURS)) as lease,
    ):
        once(client, idle, 10, 4)
        assert once(client, lease, LIMIT - 4, 0).tokens == LIMIT - 4
    assert used(client, user)[0] == 4


def test_calls_of_another_kind_get_what_a_hot_kind_left(client: QuotaClient) -> None:
    user = user_with(client, tokens=LIMIT)
    hurried(client)
    for _ in range(MANY):
        with client.guard(user, tokens=100, lease=True, meta={"model": "hot"}) as g:
            g.settle(tokens=1)
    assert client.usage_of(user).tokens_held > 1000
    spent = MANY
    for lease in (True, False):
        with client.guard(user, tokens=LIMIT - spent, lease=lease, meta={"leased": lease}) as g:
            g.settle(tokens=1)
        spent += 1
    assert used(client, user)[0] == spent


def test_what_is_refused_for_good_is_refused_after_one_more_question(client: QuotaClient) -> None:
    user = user_with(client, tokens=LIMIT)
    with client.entered(client.quotas.lease(user, tokens=10_000, **HOURS)) as lease:
        once(client, lease, 10, 4)
        runner = losing_of(client)
        client.quotas._backend._runner = runner
        with pytest.raises(QuotaExceeded), client.guard(user, tokens=LIMIT):
            pytest.fail("it was entered")
        assert runner.sent == ["quotas.reserve"], "no lease of that client"


def test_a_refusal_leaves_other_users_and_other_limits_alone(client: QuotaClient) -> None:
    user, other = user_with(client, tokens=LIMIT, containers=0), user_with(client, tokens=LIMIT)
    with (
        client.entered(client.quotas.lease(user, tokens=10_000, **HOURS)) as mine,
        client.entered(client.quotas.lease(other, tokens=10_000, **HOURS)) as theirs,
    ):
        once(client, mine, 10)
        once(client, theirs, 10)
        with pytest.raises(QuotaExceeded), client.guard(user, slots=1):
            pytest.fail("it was entered")
        assert client.usage_of(user).tokens_held == 10_000
        with pytest.raises(QuotaExceeded), client.guard(user, tokens=LIMIT + 1):
            pytest.fail("it was entered")
        assert (client.usage_of(user).tokens_held, client.usage_of(other).tokens_held) == (0, 10_000)


def test_leases_that_ask_each_other_at_the_same_time_do_not_wait_for_each_other(dsn: str, quota_sql: QuotaSql) -> None:
    client = QuotaClient("blocking", dsn)
    user = user_with(client, tokens=LIMIT)
    leases = [client.quotas.lease(user, tokens=2000, meta={"n": n}, **HOURS) for n in range(4)]
    begin = threading.Barrier(4, timeout=PATIENCE_S)

    def spend(number: int) -> int:
        begin.wait()
        spent = 0
        while True:
            try:
                once(client, leases[number], 700, 600)
            except QuotaExceeded:
                return spent
            spent += 600

    with ThreadPoolExecutor(4) as threads:
        spent = sum(future.result(PATIENCE_S) for future in [threads.submit(spend, n) for n in range(4)])
    for lease in leases:
        lease.close()
    assert used(client, user)[0] == spent
    assert spent > LIMIT - 4 * 700
    client.close()


# Requests of guards from leases.


def test_calls_that_count_no_request_reserve_none_when_hot(client: QuotaClient) -> None:
    user = client.user(tokens=LIMIT, requests_per_hour=5)
    hurried(client)
    for _ in range(MANY):
        with client.guard(user, tokens=10, requests=0, lease=True) as g:
            g.settle(tokens=1)
        assert all(hold.requests == 0 for hold in client.holds(user))
    with client.guard(user, tokens=1, requests=5) as g:
        g.settle(tokens=1)
    assert client.usage_of(user).requests_last_hour == 5


def test_calls_that_count_several_requests_are_counted_when_hot(client: QuotaClient) -> None:
    user = client.user(tokens=LIMIT, requests_per_hour=10**6)
    hurried(client)
    for _ in range(MANY):
        with client.guard(user, tokens=10, requests=3, lease=True) as g:
            g.settle(tokens=1)
        with client.guard(user, tokens=10, requests=0, lease=True) as g:
            g.settle(tokens=1)
    client.quotas.close()
    assert client.usage_of(user).requests_last_hour == 3 * MANY


@pytest.mark.parametrize(
    ("field", "ask"),
    [("ttl", {"ttl": 60}), ("ttl", {"ttl": None}), ("meta", {"meta": [1]}), ("tokens", {"tokens": "x"})],
)
def test_what_is_of_a_wrong_type_is_named(client: QuotaClient, field: str, ask: dict[str, object]) -> None:
    user = user_with(client)
    for lease in (True, False):
        with pytest.raises(InvalidInput) as refused, client.guard(user, **{"tokens": 1, "lease": lease, **ask}):
            pytest.fail("it was entered")
        assert refused.value.field == field
