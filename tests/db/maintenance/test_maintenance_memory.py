"""Maintenance of the memory: removed versions, and removed contents that no version needs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from upkeep import NOISE, Admin, age, counts, number, take

from atlas_sdk import Project, User


def seqs(client: Any, project: Project, path: str) -> list[int]:
    return sorted({version.seq for version in client.memory.history(project, path, limit=1000)})


@pytest.mark.every_server
def test_old_automatic_versions_go_and_everything_else_stays(
    client: Any, user: User, project: Project, migrated: Admin
) -> None:
    take(client, project, "a.md", b"1", b"2", b"3")
    take(client, project, "a.md", b"asked for", kind="claude_md")
    client.memory.checkpoint(project, "kept")
    take(client, project, "a.md", b"5", b"6")
    take(client, project, "still.md", b"1", b"2")
    take(client, project, "gone.md", b"1", b"last content")
    client.memory.delete(project, "gone.md")
    age(migrated, project)
    take(client, project, "a.md", b"young", b"newest")
    report = client.maintenance.prune_snapshots(batch=3)
    assert counts(report) == (10, 7, 0)
    # a.md keeps the version that a caller asked for and a checkpoint names, and the young ones; others the newest.
    assert seqs(client, project, "a.md") == [4, 7, 8]
    assert seqs(client, project, "still.md") == [2]
    assert seqs(client, project, "gone.md") == [2, 3]
    assert client.memory.read(project, "a.md", "kept") == b"asked for"
    assert client.memory.verify(user).ok
    assert counts(client.maintenance.prune_snapshots()) == (3, 0, 0)


def test_a_longer_time_keeps_more(client: Any, project: Project, migrated: Admin) -> None:
    take(client, project, "a.md", b"1", b"2")
    age(migrated, project, days=40)
    assert client.maintenance.prune_snapshots(keep=timedelta(days=41)).removed == 0
    assert client.maintenance.prune_snapshots(keep=timedelta(days=39)).removed == 1


def body(n: int) -> bytes:
    """Return one of many contents that are small deltas of each other."""
    return b"".join(b"line %d of the rules\n" % line for line in range(60)) + b"%d\n" % n


@pytest.mark.every_server
def test_contents_that_nothing_needs_go_with_what_they_were_made_from(
    client: Any, user: User, project: Project, migrated: Admin
) -> None:
    bob = client.users.create("bob@example.com")
    other = client.projects.create(bob, path="/srv/app")
    for owner in (project, other):
        take(client, owner, "a.md", *(body(n) for n in range(6)))
        # The new content is a keyframe, so the newest version no longer needs the older contents.
        take(client, owner, "a.md", NOISE)
    age(migrated, project)
    blobs, taken = number(migrated, "memory_blobs"), stored(migrated)
    assert counts(client.maintenance.collect_contents()) == (blobs, 0, 0)
    assert client.maintenance.prune_snapshots().removed == 6
    report = client.maintenance.collect_contents(batch=2)
    # Bob's equal contents stay.
    assert (report.examined, report.removed, report.skipped) == (blobs, 6, 0)
    assert number(migrated, "memory_blobs") == blobs - 6
    assert report.freed_bytes == taken - stored(migrated) > 0
    assert client.memory.verify(user).ok
    assert client.memory.verify(bob).ok
    assert client.memory.content(client.memory.history(other, "a.md", limit=3)[2]) == body(4)
    # A removed content can be stored again.
    take(client, project, "a.md", body(3))
    assert client.memory.read(project, "a.md") == body(3)


def stored(admin: Admin) -> int:
    row = admin.execute("SELECT sum(octet_length(data)) FROM memory_blobs").fetchone()
    assert row is not None
    return row[0]


def test_bases_of_deltas_stay(client: Any, user: User, project: Project, migrated: Admin) -> None:
    take(client, project, "a.md", *(body(n) for n in range(9)))
    age(migrated, project)
    assert client.maintenance.prune_snapshots().removed == 8
    assert migrated.execute("SELECT max(depth) FROM memory_blobs").fetchone() == (8,)
    assert client.maintenance.collect_contents().removed == 0
    assert client.memory.read(project, "a.md") == body(8)
    assert client.memory.verify(user).ok
