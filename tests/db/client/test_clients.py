"""Functions of a client besides the operations: transactions, health, errors, threads, forks."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas_sdk import AlreadyExists, AsyncAtlas, Atlas, DatabaseError, InvalidInput


def test_a_transaction_is_all_or_nothing(atlas: Atlas, folder: Path) -> None:
    user = atlas.users.local()
    with pytest.raises(RuntimeError, match="no"), atlas.transaction() as tx:
        project = tx.projects.create(user, path=folder)
        tx.memory.snapshot(project, "CLAUDE.md", b"x")
        raise RuntimeError("no")
    assert atlas.projects.list(user) == []
    with atlas.transaction() as tx:
        project = tx.projects.create(user, path=folder)
        tx.memory.snapshot(project, "CLAUDE.md", b"x")
    assert atlas.memory.read(project, "CLAUDE.md") == b"x"


def test_what_was_rolled_back_is_not_taken_for_known(atlas: Atlas, folder: Path) -> None:
    project = atlas.projects.create(atlas.users.local(), path=folder)
    with pytest.raises(RuntimeError), atlas.transaction() as tx:
        tx.memory.snapshot(project, "CLAUDE.md", b"x")
        raise RuntimeError
    assert atlas.memory.snapshot(project, "CLAUDE.md", b"x") is not None
    assert atlas.memory.read(project, "CLAUDE.md") == b"x"


def test_an_error_of_ours_leaves_the_transaction_usable(atlas: Atlas, folder: Path) -> None:
    user = atlas.users.local()
    with atlas.transaction() as tx:
        tx.projects.create(user, path=folder)
        with pytest.raises(AlreadyExists):
            tx.projects.create(user, path=folder)
        tx.events.log("still.here", user=user)
    assert [event.type for event in atlas.events.recent(user, limit=2)] == ["still.here", "project.created"]


def test_a_transaction_on_asyncio_is_all_or_nothing(dsn: str, folder: Path) -> None:
    async def go() -> None:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await atlas.users.local()
            with pytest.raises(RuntimeError):
                async with atlas.transaction() as tx:
                    await tx.projects.create(user, path=folder)
                    raise RuntimeError
            assert await atlas.projects.list(user) == []
            async with atlas.transaction() as tx:
                project = await tx.projects.create(user, path=folder)
                await tx.memory.snapshot(project, "CLAUDE.md", b"x")
            assert await atlas.memory.read(project, "CLAUDE.md") == b"x"

    asyncio.run(go())


def test_a_cancelled_task_gives_its_connection_back(dsn: str, folder: Path) -> None:
    async def go() -> None:
        async with AsyncAtlas.open(dsn, pool_max=2) as atlas:
            project = await atlas.projects.create(await atlas.users.local(), path=folder)
            for n in range(20):
                task = asyncio.create_task(atlas.memory.snapshot(project, "CLAUDE.md", b"%d" % n))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert (await atlas.health()).ok
            await asyncio.gather(*(atlas.memory.snapshot(project, f"notes{n}.md", b"x") for n in range(10)))
            assert len([v for v in await atlas.memory.files(project) if v.path.startswith("notes")]) == 10

    asyncio.run(go())


def test_connections_that_the_server_closed_are_replaced(dsn: str, atlas: Atlas) -> None:
    user = atlas.users.local()
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
            "pg_backend_pid()"
        )
        deadline = threading.Event()
        while other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone() != (0,):
            deadline.wait(0.01)
    assert atlas.users.local() == user


def test_threads_share_a_client(atlas: Atlas, folder: Path) -> None:
    project = atlas.projects.create(atlas.users.local(), path=folder)

    def put(n: int) -> int:
        version = atlas.memory.snapshot(project, "CLAUDE.md", b"%d\n" % n)
        assert version is not None
        return version.seq

    with ThreadPoolExecutor(16) as threads:
        numbers = list(threads.map(put, range(200)))
    assert sorted(numbers) == list(range(1, 201))


def test_a_forked_child_uses_connections_of_its_own(atlas: Atlas, folder: Path) -> None:
    project = atlas.projects.create(atlas.users.local(), path=folder)
    atlas.memory.snapshot(project, "CLAUDE.md", b"parent")
    children = []
    for n in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for k in range(10):
                    atlas.memory.snapshot(project, "CLAUDE.md", b"child %d %d" % (n, k))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for k in range(10):
        atlas.memory.snapshot(project, "CLAUDE.md", b"parent %d" % k)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(atlas.memory.history(project, "CLAUDE.md", limit=100)) == 41


def test_a_closed_client_says_so(dsn: str) -> None:
    client = Atlas.open(dsn)
    client.close()
    client.close()
    with pytest.raises(InvalidInput, match="closed"):
        client.users.local()
    with pytest.raises(InvalidInput, match="closed"), client.transaction():
        raise AssertionError("a closed client has no transactions")


def test_threads_take_turns_in_a_transaction(atlas: Atlas, folder: Path) -> None:
    project = atlas.projects.create(atlas.users.local(), path=folder)

    def put(n: int) -> None:
        with pytest.raises(InvalidInput) if n % 4 == 3 else nullcontext():
            tx.memory.snapshot(project, f"n{n}.md" if n % 4 != 3 else "n\0.md", b"x")
        if n % 4 == 3:
            with pytest.raises(InvalidInput):
                tx.users.create("nobody")

    with atlas.transaction() as tx, ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(60)))
    assert len(atlas.memory.files(project)) == 45


def test_tasks_take_turns_in_a_transaction(dsn: str, folder: Path) -> None:
    async def go() -> None:
        async with AsyncAtlas.open(dsn) as atlas:
            project = await atlas.projects.create(await atlas.users.local(), path=folder)
            async with atlas.transaction() as tx:
                puts = [tx.memory.snapshot(project, f"n{n}.md", b"x") for n in range(8)]
                results = await asyncio.gather(*puts, tx.users.create("bad"), return_exceptions=True)
            assert isinstance(results[-1], InvalidInput)
            assert len(await atlas.memory.files(project)) == 8

    asyncio.run(go())


@pytest.mark.parametrize("broken", [{"name": "\udcff"}, {"name": "a\0"}], ids=["surrogate", "nul"])
def test_a_failed_operation_leaves_nothing_of_itself_in_a_transaction(atlas: Atlas, broken: dict[str, str]) -> None:
    with atlas.transaction() as tx:
        with pytest.raises(InvalidInput):
            tx.users.create("ada@example.com", **broken)
        assert tx.users.create("ada@example.com", name="Ada").name == "Ada"
    assert atlas.users.by_email("ada@example.com") is not None


def test_a_cancelled_operation_leaves_nothing_of_itself_in_a_transaction(dsn: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with AsyncAtlas.open(dsn) as atlas:
            user = await atlas.users.local()
            try:
                async with atlas.transaction() as tx:
                    for n in range(20):
                        task = asyncio.create_task(tx.projects.create(user, path=tmp_path / str(n), session_id=f"s{n}"))
                        for _ in range(n):
                            await asyncio.sleep(0)
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)
            except DatabaseError:
                assert await atlas.projects.list(user) == []
            for project in await atlas.projects.list(user):
                assert await atlas.projects.by_session(project.session_id) == project
            claimed = {project.session_id for project in await atlas.projects.list(user)}
            for n in range(20):
                if f"s{n}" not in claimed:
                    await atlas.projects.create(user, path=tmp_path / f"again{n}", session_id=f"s{n}")

    asyncio.run(go())


def test_restores_are_no_part_of_transactions(atlas: Atlas) -> None:
    """Files cannot be rolled back, so the safety checkpoint must not be rolled back either."""
    with atlas.transaction() as tx:
        for name in ("restore", "undo", "redo"):
            assert not hasattr(tx.memory, name)


def test_connecting_twice_is_connecting_once(dsn: str) -> None:
    async def go() -> None:
        async with AsyncAtlas.open(dsn) as atlas:
            driver = atlas._view
            await atlas.connect()
            assert atlas._view is driver

    asyncio.run(go())


def test_what_is_no_json_or_no_limit_is_refused(client: Any, folder: Path) -> None:
    user = client.users.local()
    project = client.projects.create(user, path=folder)
    with pytest.raises(InvalidInput, match="not JSON"):
        client.events.log("a.b", user=user, meta={"a": object()})
    with pytest.raises(InvalidInput, match="limit"):
        client.memory.history(project, limit=0)
    with pytest.raises(InvalidInput, match="limit"):
        client.events.recent(user, limit=-1)
    with pytest.raises(InvalidInput, match="mode"):
        client.memory.snapshot(project, "CLAUDE.md", mode=0o600)


def test_a_fork_while_other_threads_snapshot_does_not_hang(embedded: Atlas, folder: Path) -> None:
    project = embedded.projects.create(embedded.users.local(), path=folder)
    embedded.memory.snapshot(project, "CLAUDE.md", b"x")
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            embedded.memory.snapshot(project, "CLAUDE.md", b"x")

    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            threads.submit(spin)
        children = []
        for n in range(12):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    embedded.memory.snapshot(project, f"child{n}.md", b"x")
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitpid(child, 0)[1] for child in children]
        over.set()
    assert codes == [0] * 12


def test_who_is_looked_for_is_not_made(client: Any) -> None:
    assert client.users.find_local() is None
    assert client.users.list() == []
    made = client.users.local()
    assert client.users.find_local() == made


def test_missing_signing_keys_are_told_with_the_line_that_makes_them(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATLAS_SIGNING_KEYS", raising=False)
    user = atlas.users.local()
    with pytest.raises(InvalidInput) as refused:
        atlas.sessions.issue(user)
    line = 'SigningKeys.generate().write("/etc/atlas/signing-keys")'
    assert line in str(refused.value)
    guide = (Path(__file__).parents[3] / "docs/client.md").read_text("utf-8")
    assert line in guide.partition("## Signing keys")[2].partition("\n## ")[0]
