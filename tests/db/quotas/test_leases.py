"""Leases, through both clients: a process spends a block by itself, and is charged the real usage."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from guard_adapter import QuotaClient, until, used
from leasing import Clock, lease_of, once, user_with
from quota_sql import QuotaSql

from atlas_sdk import InvalidInput, NotFound
from atlas_sdk.errors import DatabaseUnreachable, QuotaExceeded


def test_an_unlimited_user_gets_whole_blocks(client: QuotaClient) -> None:
    user = client.user()
    with client.entered(lease_of(client, user, tokens=1000, cost=1, requests=50)) as lease:
        block = once(client, lease, 10)._block
        assert (block.tokens, block.nano, block.requests) == (1000, 10**9, 50)


def test_a_block_is_held_while_calls_spend_it_and_charged_as_they_used_it(client: QuotaClient) -> None:
    user = user_with(client, tokens=10_000, cost=5, requests_per_hour=100)
    lease = lease_of(client, user, tokens=1000, cost="0.5", requests=10, meta={"model": "m"}, holder="worker 7")
    with client.entered(lease):
        for _ in range(3):
            call = client.do(lease.reserve(100, cost="0.01"))
            assert (call.tokens, call.cost) == (100, Decimal("0.01"))
            call.settle(40, cost="0.004")
        usage = client.usage_of(user)
        assert (usage.tokens_used, usage.tokens_held, usage.cost_held) == (0, 1000, Decimal("0.5"))
        (hold,) = client.holds(user)
        assert (hold.id, hold.holder, hold.meta) == (call.id, "worker 7", {"model": "m"})
    assert used(client, user) == (120, Decimal("0.012"))
    assert client.usage_of(user).requests_last_hour == 3


def test_a_call_that_says_nothing_is_charged_what_it_was_promised(client: QuotaClient) -> None:
    user = user_with(client)
    with client.entered(lease_of(client, user, tokens=1000, cost=1)) as lease:
        client.do(lease.reserve(100, cost="0.25")).settle()
        client.do(lease.reserve(100, cost="0.25")).release()
        twice = client.do(lease.reserve(100))
        twice.settle(7)
        twice.settle(9)
        twice.release()
    assert used(client, user) == (107, Decimal("0.25"))
    assert client.usage_of(user).requests_last_hour == 3, "a release counts as an attempt"


def test_a_call_that_uses_more_than_promised_is_charged_and_marked(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user = user_with(client, tokens=100)
    with client.entered(lease_of(client, user, tokens=50)) as lease:
        client.do(lease.reserve(50)).settle(120)
    assert used(client, user)[0] == 120
    assert quota_sql.value("SELECT meta ? 'overrun' FROM usage_ledger WHERE user_id = %s", user.id)


def test_a_block_that_is_too_small_is_replaced_and_settled_when_its_last_call_ends(client: QuotaClient) -> None:
    user = user_with(client)
    with client.entered(lease_of(client, user, tokens=100)) as lease:
        first = client.do(lease.reserve(60))
        second = client.do(lease.reserve(60))
        assert first.id != second.id
        assert len(client.holds(user)) == 2
        first.settle(10)
        until(lambda: [hold.id for hold in client.holds(user)] == [second.id])
        assert client.usage_of(user).tokens_used == 10
        second.settle(20)
        big = client.do(lease.reserve(1000))
        assert big.tokens == 1000, "a call may be larger than a block"
        big.settle(1)
    assert used(client, user)[0] == 31


def test_the_last_token_of_a_limit_can_be_spent(client: QuotaClient) -> None:
    user = user_with(client, tokens=1000)
    with client.entered(lease_of(client, user, tokens=300)) as lease:
        spent = 0
        with pytest.raises(QuotaExceeded) as refused:
            while True:
                once(client, lease, 30, 9)
                spent += 9
        assert refused.value.dimension == "tokens"
        assert refused.value.asked == 30
        assert refused.value.remaining == 1000 - spent < 30
        assert once(client, lease, 30, min_tokens=1).tokens == 1000 - spent
    assert used(client, user)[0] == 1000


def test_what_lies_idle_here_is_given_back_before_a_call_is_refused(client: QuotaClient) -> None:
    user = user_with(client, tokens=1000)
    with client.entered(lease_of(client, user, tokens=500)) as lease:
        once(client, lease, 100)
        assert client.usage_of(user).tokens_held == 500
        assert once(client, lease, 900).tokens == 900
    assert used(client, user)[0] == 1000


def test_a_call_is_refused_only_for_what_calls_need(client: QuotaClient) -> None:
    user = user_with(client, tokens=1000)
    with client.entered(lease_of(client, user, tokens=500)) as lease:
        running = client.do(lease.reserve(100))
        with pytest.raises(QuotaExceeded) as refused:
            client.do(lease.reserve(901))
        assert refused.value.remaining == 900
        once(client, lease, 900, 400)
        elastic = client.do(lease.reserve(600, min_tokens=500))
        assert elastic.tokens == 1000 - 400 - 100 == 500
        elastic.settle(0)
        running.settle(100)
    assert used(client, user)[0] == 500


def test_a_block_that_calls_still_use_stays_when_there_is_no_room_beside_it(client: QuotaClient) -> None:
    user = user_with(client, tokens=1000)
    with client.entered(lease_of(client, user, tokens=500)) as lease:
        running = client.do(lease.reserve(100))
        client.quotas.reserve(user, tokens=450)
        with pytest.raises(QuotaExceeded):
            client.do(lease.reserve(401))
        assert once(client, lease, 400).id == running.id
        running.settle(100)


def test_a_call_is_not_refused_for_what_it_does_not_ask_for(client: QuotaClient) -> None:
    user = user_with(client, tokens=100, cost=1, requests_per_hour=50)
    with client.entered(lease_of(client, user, tokens=100, cost=1, requests=10)) as lease:
        once(client, lease, 100)
        client.do(lease.reserve(0, cost="0.5")).settle(0, cost="0.5")
        for _ in range(48):
            once(client, lease, 0, 0, cost_nano=1)
        with pytest.raises(QuotaExceeded) as refused:
            client.do(lease.reserve(0, cost="0.1"))
        assert refused.value.dimension == "requests"
        client.do(lease.reserve(0, cost="0.49", requests=0)).settle(0, cost="0.49")
    assert used(client, user) == (100, Decimal("0.990000048"))


def test_requests_of_the_hour_hold(client: QuotaClient) -> None:
    user = user_with(client, requests_per_hour=17)
    with client.entered(lease_of(client, user, tokens=10_000, requests=5)) as lease:
        for _ in range(17):
            once(client, lease, 1)
        with pytest.raises(QuotaExceeded) as refused:
            once(client, lease, 1)
        assert (refused.value.dimension, refused.value.http_status) == ("requests", 429)
    assert client.usage_of(user).requests_last_hour == 17


def test_no_call_is_admitted_from_a_block_past_its_deadline(client: QuotaClient) -> None:
    user, clock = user_with(client), Clock()
    with client.entered(lease_of(client, user, tokens=1000, ttl=timedelta(seconds=100), clock=clock)) as lease:
        first = once(client, lease, 10)
        clock.now += 89
        assert once(client, lease, 10).id == first.id
        clock.now += 2
        assert once(client, lease, 10).id != first.id
    assert used(client, user)[0] == 30


def test_the_deadline_counts_from_before_the_request_and_ends_with_the_period(
    client: QuotaClient, quota_sql: QuotaSql
) -> None:
    user = user_with(client)

    class Slow:
        """A runner for which every statement takes a time by a clock of its own."""

        def __init__(self, seconds: float) -> None:
            self._seconds, self.clock = seconds, Clock()

        def run(self, plan: Any) -> Any:
            self.clock.now += self._seconds
            return client.quotas._runner.run(plan)

    slow = Slow(30)
    lease = lease_of(client, user, runner=slow, tokens=1000, ttl=timedelta(seconds=100), clock=slow.clock)
    first = client.do(lease.reserve(10))
    # The first statement reads the id, and the second one requests the block. The deadline counts from before that.
    assert first._block.deadline == pytest.approx(1000.0 + 30 + 90, abs=1)
    client.do(lease.close())
    first.settle(1)
    end = quota_sql.value("SELECT clock_timestamp() + interval '20 minutes'")
    assert isinstance(end, datetime)
    quota_sql.change(user.id, period_end=end)
    day, clock = timedelta(hours=24), Clock()
    with client.entered(lease_of(client, user, tokens=1000, ttl=day, clock=clock)) as other:
        call = client.do(other.reserve(10))
        assert 0 < call._block.deadline - clock.now <= 18 * 60
        call.settle(1)
    slow = Slow(1800)
    with pytest.raises(DatabaseUnreachable, match="over when it arrives"):
        client.do(lease_of(client, user, runner=slow, tokens=1000, ttl=day, clock=slow.clock).reserve(1))


def test_calls_that_outlive_their_block_correct_what_its_expiry_charged(
    client: QuotaClient, quota_sql: QuotaSql
) -> None:
    user = user_with(client, tokens=1000)
    with client.entered(lease_of(client, user, tokens=400)) as lease:
        first, second = client.do(lease.reserve(100)), client.do(lease.reserve(100))
        quota_sql.expire(first.id)
        with pytest.raises(QuotaExceeded):
            client.quotas.reserve(user, tokens=700)
        assert client.usage_of(user).tokens_used == 400, "an expired block is charged in full"
        lease._core.pool.retire()
        first.settle(30)
        assert client.usage_of(user).tokens_used == 400
        second.settle(40)
        until(lambda: client.usage_of(user).tokens_used == 70)
    assert sorted(quota_sql.ledger(user.id)) == [("expired", 400, 0), ("tokens", -330, 0)]
    assert used(client, user)[0] == 70


def test_an_idle_block_is_given_back(client: QuotaClient) -> None:
    user = user_with(client)
    lease = lease_of(client, user, tokens=1000, idle_s=0.05)
    running = client.do(lease.reserve(10))
    once(client, lease, 10)
    assert client.usage_of(user).tokens_held == 1000, "a call runs, and no heartbeat of it is due"
    running.settle(5)
    until(lambda: client.usage_of(user).tokens_held == 0)
    assert used(client, user)[0] == 15
    once(client, lease, 10)
    until(lambda: client.usage_of(user).tokens_used == 25)


def test_a_closed_lease_admits_nothing_and_settles_what_still_runs(client: QuotaClient) -> None:
    user = user_with(client)
    lease = lease_of(client, user, tokens=1000)
    running = client.do(lease.reserve(10))
    client.do(lease.close())
    client.do(lease.close())
    with pytest.raises(InvalidInput, match="closed"):
        client.do(lease.reserve(10))
    assert client.usage_of(user).tokens_held == 10, "what the call was promised"
    running.settle(4)
    until(lambda: client.usage_of(user).tokens_held == 0)
    assert used(client, user)[0] == 4


def test_at_the_end_of_a_client_calls_that_run_are_charged_what_they_were_promised(client: QuotaClient) -> None:
    user = user_with(client)
    lease = lease_of(client, user, tokens=1000)
    once(client, lease, 10)
    running = client.do(lease.reserve(100))
    client.do(lease._core.end())
    assert used(client, user)[0] == 110
    running.settle(4)
    client.do(lease.close())
    assert used(client, user)[0] == 110
    with pytest.raises(NotFound):
        client.do(lease.extend(running, tokens=5))


def test_a_call_is_extended_from_its_block_or_from_the_database(client: QuotaClient) -> None:
    user = user_with(client, tokens=1000)
    with client.entered(lease_of(client, user, tokens=400, cost=1)) as lease:
        call = client.do(lease.reserve(100))
        client.do(lease.extend(call, tokens=250, cost="0.5"))
        assert (call.tokens, call.cost) == (350, Decimal("0.5"))
        assert client.usage_of(user).tokens_held == 400
        client.do(lease.extend(call, tokens=300))
        assert client.usage_of(user).tokens_held == 700
        assert once(client, lease, 50).id == call.id, "what the block had left is still there"
        with pytest.raises(QuotaExceeded):
            client.do(lease.extend(call, tokens=301))
        assert call.tokens == 650
        call.settle(649)
    assert used(client, user)[0] == 699


def test_a_guard_of_a_lease_is_used_as_any_guard(client: QuotaClient) -> None:
    user = user_with(client, tokens=1000)
    with client.entered(lease_of(client, user, tokens=400)) as lease:
        with client.entered(lease.guard(tokens=100, min_tokens=10)) as g:
            assert g.tokens == 100
            client.do(g.extend(tokens=50))
            assert g.tokens == 150
            g.settle(tokens=120)
        assert (g.settlement.outcome, g.settlement.tokens, g.settlement.overrun) == ("settled", 120, False)
        with client.entered(lease.guard(tokens=100)) as g:
            g.release()
        assert g.settlement.outcome == "released"
        with client.entered(lease.guard(tokens=100)) as g:
            g.progress(tokens=30)
        assert len(client.holds(user)) == 1
        with pytest.raises(InvalidInput, match="slots"):
            lease.guard(tokens=1, slots=1)
    assert used(client, user)[0] == 150


@pytest.mark.parametrize(
    ("field", "size"),
    [
        ("tokens", {"tokens": -1}),
        ("tokens", {"requests": 0}),
        ("cost", {"cost": 0.1}),
        ("requests", {"requests": 10**6 + 1}),
        ("ttl", {"tokens": 1, "ttl": timedelta(milliseconds=999)}),
        ("ttl", {"tokens": 1, "ttl": timedelta(hours=25)}),
        ("idle_s", {"tokens": 1, "idle_s": 0.0}),
        ("idle_s", {"tokens": 1, "idle_s": math.nan}),
    ],
)
def test_a_bad_size_is_named(client: QuotaClient, field: str, size: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        lease_of(client, user_with(client), **size)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("tokens", {"tokens": -1}),
        ("tokens", {"tokens": True}),
        ("tokens", {"tokens": 10**12 + 1}),
        ("tokens", {"tokens": 0, "requests": 0}),
        ("min_tokens", {"tokens": 5, "min_tokens": 6}),
        ("cost", {"cost": Decimal("NaN")}),
        ("cost", {"tokens": 1, "cost": "0.1"}),
        ("cost_nano", {"tokens": 1, "cost_nano": -1}),
        ("requests", {"tokens": 1, "requests": -1}),
    ],
)
def test_a_bad_ask_is_named_and_takes_nothing(client: QuotaClient, field: str, ask: dict[str, Any]) -> None:
    user = user_with(client)
    with client.entered(lease_of(client, user, tokens=100)) as lease:
        once(client, lease, 10)
        with pytest.raises(InvalidInput) as refused:
            client.do(lease.reserve(**ask))
        assert refused.value.field == field
        call = client.do(lease.reserve(10))
        for bad in (-1, 10**12 + 1, True, 1.5):
            with pytest.raises(InvalidInput):
                call.settle(bad)
        call.settle(10)
    assert used(client, user)[0] == 20
