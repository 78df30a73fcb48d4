"""Waiting calls of several processes: their order, and what is left of a call that is cancelled or killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from uuid import uuid4

import programs
import psycopg
import pytest
from guard_adapter import until
from patience import PATIENCE_S
from test_guard_waits import LONG, waiters

from atlas_sdk import AsyncAtlas, Atlas, User
from atlas_sdk.guards import waiting

#: Waits for tokens, and settles as soon as it gets them.
WAITER = f"""
import sys
from datetime import timedelta
from uuid import UUID
from atlas_sdk import Atlas

with Atlas.open(sys.argv[1]) as atlas:
    user = atlas.users.get(UUID(sys.argv[2]))
    try:
        wait = timedelta(seconds={PATIENCE_S})
        with atlas.quotas.guard(user, tokens=100, meta={{"call": sys.argv[3]}}, wait=wait) as g:
            g.settle(tokens=0)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def atlas(dsn: str) -> Iterator[Atlas]:
    with Atlas.open(dsn) as opened:
        yield opened


@pytest.fixture
def user(atlas: Atlas) -> User:
    made = atlas.users.create(f"{uuid4()}@example.com")
    atlas.quotas.set_limits(made, tokens=100, requests_per_hour=None)
    return made


@contextmanager
def process(dsn: str, user: User, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that waits for all tokens of a user."""
    with programs.Popen([sys.executable, "-c", WAITER, dsn, str(user.id), name]) as running:
        try:
            yield running
        finally:
            running.kill()


def calls(dsn: str, user: User) -> list[str]:
    """Return the names of the calls that had their turn, in this order."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT meta ->> 'call' FROM usage_ledger WHERE user_id = %s AND meta ? 'call' ORDER BY created_at",
            (user.id,),
        )
        return [name for (name,) in found]


def test_calls_of_all_processes_are_served_in_the_order_of_their_arrival(dsn: str, atlas: Atlas, user: User) -> None:
    def wait(name: str) -> None:
        with atlas.quotas.guard(user, tokens=100, meta={"call": name}, wait=LONG) as g:
            g.settle(tokens=0)

    held = atlas.quotas.reserve(user, tokens=100)
    with ThreadPoolExecutor(3) as threads, ExitStack() as processes:
        mine = []
        for number, name in enumerate(["a", "b", "c", "d", "e", "f"], start=1):
            if number % 2:
                mine.append(threads.submit(wait, name))
            else:
                processes.enter_context(process(dsn, user, name))
            until(lambda number=number: waiters(dsn, user) == number)  # type: ignore[misc]
        atlas.quotas.release(user, held.id)
        until(lambda: len(calls(dsn, user)) == 6)
        for done in mine:
            done.result()
    assert calls(dsn, user) == ["a", "b", "c", "d", "e", "f"]
    assert waiters(dsn, user) == 0


def test_a_killed_call_blocks_the_others_for_seconds_only(
    dsn: str, atlas: Atlas, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_RENEWED_S", 0.2)
    held = atlas.quotas.reserve(user, tokens=100)
    with process(dsn, user, "killed") as first, ThreadPoolExecutor(1) as threads:
        until(lambda: waiters(dsn, user) == 1)
        second = threads.submit(atlas.quotas.guard(user, tokens=100, wait=LONG).__enter__)
        until(lambda: waiters(dsn, user) == 2)
        first.kill()
        first.wait(PATIENCE_S)
        atlas.quotas.release(user, held.id)
        with psycopg.connect(dsn, autocommit=True) as connection:
            (left,) = connection.execute("SELECT max(alive_until) - clock_timestamp() FROM quota_waiters").fetchone()  # type: ignore[misc]
            assert left <= timedelta(seconds=15), "it counts as alive this long at most"
            connection.execute(
                "UPDATE quota_waiters SET alive_until = clock_timestamp() + interval '0.1 s'"
                " WHERE number = 1 AND user_id = %s",
                (user.id,),
            )
        assert second.result(PATIENCE_S).tokens == 100
        second.result().__exit__(None, None, None)
    assert calls(dsn, user) == []


def test_an_interrupted_call_leaves_nothing(dsn: str, atlas: Atlas, user: User) -> None:
    atlas.quotas.reserve(user, tokens=100)
    with process(dsn, user, "interrupted") as running:
        until(lambda: waiters(dsn, user) == 1)
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE_S) == 130
    assert waiters(dsn, user) == 0
    assert atlas.quotas.usage(user).tokens_held == 100


async def _cancelled(dsn: str, user: User, on_wait: Callable[[], object], **options: str) -> None:
    async with AsyncAtlas.open(dsn) as atlas:
        task = asyncio.ensure_future(atlas.quotas.guard(user, tokens=100, wait=LONG, **options).__aenter__())  # type: ignore[arg-type]
        await asyncio.to_thread(until, lambda: waiters(dsn, user) == 1)
        on_wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("options", [{}, {"idempotency_key": "one"}], ids=["without a key", "with a key"])
def test_a_cancelled_call_leaves_nothing(dsn: str, atlas: Atlas, user: User, options: dict[str, str]) -> None:
    atlas.quotas.reserve(user, tokens=100)
    asyncio.run(_cancelled(dsn, user, lambda: None, **options))
    assert waiters(dsn, user) == 0
    assert atlas.quotas.usage(user).tokens_held == 100
    assert atlas.quotas.verify(user).balanced


@pytest.mark.parametrize("attempt", range(5))
def test_a_call_that_is_cancelled_at_its_turn_keeps_nothing(dsn: str, atlas: Atlas, user: User, attempt: int) -> None:
    held = atlas.quotas.reserve(user, tokens=100)
    asyncio.run(_cancelled(dsn, user, lambda: atlas.quotas.release(user, held.id)))
    assert waiters(dsn, user) == 0
    assert atlas.quotas.usage(user).tokens_held == 0, attempt
    assert atlas.quotas.verify(user).balanced


def test_calls_of_many_tasks_share_one_connection(dsn: str, atlas: Atlas, user: User) -> None:
    async def wait(client: AsyncAtlas, done: list[int], number: int) -> None:
        async with client.quotas.guard(user, tokens=100, wait=LONG) as g:
            done.append(number)
            g.settle(tokens=0)

    async def run() -> list[int]:
        done: list[int] = []
        async with AsyncAtlas.open(dsn, pool_max=2) as client:
            tasks = []
            for number in range(20):
                tasks.append(asyncio.ensure_future(wait(client, done, number)))
                await asyncio.to_thread(until, lambda number=number: waiters(dsn, user) == number + 1)
            async with asyncio.timeout(PATIENCE_S):
                # A waiting call holds no connection between its tries.
                while client.pool().quotas.in_use:  # type: ignore[union-attr]  # noqa: ASYNC110  # nothing to wait for
                    await asyncio.sleep(0.01)
            atlas.quotas.release(user, held.id)
            await asyncio.gather(*tasks)
        return done

    held = atlas.quotas.reserve(user, tokens=100)
    assert asyncio.run(run()) == list(range(20))
