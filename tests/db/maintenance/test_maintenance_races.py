"""Maintenance at the same time as other calls and other runs: it loses no needed row, and counts nothing twice."""

from __future__ import annotations

import multiprocessing
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from patience import PATIENCE_S
from upkeep import wait_until_blocked

from atlas_sdk import Atlas, Project, User
from atlas_sdk.ops import maintenance, purges, retention

Admin = psycopg.Connection[Any]
NOISE = [random.Random(seed).randbytes(1500) for seed in range(6)]


@pytest.fixture
def user(atlas: Atlas) -> User:
    return atlas.users.create("ada@example.com")


@pytest.fixture
def project(atlas: Atlas, user: User) -> Project:
    return atlas.projects.create(user, path="/srv/app")


def age(admin: Admin) -> None:
    admin.execute("UPDATE memory_snapshots SET created_at = created_at - interval '31 days' WHERE kind = 'auto'")


def orphan(atlas: Atlas, admin: Admin, project: Project) -> bytes:
    """Store a content that no version has; return its hash."""
    for content in NOISE[:2]:
        atlas.memory.snapshot(project, "a.md", content, kind="auto")
    age(admin)
    assert atlas.maintenance.prune_snapshots().removed == 1
    found = admin.execute("SELECT sha256 FROM memory_blobs WHERE NOT memory_blob_is_needed(user_id, sha256)").fetchall()
    ((sha256,),) = found
    return sha256


def collect(dsn: str, user: User, sha256: bytes) -> int:
    """Try to collect one content; return the number of removed contents. A wait for a lock is an error."""
    with psycopg.connect(dsn, options="-c lock_timeout=1s") as connection:
        statement = "SELECT count(*) FROM maintenance_collect(%s, %s)"
        row = connection.execute(statement, [[user.id], [sha256]]).fetchone()
    assert row is not None
    return row[0]


# A content that is stored again.


def test_a_content_that_is_being_stored_again_is_passed_over(
    atlas: Atlas, migrated: Admin, dsn: str, user: User, project: Project
) -> None:
    sha256 = orphan(atlas, migrated, project)
    with atlas.transaction() as tx:
        tx.memory.snapshot(project, "b.md", NOISE[0])
        # That version is not committed yet.
        assert collect(dsn, user, sha256) == 0
        assert atlas.maintenance.collect_contents().removed == 0
    assert collect(dsn, user, sha256) == 0
    assert atlas.memory.read(project, "b.md") == NOISE[0]
    assert atlas.memory.verify(user).ok


def test_what_was_found_unneeded_is_looked_at_again_under_the_lock(
    atlas: Atlas, migrated: Admin, dsn: str, user: User, project: Project
) -> None:
    sha256 = orphan(atlas, migrated, project)
    # Store the content again between the search and the collection.
    atlas.memory.snapshot(project, "b.md", NOISE[0])
    assert collect(dsn, user, sha256) == 0
    assert atlas.memory.read(project, "b.md") == NOISE[0]


def test_a_content_is_stored_anew_while_its_old_row_is_being_collected(
    atlas: Atlas, migrated: Admin, dsn: str, user: User, project: Project
) -> None:
    sha256 = orphan(atlas, migrated, project)
    with psycopg.connect(dsn) as collector, ThreadPoolExecutor(1) as threads:
        assert collector.execute(
            "SELECT count(*) FROM maintenance_collect(%s, %s)", [[user.id], [sha256]]
        ).fetchone() == (1,)
        put = threads.submit(atlas.memory.snapshot, project, "b.md", NOISE[0])
        wait_until_blocked(migrated)
        collector.commit()
        assert put.result(30) is not None
    assert atlas.memory.read(project, "b.md") == NOISE[0]
    # A delta of the content is readable too.
    atlas.memory.snapshot(project, "b.md", NOISE[0] + b"more")
    assert atlas.memory.read(project, "b.md") == NOISE[0] + b"more"
    assert atlas.memory.verify(user).ok


