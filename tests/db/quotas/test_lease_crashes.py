"""Leases and the ends of processes: forks, kills, exits without a close, and a server that stops."""

from __future__ import annotations

import os
import random
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import programs
import pytest
from embedded_homes import embedded_server
from guard_adapter import QuotaClient, locked_row, until, used, waiting
from leasing import Clock, lease_of, once, user_with
from patience import PATIENCE_S
from quota_sql import QuotaSql

from atlas_sdk import Atlas, DatabaseUnreachable
from atlas_sdk._embedded import EmbeddedServer
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.guards.lease import Lease

LIMIT = 60_000
BLOCK = 3000


@pytest.fixture
def client(blocking_client: QuotaClient) -> QuotaClient:
    return blocking_client


def fork() -> int:
    """Fork a child. If the test fails, the child ends after PATIENCE_S."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(round(PATIENCE_S))
    return pid


def forked(work: Callable[[], object]) -> Callable[[], str]:
    """Run a function in a forked child; return a function that waits for the `repr` of its result."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            said = repr(work())
        except BaseException:  # noqa: BLE001  # the parent asserts on it
            said = traceback.format_exc()
        os.write(writing, said.encode()[-4000:])
        os._exit(0)
    os.close(writing)

    def result() -> str:
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read().decode()
        os.waitpid(pid, 0)
        return said

    return result


def test_a_forked_child_never_spends_its_parents_block(client: QuotaClient) -> None:
    user = user_with(client)
    lease = lease_of(client, user, tokens=1000)
    running = lease.reserve(100)

    def child() -> tuple[bool, bool]:
        running.settle(0)
        mine = lease.reserve(50)
        extended = False
        try:
            lease.extend(running, tokens=1)
            extended = True
        except LookupError:
            mine.settle(7)
        lease.close()
        return mine.id == running.id, extended

    assert forked(child)() == "(False, False)"
    assert client.usage_of(user).tokens_used == 7
    assert [hold.id for hold in client.holds(user)] == [running.id]
    assert once(client, lease, 900).id == running.id, "the child has not touched the block"
    running.settle(30)
    lease.close()
    assert used(client, user)[0] == 937


def test_a_child_that_is_forked_while_others_are_in_the_lease_is_not_stuck(dsn: str, client: QuotaClient) -> None:
    user = user_with(client)
    lease = lease_of(client, user, tokens=1000)

    def child() -> int:
        call = lease.reserve(5)
        call.settle(5)
        lease.close()
        return call.tokens

    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lease._core.lock:
            inside.set()
            assert leave.wait(PATIENCE_S)

    with ThreadPoolExecutor(2) as threads:
        with locked_row(dsn, user):
            asking = threads.submit(lease.reserve, 10)
            until(lambda: len(waiting(dsn)) == 1)
            holding = threads.submit(hold)
            assert inside.wait(PATIENCE_S)
            # At the fork, one thread waits for the database and another one has the lease's lock.
            result = forked(child)
            leave.set()
            holding.result()
            until(lambda: len(waiting(dsn)) == 2)
        assert result() == "5"
        asking.result().settle(10)
    lease.close()
    assert used(client, user)[0] == 15


def test_a_child_that_is_forked_while_guards_share_leases_is_not_stuck(client: QuotaClient) -> None:
    user = user_with(client)

    def spend() -> int:
        for _ in range(100):
            with client.quotas.guard(user, tokens=10, lease=True) as g:
                g.settle(tokens=1)
        client.quotas.close()
        return g.tokens

    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with client.quotas._leases._lock:
            inside.set()
            assert leave.wait(PATIENCE_S)

    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(hold)
        assert inside.wait(PATIENCE_S)
        result = forked(spend)
        leave.set()
        holding.result()
    assert result() == "10"
    spend()
    assert used(client, user)[0] == 200


def test_what_a_killed_process_held_is_charged_when_it_expires(
    dsn: str, client: QuotaClient, quota_sql: QuotaSql
) -> None:
    user = user_with(client, tokens=LIMIT)
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        with Atlas.open(dsn) as own:
            lease = Lease(own.quotas._runner, user, tokens=BLOCK)
            lease.reserve(100).settle(10)
            running = lease.reserve(100)
            os.write(writing, str(running.id).encode())
            signal.pause()
        os._exit(1)
    block = os.read(reading, 100).decode()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    usage = client.usage_of(user)
    assert (usage.tokens_used, usage.tokens_held) == (0, BLOCK)
    quota_sql.expire(block)
    with pytest.raises(QuotaExceeded):
        client.quotas.reserve(user, tokens=LIMIT)
    assert used(client, user)[0] == BLOCK
    assert quota_sql.ledger(user.id) == [("expired", BLOCK, 0)]
    os.close(reading)
    os.close(writing)


