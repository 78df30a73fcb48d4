"""Guards from leases. While calls are few or the limit is near, each has its own block; otherwise blocks are larger."""

from __future__ import annotations

import asyncio
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from guard_adapter import QuotaClient, until, used
from leasing import Clock, hurried, losing_of, user_with
from quota_sql import QuotaSql

from atlas_sdk import AsyncAtlas, Atlas
from atlas_sdk.errors import InvalidInput, QuotaExceeded
from atlas_sdk.guards.client_leases import KINDS_MAX, ClientLeases
from atlas_sdk.guards.lease_call import LeaseCall
from atlas_sdk.guards.lease_manager import async_lease_manager, lease_manager

LIMIT = 30_000
MANY = 60


def watched(client: QuotaClient) -> Any:
    """Return a runner that records the statements that the guards of this client send."""
    runner = losing_of(client)
    leases = client.quotas._leases
    leases._make = partial(leases._make.func, runner, **leases._make.keywords)
    client.quotas._backend._runner = client.quotas._lease_runner = runner
    return runner


def guarded(client: QuotaClient, user: Any, tokens: int = 10, used_tokens: int = 4, **ask: Any) -> Any:
    with client.guard(user, tokens=tokens, lease=True, **ask) as g:
        g.settle(tokens=used_tokens)
    return g


def close(client: QuotaClient) -> None:
    """Give back every block, as the client's `close` does."""
    runner = client.quotas._lease_runner
    client.do((lease_manager if client.kind == "blocking" else async_lease_manager)(runner).end())


def quiet(client: QuotaClient) -> None:
    """Let the clock of the leases go two seconds forward at each look, so that calls seem to be few."""
    clock = Clock()

    def later() -> float:
        clock.now += 2
        return clock.now

    leases = client.quotas._leases
    leases._make = partial(leases._make, clock=later)


def test_a_quiet_process_has_a_block_a_call_and_holds_nothing_between_them(
    client: QuotaClient, quota_sql: QuotaSql
) -> None:
    user = user_with(client)
    quiet(client)
    runner = watched(client)
    for number in range(1, 6):
        with client.guard(user, tokens=10, lease=True) as g:
            assert isinstance(g._grant, LeaseCall)
            assert client.usage_of(user).tokens_held == 10
            g.settle(tokens=4)
        # The block was given back at once, because another process may need it.
        assert used(client, user)[0] == 4 * number
    assert runner.sent == ["quotas.lease", "quotas.settle"] * 5
    assert client.usage_of(user).requests_last_hour == 5
    assert len(quota_sql.ledger(user.id)) == 5


def test_many_calls_are_served_from_few_blocks(client: QuotaClient) -> None:
    user = user_with(client)
    hurried(client)
    runner = watched(client)
    for _ in range(500):
        guarded(client, user, cost="0.001")
    assert runner.sent.count("quotas.lease") <= 9, "blocks for 1, 2, 4, … 256 calls"
    assert client.usage_of(user).requests_last_hour < 500, "the last block's are still to come"
    close(client)
    assert used(client, user)[0] == 4 * 500
    assert client.usage_of(user).requests_last_hour == 500


def test_nobody_elsewhere_is_refused_for_what_a_quiet_process_or_one_near_the_limit_holds(
    client: QuotaClient, dsn: str
) -> None:
    """After each call of this process, another process reserves all unused tokens."""
    user = user_with(client, tokens=LIMIT)
    with Atlas.open(dsn) as elsewhere:
        quiet(client)
        for number in range(5):
            guarded(client, user)
            with elsewhere.quotas.guard(user, tokens=LIMIT - 4 * (number + 1)) as g:
                g.release()
    user = user_with(client, tokens=LIMIT)
    with Atlas.open(dsn) as elsewhere:
        spent = LIMIT - 1000
        with elsewhere.quotas.guard(user, tokens=spent) as g:
            g.settle(tokens=spent)
        client.quotas._leases._make.keywords.clear()
        hurried(client)
        for _ in range(6):
            # The limit is near, so a block for several calls would be too small.
            guarded(client, user, tokens=900, used_tokens=1)
            spent += 1
            with elsewhere.quotas.guard(user, tokens=LIMIT - spent) as g:
                g.release()


