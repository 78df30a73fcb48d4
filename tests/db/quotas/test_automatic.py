"""Automatic mode: a reservation a call while a user is cold or near the limit, blocks while the user is hot."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from doors import Door
from entered import Both, until, used
from leasing import losing_of, user_with

from atlas_sdk import AsyncAtlas, Atlas
from atlas_sdk.errors import InvalidInput, QuotaExceeded
from atlas_sdk.guards.call import Call
from atlas_sdk.guards.heat import HOT, KINDS_MAX, Heat, Heats

LIMIT = 30_000


@pytest.fixture(params=["blocking", "asyncio"])
def both(request: pytest.FixtureRequest, dsn: str) -> Iterator[Both]:
    client = Both(request.param, dsn)
    yield client
    client.close()


def watched(both: Both) -> Any:
    """Return a runner that tells which statements the guards of this client send."""
    runner = losing_of(both)
    both.quotas._automatic._runner = both.quotas._source._runner = runner
    return runner


def guarded(both: Both, user: Any, tokens: int = 10, used_tokens: int = 4, **ask: Any) -> Any:
    with both.guard(user, tokens=tokens, lease=True, **ask) as g:
        g.settle(tokens=used_tokens)
    return g


def close(both: Both) -> None:
    """Give back every block, as the client's close does."""
    from atlas_sdk.guards.keeper import keeper_of, keeper_on

    runner = both.quotas._automatic._runner
    both.do((keeper_of if both.kind == "blocking" else keeper_on)(runner).end())


def test_a_cold_user_has_a_reservation_a_call(both: Both) -> None:
    user, runner = user_with(both), watched(both)
    for _ in range(HOT - 1):
        guarded(both, user)
    assert runner.sent == ["quotas.reserve", "quotas.settle"] * (HOT - 1)
    assert used(both, user)[0] == 4 * (HOT - 1)


def test_a_hot_user_is_served_from_blocks(both: Both) -> None:
    user, runner = user_with(both), watched(both)
    for _ in range(500):
        guarded(both, user, cost="0.001")
    assert runner.sent.count("quotas.lease") < 15
    assert len(runner.sent) < 4 * HOT
    assert both.usage(user).requests_last_hour < 500, "the last block's are still to come"
    close(both)
    assert used(both, user)[0] == 4 * 500
    assert both.usage(user).requests_last_hour == 500


def test_what_needs_a_reservation_of_its_own_gets_one(both: Both, door: Door) -> None:
    user, runner = user_with(both), watched(both)
    for number in range(2 * HOT):
        guarded(both, user, slots=1)
        guarded(both, user, builds=1)
        guarded(both, user, idempotency_key=str(number))
    assert "quotas.lease" not in runner.sent
    with pytest.raises(InvalidInput, match="nothing to reserve"), both.guard(user, requests=0, lease=True):
        pytest.fail("it was entered")
    assert used(both, user)[0] == 4 * 6 * HOT


def test_calls_that_look_different_in_the_ledger_share_no_block(both: Both, door: Door) -> None:
    user = user_with(both)
    for _ in range(3 * HOT):
        for model in ("small", "large"):
            guarded(both, user, meta={"model": model})
    close(both)
    rows = door.connection.execute(
        "SELECT meta->>'model' AS model, sum(amount) AS amount FROM usage_ledger WHERE user_id = %s GROUP BY 1",
        (user.id,),
    ).fetchall()
    assert {row["model"]: row["amount"] for row in rows} == {"small": 4 * 3 * HOT, "large": 4 * 3 * HOT}


def test_near_the_limit_nothing_is_stranded_and_nothing_exceeded(both: Both) -> None:
    user, spent = user_with(both, tokens=LIMIT), 0
    with pytest.raises(QuotaExceeded):
        while True:
            guarded(both, user, tokens=30, used_tokens=29)
            spent += 29
    assert LIMIT - 30 < spent <= LIMIT
    with both.guard(user, tokens=30, min_tokens=1, lease=True) as g:
        assert g.tokens == LIMIT - spent
        g.settle(tokens=g.tokens)
    close(both)
    assert used(both, user)[0] == LIMIT


