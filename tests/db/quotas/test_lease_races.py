"""Leases that many callers share, also while the database fails. One caller requests blocks, and none overspends."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from guard_adapter import QuotaClient, locked_row, until, used, waiting
from leasing import lease_of, losing_of, once, user_with
from patience import PATIENCE_S
from quota_sql import QuotaSql

from atlas_sdk import AsyncAtlas, Atlas, DatabaseUnreachable, User
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.guards.async_lease import AsyncLease
from atlas_sdk.guards.lease import Lease

LIMIT = 20_000


def watch(dsn: str, user: User, over: threading.Event) -> int:
    """Return the highest sum of used and held tokens that was seen."""
    watcher, peak = QuotaSql(dsn), 0
    while not over.is_set():
        quota = watcher.quota(user.id)
        peak = max(peak, quota.tokens_used + quota.tokens_held)
    watcher.connection.close()
    return peak


def spend(lease: Lease, seed: int) -> int:
    """Spend until nothing is left; return the spent tokens."""
    dice, spent = random.Random(seed), 0
    running: list[Any] = []
    while True:
        try:
            call = lease.reserve(dice.randint(1, 200), min_tokens=1)
        except QuotaExceeded:
            if not running:
                return spent
        else:
            running.append(call)
        while running and (len(running) > 5 or dice.random() < 0.4):
            ending = running.pop(dice.randrange(len(running)))
            used_tokens = dice.choice([0, ending.tokens, dice.randint(0, ending.tokens)])
            ending.settle(used_tokens)
            spent += used_tokens


def test_threads_that_share_leases_never_exceed_a_limit_and_spend_all_of_it(
    dsn: str, blocking_client: QuotaClient
) -> None:
    user = user_with(blocking_client, tokens=LIMIT)
    over = threading.Event()
    with Atlas.open(dsn) as second, ThreadPoolExecutor(9) as threads:
        watching = threads.submit(watch, dsn, user, over)
        leases = [
            Lease(client.quotas._runner, user, tokens=1500, idle_s=0.05, holder=f"client {number}")
            for number, client in enumerate((blocking_client.atlas, second))
        ]
        spenders = [threads.submit(spend, leases[seed % 2], seed) for seed in range(8)]
        spent = sum(spender.result() for spender in spenders)
        for lease in leases:
            lease.close()
        over.set()
        assert watching.result() <= LIMIT
    assert used(blocking_client, user)[0] == spent
    assert spent > 0.9 * LIMIT


def test_tasks_that_share_a_lease_never_exceed_a_limit(dsn: str, blocking_client: QuotaClient) -> None:
    user = user_with(blocking_client, tokens=LIMIT)

    async def spend_some(lease: AsyncLease, seed: int) -> int:
        dice, spent = random.Random(seed), 0
        while True:
            try:
                call = await lease.reserve(dice.randint(1, 100), min_tokens=1)
            except QuotaExceeded:
                return spent
            await asyncio.sleep(0)
            used_tokens = dice.randint(0, call.tokens)
            call.settle(used_tokens)
            spent += used_tokens

    async def main() -> int:
        async with (
            AsyncAtlas.open(dsn) as atlas,
            AsyncLease(atlas.quotas._runner, user, tokens=1500, idle_s=0.05) as lease,
        ):
            return sum(await asyncio.gather(*(spend_some(lease, seed) for seed in range(40))))

    over = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch, dsn, user, over)
        spent = asyncio.run(main())
        over.set()
        assert watching.result() <= LIMIT
    assert used(blocking_client, user)[0] == spent


def together(dsn: str, user: User, lease: Lease, asks: list[int]) -> list[Any]:
    """Let threads reserve at the same time, the first one first; return the call or the error of each."""

    def ask(tokens: int) -> Any:
        try:
            return lease.reserve(tokens)
        except (QuotaExceeded, DatabaseUnreachable) as problem:
            return problem

    with ThreadPoolExecutor(len(asks)) as threads:
        with locked_row(dsn, user):
            asked = [threads.submit(ask, asks[0])]
            until(lambda: len(waiting(dsn)) == 1)
            asked += [threads.submit(ask, tokens) for tokens in asks[1:]]
            until(lambda: len(lease._core.changed._waiters) == len(asks) - 1)  # type: ignore[attr-defined]
        return [each.result(PATIENCE_S) for each in asked]


def test_one_thread_asks_and_the_others_wait(dsn: str, blocking_client: QuotaClient) -> None:
    user = user_with(blocking_client)
    runner = losing_of(blocking_client)
    with lease_of(blocking_client, user, runner=runner, tokens=1000) as lease:
        calls = together(dsn, user, lease, [10] * 20)
        assert runner.sent == ["quotas.lease"]
        assert {call.id for call in calls} == {calls[0].id}
        for call in calls:
            call.settle()
    assert used(blocking_client, user)[0] == 200


def test_those_who_wait_share_a_refusal_but_who_wants_less_does_not(dsn: str, blocking_client: QuotaClient) -> None:
    user = user_with(blocking_client, tokens=15)
    runner = losing_of(blocking_client)
    with lease_of(blocking_client, user, runner=runner, tokens=1000) as lease:
        told = together(dsn, user, lease, [20] * 9)
        # There is one request for the first caller, and one for all who came during it. Its answer may be too old for
        # them.
        assert runner.sent == ["quotas.lease"] * 2
        assert all(isinstance(each, QuotaExceeded) for each in told)
        assert {(each.asked, each.remaining, each.limit, each.retry_after) for each in told} == {(20, 15, 15, None)}
        told = together(dsn, user, lease, [30, 20, 10, 40, 15, 20])
        assert sum(isinstance(each, QuotaExceeded) for each in told) >= 4
        assert not isinstance(told[2], QuotaExceeded) or not isinstance(told[4], QuotaExceeded)
        for each in told:
            if isinstance(each, QuotaExceeded):
                assert each.asked in {15, 20, 30, 40, 10}
            else:
                each.release()


def test_those_who_wait_share_the_news_that_the_database_is_gone(blocking_client: QuotaClient) -> None:
    user, runner, gate = user_with(blocking_client), losing_of(blocking_client), threading.Event()
    runner.watch = lambda _: gate.wait(PATIENCE_S)
    runner.fail(1000)
    lease = lease_of(blocking_client, user, runner=runner, tokens=1000)

    def problem() -> Exception | None:
        try:
            lease.reserve(10)
        except DatabaseUnreachable as gone:
            return gone
        return None

    with ThreadPoolExecutor(9) as threads:
        asked = [threads.submit(problem) for _ in range(9)]
        until(lambda: len(lease._core.changed._waiters) == 8)
        gate.set()
        assert all(each.result(PATIENCE_S) for each in asked)
    # There are two tries for the first caller, and two for all who came during these.
    assert runner.sent.count("quotas.lease") == 4
    runner._before.clear()
    once(blocking_client, lease, 10)
    lease.close()
    assert used(blocking_client, user)[0] == 10


def test_tasks_that_ask_at_once_ask_once(asyncio_client: QuotaClient) -> None:
    user = user_with(asyncio_client, tokens=500)
    runner = losing_of(asyncio_client)
    lease = lease_of(asyncio_client, user, runner=runner, tokens=200)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(lease.reserve(10) for _ in range(20)))

    calls = asyncio_client.do(ask())
    assert runner.sent == ["quotas.lease"]
    for call in calls:
        call.settle()

    async def ask_too_much() -> list[Any]:
        return await asyncio.gather(*(lease.reserve(501) for _ in range(20)), return_exceptions=True)

    told = asyncio_client.do(ask_too_much())
    assert all(isinstance(each, QuotaExceeded) for each in told)
    # The lease settles the spent block in vain, and asks once for the first caller and once for all others.
    assert runner.sent.count("quotas.lease") <= 4
    asyncio_client.do(lease.close())
    assert used(asyncio_client, user)[0] == 200


def test_a_refusal_is_not_remembered(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user = user_with(client, tokens=5)
    with client.entered(lease_of(client, user, tokens=100)) as lease:
        with pytest.raises(QuotaExceeded):
            client.do(lease.reserve(10))
        quota_sql.change(user.id, tokens_limit=10)
        once(client, lease, 10)
    assert used(client, user)[0] == 10


def test_a_task_that_is_cancelled_while_it_asks_leaves_the_block_to_others(
    dsn: str, asyncio_client: QuotaClient
) -> None:
    user = user_with(asyncio_client)
    lease = lease_of(asyncio_client, user, tokens=1000)

    async def main() -> Any:
        with locked_row(dsn, user):
            first, second = asyncio.create_task(lease.reserve(700)), asyncio.create_task(lease.reserve(600))
            while not await asyncio.to_thread(waiting, dsn):
                pass
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        return await second

    call = asyncio_client.do(main())
    assert [hold.id for hold in asyncio_client.holds(user)] == [call.id]
    assert once(asyncio_client, lease, 400).id == call.id
    call.settle()
    asyncio_client.do(lease.close())
    assert used(asyncio_client, user)[0] == 1000


def test_a_finalizer_may_settle_while_its_thread_is_in_the_lease(blocking_client: QuotaClient) -> None:
    user = user_with(blocking_client)

    class Abandoned:
        def __init__(self) -> None:
            self.circle = self

        def __del__(self) -> None:
            call.settle(3)

    with lease_of(blocking_client, user, tokens=1000) as lease:
        call = lease.reserve(10)
        with lease._core.lock:
            Abandoned()
            gc.collect()
        once(blocking_client, lease, 997)
    assert used(blocking_client, user)[0] == 1000


def test_a_call_that_is_dropped_is_charged_what_it_was_promised(client: QuotaClient) -> None:
    user = user_with(client)
    lease = lease_of(client, user, tokens=1000)
    call = client.do(lease.reserve(10))
    client.do(lease.give_back())
    assert client.usage_of(user).tokens_held == 10
    del call
    until(lambda: client.usage_of(user).tokens_held == 0)
    assert used(client, user)[0] == 10