def _spend(dsn: str, user: Any, seed: int) -> int:
    dice, spent = random.Random(seed), 0
    with Atlas.open(dsn) as own, Lease(own.quotas._runner, user, tokens=BLOCK, idle_s=0.05) as lease:
        while True:
            try:
                call = lease.reserve(dice.randint(1, 100), min_tokens=1)
            except QuotaExceeded:
                return spent
            used_tokens = dice.randint(0, call.tokens)
            spent += used_tokens
            call.settle(used_tokens)


@pytest.mark.parametrize("seed", [1, 2])
def test_processes_that_are_killed_at_random_never_exceed_a_limit(
    dsn: str, client: QuotaClient, quota_sql: QuotaSql, seed: int
) -> None:
    user, dice = user_with(client, tokens=LIMIT), random.Random(seed)
    children = []
    for number in range(6):
        pid = fork()
        if pid == 0:
            code = 1
            try:
                _spend(dsn, user, 10 * seed + number)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    doomed, kill_at = set(children[:3]), sorted(dice.randint(1, LIMIT) for _ in range(3))
    running, peak, killed = set(children), 0, 0
    while running:
        quota = quota_sql.quota(user.id)
        taken = quota.tokens_used + quota.tokens_held
        peak = max(peak, taken)
        if kill_at and taken >= kill_at[0]:
            kill_at.pop(0)
            victim = doomed.pop()
            if victim in running:
                os.kill(victim, signal.SIGKILL)
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                running.discard(pid)
                killed += os.WIFSIGNALED(status)
                assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    assert peak <= LIMIT
    holds = client.holds(user)
    assert len(holds) <= 2 * killed, "a process holds one block, and one more for a moment"
    for hold in holds:
        quota_sql.expire(hold.id)
    # Spend all that the surviving processes left. Refusals charge the expired blocks.
    _spend(dsn, user, 0)
    assert used(client, user)[0] <= LIMIT
    assert sum(amount for _, amount, _ in quota_sql.ledger(user.id)) == client.usage_of(user).tokens_used


SCRIPT = {
    "threads": """
        from atlas_sdk import Atlas
        from atlas_sdk.guards.lease import Lease
        atlas = Atlas.open(DSN)
        lease = Lease(atlas.quotas._runner, atlas.users.get(USER), tokens=1000, idle_s=IDLE)
        lease.reserve(100).settle(42)
        running = lease.reserve(100)
        LEAVE
    """,
    "asyncio": """
        import asyncio
        from atlas_sdk import AsyncAtlas
        from atlas_sdk.guards.async_lease import AsyncLease
        async def main():
            global running, atlas
            atlas = AsyncAtlas.open(DSN)
            await atlas.connect()
            lease = AsyncLease(atlas.quotas._runner, await atlas.users.get(USER), tokens=1000, idle_s=IDLE)
            (await lease.reserve(100)).settle(42)
            running = await lease.reserve(100)
            LEAVE
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("leave", ["pass", "raise SystemExit(0)", "1 / 0"])
@pytest.mark.parametrize("kind", SCRIPT)
def test_a_process_that_ends_without_closing_still_settles(
    dsn: str, client: QuotaClient, kind: str, leave: str
) -> None:
    user = user_with(client)
    script = f"from uuid import UUID\nDSN, USER, IDLE = {dsn!r}, UUID({str(user.id)!r}), 3600.0\n"
    script += textwrap.dedent(SCRIPT[kind]).replace("LEAVE", leave)
    done = programs.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == (1 if leave == "1 / 0" else 0), done.stderr
    # A call whose usage is never reported is charged its reservation.
    assert used(client, user)[0] == 142, done.stderr


# A server that is really stopped.


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """Yield a server that a test may stop. `ensure_running` starts it again."""
    with embedded_server() as server:
        yield server


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_live_lease_outlives_a_server_that_is_killed(own_server: EmbeddedServer, kind: str) -> None:
    # A client with the server's address, unlike one with the home, does not start the server again.
    client, clock = QuotaClient(kind, own_server.dsn, connect_timeout_s=1), Clock()
    user = user_with(client)
    lease = lease_of(client, user, tokens=1000, ttl=timedelta(seconds=100), clock=clock)
    once(client, lease, 10)
    pid = int((own_server.data_dir / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())
    once(client, lease, 10)
    with pytest.raises(DatabaseUnreachable):
        client.do(lease.reserve(1001))
    clock.now += 89
    once(client, lease, 10)
    clock.now += 2
    with pytest.raises(DatabaseUnreachable):
        client.do(lease.reserve(10))
    own_server.ensure_running()
    once(client, lease, 10)
    client.do(lease.close())
    until(lambda: client.usage_of(user).tokens_held == 0)
    assert used(client, user)[0] == 40
    client.close()