def test_a_single_call_gets_what_an_idle_block_holds(both: Both) -> None:
    user = user_with(both, tokens=LIMIT)
    for _ in range(3 * HOT):
        guarded(both, user, tokens=100, used_tokens=1)
    held = both.usage(user).tokens_held
    assert held > 1000
    rest = LIMIT - both.usage(user).tokens_used - held
    for heat in both.quotas._automatic._heats._heats.values():
        heat._cold_until = float("inf")
    with both.guard(user, tokens=rest + 500, lease=True) as g:
        g.settle(tokens=1)
    close(both)
    assert used(both, user)[0] == 3 * HOT + 1


def test_an_idle_user_holds_nothing(both: Both) -> None:
    user = user_with(both)
    for _ in range(3 * HOT):
        guarded(both, user)
    until(lambda: both.usage(user).tokens_held == 0)
    assert used(both, user)[0] == 4 * 3 * HOT


def test_a_guard_from_a_block_is_used_as_any_guard(both: Both) -> None:
    user = user_with(both)
    for _ in range(2 * HOT):
        guarded(both, user)
    with both.guard(user, tokens=10, lease=True) as g:
        assert isinstance(g._held, Call)
        both.do(g.extend(tokens=5, cost="0.5"))
        assert g.tokens == 15
        g.progress(tokens=12)
    assert g.settlement.tokens == 12
    with both.guard(user, tokens=10, lease=True) as g:
        g.release()
    assert g.settlement.outcome == "released"
    close(both)
    assert used(both, user)[0] == 4 * 2 * HOT + 12


def test_threads_and_tasks_of_hot_users_never_exceed_a_limit(dsn: str, door: Door) -> None:
    both = Both("blocking", dsn)
    user, over = user_with(both, tokens=LIMIT), threading.Event()

    def watch() -> int:
        watcher, peak = Door(dsn), 0
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
    assert used(both, user)[0] == spent
    both.close()


# How hot a user is.


def test_heat_is_calls_in_this_second_or_the_last() -> None:
    heat: Heat[Any] = Heat(0.0)
    assert [heat.note(0.1, 10, 0, 3) for _ in range(HOT)] == [False] * (HOT - 1) + [True]
    assert heat.note(1.5, 10, 0, 3) is False, f"{HOT} calls in one and a half seconds"
    slow: Heat[Any] = Heat(0.0)
    assert not any(slow.note(number / (HOT - 1), 10, 0, 3) for number in range(200))
    hot: Heat[Any] = Heat(0.0)
    assert all([hot.note(number / (2 * HOT), 10, 7, 3) for number in range(200)][HOT:])
    tokens, nano, requests = hot.size()
    calls = requests // 3
    assert (tokens, nano, requests) == (10 * calls, 7 * calls, 3 * calls)
    assert calls == pytest.approx(4 * HOT, abs=4)
    hot.cool(5.0)
    assert not hot.note(5.5, 10, 0, 3)
    assert hot.note(6.0, 10, 0, 3)


def test_only_the_kinds_of_calls_that_were_used_last_are_watched() -> None:
    dropped: list[Any] = []
    heats: Heats[Any] = Heats(dropped.append)
    user: Any = SimpleNamespace(id=uuid.uuid4())
    oldest, kept = heats.of(user, {"holder": "oldest"}, 0.0), heats.of(user, {"holder": "kept"}, 0.0)
    assert oldest is not None
    oldest.lease = SimpleNamespace(closed=False)
    for number in range(KINDS_MAX):
        assert heats.of(user, {"holder": "kept"}, 0.0) is kept
        assert heats.of(user, {"holder": str(number)}, 0.0) is not None
    assert len(heats) == KINDS_MAX
    assert dropped == [oldest.lease]
    assert heats.of(user, {"slots": 1}, 0.0) is None
    assert heats.of(user, {"idempotency_key": "k"}, 0.0) is None
    assert heats.of(user, {"ttl": timedelta(seconds=1)}, 0.0) is not heats.of(user, {}, 0.0)
