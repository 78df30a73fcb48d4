"""The stored bytes of a user's memory: counted, reported, and refused only if a platform made the limit hard."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest
from attrs import evolve
from guard_adapter import until, waiting

from atlas_sdk import Atlas, NotFound, Project, QuotaExceeded, RestoreRefused, User
from atlas_sdk._sql import statements
from atlas_sdk.ops import memory_usage
from atlas_sdk.results import MemoryUsage


def noise(size: int) -> bytes:
    """Return bytes that cannot be compressed. They are stored with one byte more."""
    return os.urandom(size)


def new_user(client: Any, **limits: Any) -> User:
    user = client.users.create(f"{uuid.uuid4().hex}@example.com")
    client.quotas.set_limits(user, **limits)
    return user


def new_project(client: Any, folder: Path, **limits: Any) -> tuple[User, Project]:
    user = new_user(client, **limits)
    return user, client.projects.create(user, path=folder)


def told(client: Any, user: User) -> list[int]:
    """Return the percentages of the events, the oldest first."""
    return [event.meta["percent"] for event in reversed(client.events.recent(user)) if event.type == "quota.memory"]


def stored(dsn: str, user: User) -> tuple[int, int, int]:
    """Return the numbers of a user's files, versions and contents."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            """SELECT (SELECT count(*) FROM memory_files WHERE user_id = %(u)s),
                      (SELECT count(*) FROM memory_snapshots WHERE user_id = %(u)s),
                      (SELECT count(*) FROM memory_blobs WHERE user_id = %(u)s)""",
            {"u": user.id},
        ).fetchone()
    assert row is not None
    return row


@pytest.mark.every_server
def test_every_content_counts_once_in_the_bytes_that_are_stored(client: Any, dsn: str, folder: Path) -> None:
    user, project = new_project(client, folder)
    assert client.quotas.memory(user) == MemoryUsage(bytes=0, limit=100 * 2**20, hard=False)
    body = noise(5000)
    client.memory.snapshot(project, "CLAUDE.md", body)
    assert client.quotas.memory(user).bytes == 5001
    client.memory.snapshot(project, "notes.md", body)
    assert client.quotas.memory(user).bytes == 5001
    client.memory.snapshot(project, "CLAUDE.md", body + b"one more line\n")
    # The second version is a delta.
    assert 5001 < client.quotas.memory(user).bytes < 5200
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT sum(octet_length(data)) FROM memory_blobs").fetchone()
    assert row == (client.quotas.memory(user).bytes,)
    # Only the hash of a file over the size limit is kept.
    before = client.quotas.memory(user)
    client.memory.snapshot(project, "CLAUDE.md", bytes(8 * 2**20 + 1))
    assert client.quotas.memory(user) == before


def test_the_limit_is_the_plans_or_the_users_own(client: Any) -> None:
    user = new_user(client)
    client.users.set_plan(user, "pro")
    assert client.quotas.memory(user).limit == 2**30
    client.quotas.set_limits(user, memory_bytes=5, memory_hard=True)
    assert client.quotas.memory(user) == MemoryUsage(bytes=0, limit=5, hard=True)
    client.quotas.set_limits(user, memory_bytes=None)
    assert client.quotas.memory(user).limit is None
    with pytest.raises(NotFound):
        client.quotas.memory(evolve(user, id=uuid.uuid4()))


@pytest.mark.parametrize(
    ("stored", "limit", "exceeded", "level", "remaining"),
    [
        (0, 0, False, 0, 0),
        (1, 0, True, 100, 0),
        (79, 100, False, 0, 21),
        (80, 100, False, 80, 20),
        (100, 100, False, 100, 0),
        (101, 100, True, 100, 0),
        (10**15, None, False, 0, None),
    ],
)
def test_exceeded_is_more_than_the_limit(stored, limit, exceeded, level, remaining) -> None:
    usage = MemoryUsage(bytes=stored, limit=limit, hard=False)
    assert (usage.exceeded, usage.level, usage.remaining) == (exceeded, level, remaining)


def test_a_soft_limit_refuses_nothing(client: Any, folder: Path) -> None:
    user, project = new_project(client, folder, memory_bytes=0)
    (folder / "notes.md").write_bytes(noise(1000))
    captured = client.memory.capture(project)
    assert (len(captured.taken), captured.skipped) == (2, ())
    assert client.memory.snapshot(project, "CLAUDE.md", noise(1000)).seq == 2
    assert client.quotas.memory(user).exceeded


def test_a_hard_limit_refuses_new_content_and_nothing_of_it_is_stored(client: Any, dsn: str, folder: Path) -> None:
    user, project = new_project(client, folder, memory_bytes=2002, memory_hard=True)
    old, newer = noise(1000), noise(1000)
    client.memory.snapshot(project, "CLAUDE.md", old)
    # This content fills the limit to the last byte.
    client.memory.snapshot(project, "CLAUDE.md", newer)
    before = stored(dsn, user)
    for path in ("CLAUDE.md", "new.md"):
        with pytest.raises(
            QuotaExceeded, match="the memory limit of 2002 bytes leaves 0 bytes, and 301 were"
        ) as refusal:
            client.memory.snapshot(project, path, noise(300))
    assert (refusal.value.dimension, refusal.value.asked, refusal.value.remaining) == ("memory_bytes", 301, 0)
    assert (refusal.value.limit, refusal.value.retry_after, refusal.value.http_status) == (2002, None, 403)
    assert stored(dsn, user) == before
    # Unchanged content, stored content, a deletion and a file with only a hash need no room.
    assert client.memory.snapshot(project, "CLAUDE.md", newer) is None
    assert client.memory.snapshot(project, "CLAUDE.md", old).seq == 3
    assert client.memory.snapshot(project, "new.md", newer).seq == 1
    assert client.memory.delete(project, "new.md").deleted
    assert client.memory.snapshot(project, "big.md", bytes(8 * 2**20 + 1)).seq == 1
    client.quotas.set_limits(user, memory_hard=False)
    assert client.memory.snapshot(project, "CLAUDE.md", noise(300)).seq == 4


def test_a_refusal_leaves_the_rest_of_a_transaction(atlas: Atlas, folder: Path) -> None:
    _, project = new_project(atlas, folder, memory_bytes=100, memory_hard=True)
    with atlas.transaction() as tx:
        tx.memory.snapshot(project, "CLAUDE.md", b"before\n")
        with pytest.raises(QuotaExceeded):
            tx.memory.snapshot(project, "CLAUDE.md", noise(1000))
        tx.memory.snapshot(project, "CLAUDE.md", b"after\n")
    contents = [atlas.memory.content(version) for version in atlas.memory.history(project, "CLAUDE.md")]
    assert contents == [b"after\n", b"before\n"]


def test_a_hard_limit_of_one_user_is_no_other_users(client: Any, tmp_path: Path) -> None:
    new_project(client, tmp_path / "full", memory_bytes=0, memory_hard=True)
    _, unlimited = new_project(client, tmp_path / "unlimited", memory_bytes=None, memory_hard=True)
    assert client.memory.snapshot(unlimited, "CLAUDE.md", noise(10)).seq == 1


@pytest.mark.parametrize("hard", [False, True])
def test_a_put_stays_one_statement(atlas: Any, folder: Path, caplog: pytest.LogCaptureFixture, *, hard: bool) -> None:
    _, project = new_project(atlas, folder, memory_bytes=3000, memory_hard=hard)
    atlas.memory.snapshot(project, "CLAUDE.md", b"one\n")
    atlas._view._config.query_log = True
    with caplog.at_level("DEBUG", "atlas_sdk.queries"):
        atlas.memory.snapshot(project, "CLAUDE.md", b"two\n")
        (folder / "notes.md").write_bytes(b"three\n")
        state = atlas.memory.snapshot(project, "notes.md")
    assert state.seq == 1
    # The client does not know the second file, so it looks the file up first.
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "memory.put",
        "memory.head",
        "memory.put",
    ]


def test_a_capture_keeps_what_fits_and_says_what_did_not(client: Any, folder: Path) -> None:
    user, project = new_project(client, folder, memory_bytes=100, memory_hard=True)
    client.memory.capture(project)
    (folder / "AGENTS.md").write_bytes(noise(2000))
    (folder / "CLAUDE.md").unlink()
    (folder / "notes.md").write_bytes(b"- second\n")
    captured = client.memory.capture(project)
    assert {version.path: version.deleted for version in captured.taken} == {"CLAUDE.md": True, "notes.md": False}
    ((path, reason),) = captured.skipped
    assert path == "AGENTS.md"
    assert reason.startswith("AGENTS.md: the memory limit of 100 bytes leaves ")
    client.quotas.set_limits(user, memory_bytes=10_000)
    assert [version.path for version in client.memory.capture(project).taken] == ["AGENTS.md"]


def test_levels_are_told_once_and_again_after_they_were_below(client: Any, folder: Path) -> None:
    user, project = new_project(client, folder, memory_bytes=10_000)

    def grow(size: int) -> list[int]:
        (folder / "notes.md").write_bytes(noise(size))
        client.memory.capture(project)
        return told(client, user)

    assert grow(7000) == []
    assert grow(1000) == [80]
    assert grow(500) == [80]
    assert grow(3000) == [80, 100]
    event = next(event for event in client.events.recent(user) if event.type == "quota.memory")
    usage = client.quotas.memory(user)
    assert event.meta.items() >= {"percent": 100, "bytes": usage.bytes, "limit": 10_000, "hard": False}.items()
    client.quotas.set_limits(user, memory_bytes=20_000)
    client.quotas.record_memory_threshold(user)
    assert told(client, user) == [80, 100]
    client.quotas.set_limits(user, memory_bytes=14_000)
    client.quotas.record_memory_threshold(user)
    client.quotas.record_memory_threshold(user)
    assert told(client, user) == [80, 100, 80]
    # Without a limit no threshold is reached, even after earlier events.
    client.quotas.set_limits(user, memory_bytes=None)
    client.quotas.record_memory_threshold(user)
    assert client.quotas.memory(user).told == 0


def test_a_put_tells_nothing(client: Any, folder: Path) -> None:
    user, project = new_project(client, folder, memory_bytes=10)
    client.memory.snapshot(project, "CLAUDE.md", noise(100))
    assert told(client, user) == []
    client.quotas.record_memory_threshold(user)
    assert told(client, user) == [80, 100]


def test_two_that_tell_at_once_tell_once(atlas: Atlas, folder: Path, dsn: str) -> None:
    user, project = new_project(atlas, folder, memory_bytes=100)
    atlas.memory.snapshot(project, "CLAUDE.md", noise(84))
    both_saw = atlas.quotas.memory(user)
    for _ in range(2):
        atlas._view.run(memory_usage._tell(user.id, both_saw))
    assert told(atlas, user) == [80]


def test_an_unchanged_level_writes_nothing(atlas: Any, folder: Path, dsn: str) -> None:
    user, project = new_project(atlas, folder, memory_bytes=100)
    atlas.memory.snapshot(project, "CLAUDE.md", noise(84))
    atlas.quotas.record_memory_threshold(user)
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = "SELECT xmin::text FROM user_quotas WHERE user_id = %s"
        before = connection.execute(row, [user.id]).fetchone()
        atlas.memory.snapshot(project, "CLAUDE.md", noise(3))
        atlas.quotas.record_memory_threshold(user)
        assert connection.execute(row, [user.id]).fetchone() == before


def test_two_contents_that_fit_alone_do_not_fit_together(atlas: Atlas, folder: Path, dsn: str) -> None:
    user, project = new_project(atlas, folder, memory_bytes=1500, memory_hard=True)
    outcome: list[object] = []

    def put() -> None:
        try:
            outcome.append(atlas.memory.snapshot(project, "notes.md", noise(1000)))
        except QuotaExceeded as refusal:
            outcome.append(refusal)

    with atlas.transaction() as tx:
        tx.memory.snapshot(project, "CLAUDE.md", noise(1000))
        thread = threading.Thread(target=put)
        thread.start()
        until(lambda: waiting(dsn, "memory_put"))
        # The waiting put has not locked its file.
        tx.memory.snapshot(project, "notes.md", b"the same file\n")
    thread.join()
    (refusal,) = outcome
    assert isinstance(refusal, QuotaExceeded)
    assert refusal.remaining == 1500 - atlas.quotas.memory(user).bytes


def test_who_waited_for_the_turn_knows_what_was_stored_meanwhile(atlas: Atlas, folder: Path, dsn: str) -> None:
    _, project = new_project(atlas, folder, memory_bytes=1500, memory_hard=True)
    content = noise(1000)
    outcome: list[object] = []
    with atlas.transaction() as tx:
        tx.memory.snapshot(project, "CLAUDE.md", content)
        thread = threading.Thread(target=lambda: outcome.append(atlas.memory.snapshot(project, "notes.md", content)))
        thread.start()
        until(lambda: waiting(dsn, "memory_put"))
    thread.join()
    assert len(outcome) == 1


def test_who_queues_for_a_file_waits_for_the_turn_first(atlas: Atlas, folder: Path, dsn: str) -> None:
    user, project = new_project(atlas, folder, memory_bytes=1500, memory_hard=True)
    atlas.memory.snapshot(project, "notes.md", b"one\n")
    key = {"user_id": user.id, "project_id": project.id, "path": "notes.md"}

    def queue() -> None:
        with psycopg.connect(dsn) as connection:
            for statement in (statements("memory_usage")["turn"], statements("memory")["lock"]):
                connection.execute(statement.text, key)

    with atlas.transaction() as tx:
        tx.memory.snapshot(project, "CLAUDE.md", noise(10))
        thread = threading.Thread(target=queue)
        thread.start()
        until(lambda: waiting(dsn, "memory_lock_limit"))
        with psycopg.connect(dsn) as connection:
            text = "SELECT 1 FROM memory_files WHERE user_id = %s AND path = 'notes.md' FOR UPDATE NOWAIT"
            assert connection.execute(text, [user.id]).fetchone() == (1,)
    thread.join()


def test_many_writers_never_pass_a_hard_limit(atlas: Atlas, folder: Path) -> None:
    user, project = new_project(atlas, folder, memory_bytes=10 * 1001 + 500, memory_hard=True)
    start = threading.Barrier(8)
    made: list[str] = []

    def write(number: int) -> None:
        start.wait()
        for turn in range(5):
            try:
                atlas.memory.snapshot(project, f"{number % 3}.md", noise(1000))
            except QuotaExceeded:
                continue
            made.append(f"{number} {turn}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 10
    assert atlas.quotas.memory(user).bytes == 10 * 1001


def test_a_restore_that_could_not_keep_what_stands_there_writes_nothing(client: Any, dsn: str, folder: Path) -> None:
    user, project = new_project(client, folder, memory_bytes=100, memory_hard=True)
    client.memory.capture(project)
    client.memory.checkpoint(project, "good")
    (folder / "notes.md").write_bytes(b"- small\n")
    client.memory.capture(project)
    precious = noise(1000)
    (folder / "CLAUDE.md").write_bytes(precious)
    before = stored(dsn, user)
    with pytest.raises(
        RestoreRefused, match=r"CLAUDE\.md is not on record .* nothing was written: the memory limit"
    ) as no:
        client.memory.restore(project, "good")
    assert no.value.paths == ("CLAUDE.md",)
    assert (folder / "CLAUDE.md").read_bytes() == precious
    assert (folder / "notes.md").read_bytes() == b"- small\n"
    assert stored(dsn, user) == before
    # Now the restore overwrites only recorded content.
    assert client.memory.restore(project, "good", paths=["notes.md"]) is not None
    assert (folder / "notes.md").read_bytes() == b"- first\n"
    client.quotas.set_limits(user, memory_hard=False)
    assert client.memory.restore(project, "good") is not None
    assert client.memory.undo(project) is not None
    assert (folder / "CLAUDE.md").read_bytes() == precious
