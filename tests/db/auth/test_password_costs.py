"""Every failure to sign in costs the same, and is computed outside of the event loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import argon2
import pytest
from patience import PATIENCE_S
from signing_in import CHEAP, PARAMETERS, PASSWORD, Work

from atlas_sdk import AsyncAtlas
from atlas_sdk.ops import passwords

pytestmark = pytest.mark.usefixtures("cheap_hashes", "keys")


# Differences that a stranger could notice.


def test_every_failure_costs_one_verification_with_the_same_parameters(client: Any, work: Work) -> None:
    client.users.create("ada@example.com", password=PASSWORD)
    client.users.create("none@example.com")
    client.users.create("bcrypt@example.com", password_hash="$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0j")
    attempts = [
        ("ada@example.com", "wrong password"),
        ("nobody@example.com", PASSWORD),
        ("none@example.com", PASSWORD),
        ("bcrypt@example.com", PASSWORD),
        ("not an address", PASSWORD),
        ("ada@example.com", "x" * 2000),
        ("nobody@example.com", "x" * 2000),
        ("ada@example.com", ""),
        ("nobody@example.com", ""),
    ]
    work.hashed = 0
    for email, password in attempts:
        work.verified.clear()
        assert client.users.authenticate(email, password) is None
        assert work.verified == [PARAMETERS], email
    assert work.hashed == 0


def test_every_failure_writes_one_row(client: Any, migrated: Any) -> None:
    client.users.create("ada@example.com", password=PASSWORD)

    def rows() -> int:
        return migrated.execute("SELECT count(*) FROM events").fetchone()[0]

    for email in ("ada@example.com", "nobody@example.com", "not an address"):
        before = rows()
        assert client.users.authenticate(email, "wrong password") is None
        assert rows() == before + 1


def test_hashing_keeps_off_the_event_loop(dsn: str, work: Work) -> None:
    async def sign_in() -> None:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await atlas.users.create("ada@example.com", password_hash=CHEAP.hash(PASSWORD))
            work.threads.clear()
            assert await atlas.users.authenticate("ada@example.com", PASSWORD) is not None
            assert await atlas.users.authenticate("ada@example.com", "wrong") is None
            assert await atlas.users.authenticate("nobody@example.com", "wrong") is None
            await atlas.users.set_password(user, PASSWORD)
            await atlas.users.create("bob@example.com", password=PASSWORD)

    asyncio.run(sign_in())
    assert len(work.verified) == 3
    assert threading.get_ident() not in work.threads
    assert work.threads


def test_sign_ins_leave_the_threads_of_asyncio_alone(dsn: str, monkeypatch: Any) -> None:
    verify = argon2.PasswordHasher.verify
    begun: list[int] = []
    go_on = threading.Event()

    def slow(self: Any, stored: str, password: bytes) -> bool:
        begun.append(threading.get_ident())
        assert go_on.wait(PATIENCE_S)
        return verify(self, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", slow)

    async def both_begun() -> None:
        while len(set(begun)) < 2:  # noqa: ASYNC110  # waits for threads
            await asyncio.sleep(0.01)

    async def sign_in() -> None:
        # The executor has only two threads, so sign-ins that used it could block all threads of the application.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        async with AsyncAtlas.open(dsn) as atlas:
            user = await atlas.users.create("ada@example.com", password_hash=CHEAP.hash(PASSWORD))
            crowd = [asyncio.create_task(atlas.users.authenticate("ada@example.com", PASSWORD)) for _ in range(8)]
            try:
                await asyncio.wait_for(both_begun(), PATIENCE_S)
                assert await asyncio.wait_for(asyncio.to_thread(lambda: "a file"), PATIENCE_S) == "a file"
            finally:
                go_on.set()
                found = await asyncio.gather(*crowd)
            assert [one and one.id for one in found] == [user.id] * len(crowd)

    asyncio.run(sign_in())


def test_the_threads_of_passwords_see_the_context_of_their_caller(dsn: str, monkeypatch: Any) -> None:
    request: ContextVar[str] = ContextVar("request")
    seen: list[str] = []
    real = passwords.hashed

    def noting(password: bytes) -> str:
        seen.append(request.get())
        return real(password)

    monkeypatch.setattr(passwords, "hashed", noting)

    async def sign_up() -> None:
        request.set("the first")
        async with AsyncAtlas.open(dsn) as atlas:
            await atlas.users.create("ada@example.com", password=PASSWORD)

    asyncio.run(sign_up())
    assert seen == ["the first"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_computes_in_threads_of_its_own() -> None:
    """The child does not have the parent's threads, so work given to them would wait for ever."""
    assert passwords._workers.executor.submit(len, "warm").result(PATIENCE_S) == 4
    child = """
import os, sys
from atlas_sdk.ops import passwords
passwords._workers.executor.submit(len, "warm").result(300)
child = os.fork()
if not child:
    os._exit(passwords._workers.executor.submit(len, "child").result(300))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", child], timeout=PATIENCE_S, check=False)
    assert done.returncode == 5


def test_no_transaction_is_open_while_a_password_is_hashed(client: Any, migrated: Any, monkeypatch: Any) -> None:
    seen: list[int] = []
    for name in ("hashed", "matches", "refreshed"):
        real = getattr(passwords, name)

        def spy(*args: Any, real: Any = real) -> Any:
            open_ = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            seen.append(migrated.execute(open_).fetchone()[0])
            return real(*args)

        monkeypatch.setattr(passwords, name, spy)
    user = client.users.create("ada@example.com", password=PASSWORD)
    client.users.authenticate("ada@example.com", PASSWORD)
    client.users.set_password(user, PASSWORD)
    assert seen == [0] * 4