def test_what_needs_a_reservation_of_its_own_gets_one(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user, runner = user_with(client), watched(client)
    for number in range(MANY):
        guarded(client, user, slots=1)
        guarded(client, user, builds=1)
        guarded(client, user, idempotency_key=str(number))
    assert "quotas.lease" not in runner.sent
    with pytest.raises(InvalidInput, match="nothing to reserve"), client.guard(user, requests=0, lease=True):
        pytest.fail("it was entered")
    assert used(client, user)[0] == 4 * 3 * MANY


def test_calls_that_look_different_in_the_ledger_share_no_block(client: QuotaClient, quota_sql: QuotaSql) -> None:
    user = user_with(client)
    hurried(client)
    for _ in range(MANY):
        for model in ("small", "large"):
            guarded(client, user, meta={"model": model})
    close(client)
    rows = quota_sql.connection.execute(
        "SELECT meta->>'model' AS model, sum(amount) AS amount FROM usage_ledger WHERE user_id = %s GROUP BY 1",
        (user.id,),
    ).fetchall()
    assert {row["model"]: row["amount"] for row in rows} == {"small": 4 * MANY, "large": 4 * MANY}


def test_near_the_limit_nothing_is_stranded_and_nothing_exceeded(client: QuotaClient) -> None:
    user, spent = user_with(client, tokens=LIMIT), 0
    hurried(client)
    with pytest.raises(QuotaExceeded):
        while True:
            guarded(client, user, tokens=30, used_tokens=29)
            spent += 29
    assert LIMIT - 30 < spent <= LIMIT
    with client.guard(user, tokens=30, min_tokens=1, lease=True) as g:
        assert g.tokens == LIMIT - spent
        g.settle(tokens=g.tokens)
    close(client)
    assert used(client, user)[0] == LIMIT


def test_a_single_call_gets_what_an_idle_block_holds(client: QuotaClient) -> None:
    user = user_with(client, tokens=LIMIT)
    hurried(client)
    for _ in range(MANY):
        guarded(client, user, tokens=100, used_tokens=1)
    held = client.usage_of(user).tokens_held
    assert held > 1000
    rest = LIMIT - client.usage_of(user).tokens_used - held
    with client.guard(user, tokens=rest + 500, lease=True) as g:
        g.settle(tokens=1)
    close(client)
    assert used(client, user)[0] == MANY + 1


def test_an_idle_user_holds_nothing(client: QuotaClient) -> None:
    user = user_with(client)
    for _ in range(MANY):
        guarded(client, user)
    until(lambda: client.usage_of(user).tokens_held == 0)
    assert used(client, user)[0] == 4 * MANY


def test_a_guard_from_a_block_is_used_as_any_guard(client: QuotaClient) -> None:
    user = user_with(client)
    for _ in range(MANY):
        guarded(client, user)
    with client.guard(user, tokens=10, lease=True) as g:
        assert isinstance(g._grant, LeaseCall)
        client.do(g.extend(tokens=5, cost="0.5"))
        assert g.tokens == 15
        g.progress(tokens=12)
    assert g.settlement.tokens == 12
    with client.guard(user, tokens=10, lease=True) as g:
        g.release()
    assert g.settlement.outcome == "released"
    close(client)
    assert used(client, user)[0] == 4 * MANY + 12


def test_threads_and_tasks_of_hot_users_never_exceed_a_limit(dsn: str, quota_sql: QuotaSql) -> None:
    client = QuotaClient("blocking", dsn)
    user, over = user_with(client, tokens=LIMIT), threading.Event()

    def watch() -> int:
        watcher, peak = QuotaSql(dsn), 0
        while not over.is_set():
            quota = watcher.quota(user.id)
            peak = max(peak, quota.tokens_used + quota.tokens_held)
        watcher.connection.close()
        return peak

    def spend(atlas: Atlas) -> int:
        spent = 0
        while True:
            try:
                with atlas.quotas.guard(user, tokens=20, min_tokens=1, lease=True) as g:
                    g.settle(tokens=max(g.tokens - 1, 1))
                spent += max(g.tokens - 1, 1)
            except QuotaExceeded:
                return spent

    async def spend_in_tasks() -> int:
        async def one(atlas: AsyncAtlas) -> int:
            spent = 0
            while True:
                try:
                    async with atlas.quotas.guard(user, tokens=20, min_tokens=1, lease=True) as g:
                        await asyncio.sleep(0)
                        g.settle(tokens=max(g.tokens - 1, 1))
                    spent += max(g.tokens - 1, 1)
                except QuotaExceeded:
                    return spent

        async with AsyncAtlas.open(dsn) as atlas:
            return sum(await asyncio.gather(*(one(atlas) for _ in range(5))))

    with Atlas.open(dsn) as atlas, ThreadPoolExecutor(6) as threads:
        watching = threads.submit(watch)
        spenders = [threads.submit(spend, atlas) for _ in range(4)]
        spenders.append(threads.submit(lambda: asyncio.run(spend_in_tasks())))
        spent = sum(spender.result() for spender in spenders)
        over.set()
        assert watching.result() <= LIMIT
    assert used(client, user)[0] == spent
    client.close()


# Leases that a client keeps.


def test_only_the_kinds_of_calls_that_were_used_last_have_a_lease() -> None:
    retired: list[Any] = []

    class Core:
        closed = False

        def __init__(self, *_args: Any, **_options: Any) -> None:
            pass

        def retire(self) -> None:
            retired.append(self)

    leases: ClientLeases[Any] = ClientLeases(Core, Core())
    user: Any = SimpleNamespace(id=uuid.uuid4())
    oldest, kept = leases.find(user, {"holder": "oldest"}), leases.find(user, {"holder": "kept"})
    for number in range(KINDS_MAX):
        assert leases.find(user, {"holder": "kept"}) is kept
        assert leases.find(user, {"holder": str(number)}) is not None
    assert len(leases) == KINDS_MAX
    assert retired[0] is oldest
    assert kept not in retired
    kept.closed = True
    assert leases.find(user, {"holder": "kept"}) is not kept
    assert leases.find(user, {"slots": 1}) is None
    assert leases.find(user, {"idempotency_key": "k"}) is None
    assert leases.find(user, {"ttl": timedelta(seconds=1)}) is not leases.find(user, {})