def test_the_bases_of_a_new_content_are_safe_before_it_is_committed(
    atlas: Atlas, migrated: Admin, user: User, project: Project
) -> None:
    text = b"".join(b"line %d\n" % n for n in range(200))
    atlas.memory.snapshot(project, "a.md", text, kind="auto")
    with atlas.transaction() as tx:
        tx.memory.snapshot(project, "a.md", text + b"2", kind="auto")
        age(migrated)
        assert [report.removed for report in atlas.maintenance.run(["snapshots", "contents"])] == [0, 0]
    assert migrated.execute("SELECT max(depth) FROM memory_blobs").fetchone() == (1,)
    # Now the old version may be removed, but its content may not.
    assert [report.removed for report in atlas.maintenance.run(["snapshots", "contents"])] == [1, 0]
    assert atlas.memory.read(project, "a.md") == text + b"2"
    assert atlas.memory.verify(user).ok


def test_what_a_checkpoint_under_way_has_named_is_left_to_the_next_run(
    atlas: Atlas, migrated: Admin, user: User, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PAUSES", 2)
    atlas.memory.snapshot(project, "a.md", NOISE[0], kind="auto")
    age(migrated)
    with atlas.transaction() as tx:
        tx.memory.checkpoint(project, "named")
        # Only after the commit do others see that the checkpoint needs the content. Meanwhile the version is removed.
        atlas.memory.snapshot(project, "a.md", NOISE[1])
        versions, contents = atlas.maintenance.run(["snapshots", "contents"])
        assert (versions.removed, contents.removed, contents.skipped) == (1, 0, 1)
        assert contents.complete
    assert atlas.memory.read(project, "a.md", "named") == NOISE[0]
    assert atlas.maintenance.collect_contents().removed == 0
    assert atlas.memory.verify(user).ok


# Names.


def test_a_host_that_is_being_taken_over_is_kept(atlas: Atlas, migrated: Admin, project: Project) -> None:
    preview = atlas.previews.create(project, host="app.example.com")
    migrated.execute("DELETE FROM previews WHERE id = %s", [preview.id])
    with atlas.transaction() as tx:
        made = tx.previews.create(project, host="app.example.com")
        assert atlas.maintenance.purge_claims().removed == 0
    assert atlas.maintenance.purge_claims().removed == 0
    assert atlas.previews.by_host("app.example.com") == made


def test_what_was_found_lost_is_looked_at_again_under_the_lock(atlas: Atlas, migrated: Admin, project: Project) -> None:
    preview = atlas.previews.allocate_port(atlas.previews.create(project, host="app.example.com"))
    asked = {
        "claims": {"kinds": ["preview_host"], "values": [preview.host]},
        "ports": {"machines": [preview.machine], "ports": [preview.host_port]},
    }

    def freed() -> list[int]:
        return [migrated.execute(purges.sql[f"free_{name}"].text, names).rowcount for name, names in asked.items()]

    assert freed() == [0, 0]
    migrated.execute("UPDATE previews SET status = 'failed'")
    assert freed() == [1, 1]
    assert atlas.previews.create(project, host="app.example.com")


def test_a_user_who_is_busy_is_waited_for_at_the_end(atlas: Atlas, migrated: Admin, dsn: str, user: User) -> None:
    bob = atlas.users.create("bob@example.com")
    for owner in (user, bob):
        atlas.quotas.reserve(owner, tokens=5)
    migrated.execute("UPDATE quota_reservations SET expires_at = now() - interval '1 s'")
    with psycopg.connect(dsn) as other, ThreadPoolExecutor(1) as threads:
        other.execute("SELECT FROM user_quotas WHERE user_id = %s FOR UPDATE", [user.id])
        job = threads.submit(atlas.maintenance.reclaim_reservations)
        wait_until_blocked(migrated)
        # The reservations of other users are ended without a wait.
        assert atlas.quotas.usage(bob).tokens_used == 5
        other.commit()
        assert job.result(30).removed == 2


# Several at once.


def test_who_asks_at_the_same_moment_waits_for_the_answer(migrated: Admin, dsn: str) -> None:
    day = timedelta(days=1)
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second, ThreadPoolExecutor(1) as threads:

        def begun(connection: psycopg.Connection[Any]) -> int:
            asked = {"id": uuid4(), "every": day, "retry": day, "dead": day, "attribution": '{"source": "watcher"}'}
            connection.execute(maintenance.sql["lock"].text)
            return connection.execute(maintenance.sql["begin_if_due"].text, asked).rowcount

        assert begun(first) == 1
        other = threads.submit(begun, second)
        wait_until_blocked(migrated)
        first.commit()
        assert other.result(30) == 0


def _run(dsn: str, results: Any) -> None:
    with Atlas.open(dsn) as atlas:
        results.put({report.name: (report.removed, report.problem) for report in atlas.maintenance.run(batch=50)})


def test_four_processes_share_the_work(atlas: Atlas, migrated: Admin, dsn: str, user: User, project: Project) -> None:
    migrated.execute(
        """INSERT INTO sessions (user_id, token_hash, created_at, expires_at)
           SELECT %s, sha256(n::text::bytea), now() - interval '9 days', now() - n * interval '1 second'
           FROM generate_series(1, 900) AS n""",
        [user.id],
    )
    migrated.execute(
        """INSERT INTO events (user_id, type, created_at)
           SELECT %s, 'tick', now() - interval '400 days' - n * interval '1 s' FROM generate_series(1, 900) AS n""",
        [user.id],
    )
    with atlas.transaction() as tx:
        for n in range(200):
            tx.memory.snapshot(project, f"{n % 7}.md", random.Random(n).randbytes(300), kind="auto")
    for _ in range(60):
        atlas.quotas.reserve(user, tokens=1)
    migrated.execute("UPDATE quota_reservations SET expires_at = now() - interval '1 s'")
    age(migrated)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_run, args=(dsn, results)) for _ in range(4)]
    for process in processes:
        process.start()
    done = [results.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    assert [problem for one in done for _, problem in one.values() if problem is not None] == []
    totals = {name: sum(one[name][0] for one in done) for name in done[0]}
    assert {name: total for name, total in totals.items() if total} == {
        "reservations": 60,
        "sessions": 900,
        "snapshots": 193,
        "contents": 193,
        "events": 900,
    }
    assert atlas.quotas.usage(user).tokens_used == 60
    assert atlas.quotas.verify().balanced
    assert atlas.memory.verify(user).ok


def write(dsn: str, project: Project, seed: int) -> dict[str, bytes]:
    """Write one file again and again, and read it back; return its path and its last content."""
    rng = random.Random(seed)
    path = f"{seed}.md"
    with Atlas.open(dsn) as client:
        for n in range(150):
            # Use few contents, so that one that has just become unused is stored again, and deltas of each other.
            content = rng.choice(NOISE) + b"x" * rng.randrange(3)
            client.memory.snapshot(project, path, content, kind="auto")
            assert client.memory.read(project, path) == content
            if n % 40 == 17:
                client.memory.checkpoint(project, f"c{seed}-{n}")
    return {path: content}


def maintain(dsn: str, over: threading.Event) -> int:
    """Make every version old at once, and run maintenance; return the number of removed contents."""
    removed = 0
    with Atlas.open(dsn) as client, psycopg.connect(dsn, autocommit=True) as admin:
        while not over.is_set():
            age(admin)
            versions, contents = client.maintenance.run(["snapshots", "contents"], batch=7)
            assert (versions.problem, contents.problem) == (None, None)
            removed += contents.removed
    return removed


def test_captures_race_the_collector_and_every_version_reads_back(
    atlas: Atlas, dsn: str, user: User, project: Project
) -> None:
    over = threading.Event()
    written: dict[str, bytes] = {}
    with ThreadPoolExecutor(6) as threads:
        maintainers = [threads.submit(maintain, dsn, over) for _ in range(2)]
        writers = [threads.submit(write, dsn, project, seed) for seed in range(4)]
        try:
            for writer in writers:
                written |= writer.result(300)
        finally:
            over.set()
        assert sum(one.result(60) for one in maintainers) > 20
    assert atlas.memory.verify(user).ok
    assert {path: atlas.memory.read(project, path) for path in written} == written
    named = [checkpoint.name for checkpoint in atlas.memory.checkpoints(project)]
    assert len(named) == 16
    for name in named:
        for version in atlas.memory.resolve(project, name).versions:
            atlas.memory.content(version)
