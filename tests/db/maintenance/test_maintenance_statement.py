"""The clean-up statement that people run by hand or by cron, and other deletions by plain SQL, do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from atlas_sdk import Atlas, NotFound, Project, User

PRUNE = "DELETE FROM memory_snapshots WHERE kind = 'auto' AND created_at < NOW() - INTERVAL '30 days'"
BODY = b"".join(b"line %d of the rules\n" % n for n in range(40))
TABLES = ("memory_blobs", "memory_files", "memory_snapshots", "checkpoints", "restores", "projects")


def new_project(client: Any, folder: Path, email: str = "ada@example.com") -> tuple[User, Project]:
    user = client.users.by_email(email) or client.users.create(email)
    return user, client.projects.create(user, path=folder)


def age(connection: psycopg.Connection[Any], project: Project, *, path: str = "%", days: int = 31) -> None:
    connection.execute(
        "UPDATE memory_snapshots SET created_at = created_at - make_interval(days => %s)"
        " WHERE project_id = %s AND path LIKE %s",
        [days, project.id, path],
    )


def rows(connection: psycopg.Connection[Any], column: str, value: UUID) -> dict[str, int]:
    counts = {}
    for table in TABLES:
        if table in {"memory_blobs", "projects"} and column == "project_id":
            continue
        found = connection.execute(f"SELECT count(*) FROM {table} WHERE {column} = %s", [value]).fetchone()
        counts[table] = found[0]
    return counts


@pytest.fixture
def admin(dsn: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def test_pruning_long_chains_leaves_every_other_version_readable(
    atlas: Atlas, admin: psycopg.Connection[Any], dsn: str, folder: Path
) -> None:
    user, project = new_project(atlas, folder)
    files = ["CLAUDE.md", "notes.md", "todo.md", "gone.md"]
    with atlas.transaction() as batch:
        for n in range(75):
            for path in files:
                # A caller asked for one version in ten. The watcher made the others.
                kind = "claude_md" if n % 10 == 3 else "auto"
                batch.memory.snapshot(project, path, BODY + b"%s %d\n" % (path.encode(), n), kind=kind)
    with atlas.transaction() as batch:
        batch.memory.delete(project, "gone.md")
        batch.memory.checkpoint(project, "kept")
    age(admin, project)
    with atlas.transaction() as batch:
        for n in range(75, 80):
            # todo.md does not change, so all its versions are old.
            for path in files[:2]:
                batch.memory.snapshot(project, path, BODY + b"%s %d\n" % (path.encode(), n), kind="auto")
    depth = admin.execute("SELECT max(depth) FROM memory_blobs").fetchone()
    assert depth > (60,)

    pruned = admin.execute(PRUNE).rowcount
    # The watcher made 67 of the 75. todo.md keeps the newest, gone.md the last content and the deletion.
    assert pruned == 67 + 67 + 66 + 66
    with Atlas.open(dsn) as fresh:
        remaining = fresh.memory.history(project, limit=1000)
        assert len(remaining) == 4 * 75 + 1 + 3 + 10 - pruned
        for version in remaining:
            if not version.deleted:
                expected = BODY + b"%s %d\n" % (version.path.encode(), version.seq - 1)
                assert fresh.memory.content(version) == expected
        newest = {version.path: version for version in fresh.memory.files(project)}
        assert {path: version.seq for path, version in newest.items()} == dict(
            zip(files, (80, 80, 75, 76), strict=True)
        )
        assert newest["gone.md"].deleted
        assert fresh.memory.read(project, "todo.md") == BODY + b"todo.md 74\n"
        last_content = fresh.memory.history(project, "gone.md", limit=2)[1]
        assert fresh.memory.content(last_content) == BODY + b"gone.md 74\n"
        assert fresh.memory.verify(user).ok
        # New versions can be made, also by the client that knew the old ones.
        for client, n in ((fresh, 80), (atlas, 81)):
            for path in files:
                version = client.memory.snapshot(project, path, BODY + b"%s %d\n" % (path.encode(), n))
                assert client.memory.content(version) == BODY + b"%s %d\n" % (path.encode(), n)
        assert fresh.memory.verify(user).ok
    # The former newest versions of todo.md and gone.md, and the deletion of gone.md, can be removed now.
    assert admin.execute(PRUNE).rowcount == 3


def test_pruning_twice_in_a_row_removes_nothing_more(client: Any, admin: psycopg.Connection[Any], folder: Path) -> None:
    _, project = new_project(client, folder)
    for n in range(4):
        client.memory.snapshot(project, "CLAUDE.md", b"%d" % n, kind="auto")
    age(admin, project)
    assert admin.execute(PRUNE).rowcount == 3
    assert admin.execute(PRUNE).rowcount == 0
    assert client.memory.read(project, "CLAUDE.md") == b"3"
    assert client.memory.snapshot(project, "CLAUDE.md", b"3") is None
    assert client.memory.snapshot(project, "CLAUDE.md", b"4").seq == 5


def test_a_deletion_is_remembered_however_old(client: Any, admin: psycopg.Connection[Any], folder: Path) -> None:
    _, project = new_project(client, folder)
    client.memory.snapshot(project, "CLAUDE.md", b"one", kind="auto")
    client.memory.delete(project, "CLAUDE.md")
    age(admin, project)
    admin.execute(PRUNE)
    with pytest.raises(NotFound):
        client.memory.read(project, "CLAUDE.md")
    deletion, content = client.memory.history(project, "CLAUDE.md")
    assert deletion.deleted
    assert client.memory.content(content) == b"one"


def test_restores_can_be_undone_after_pruning(client: Any, admin: psycopg.Connection[Any], folder: Path) -> None:
    _, project = new_project(client, folder)
    client.memory.capture(project, kind="auto")
    client.memory.checkpoint(project, "good")
    for n in range(3):
        (folder / "CLAUDE.md").write_bytes(b"edit %d" % n)
        client.memory.capture(project, kind="auto")
    client.memory.restore(project, "good")
    age(admin, project)
    assert admin.execute(PRUNE).rowcount == 4
    client.memory.undo(project)
    assert (folder / "CLAUDE.md").read_bytes() == b"edit 2"
    client.memory.redo(project)
    assert (folder / "CLAUDE.md").read_bytes() == b"# Rules\n\nBe kind.\n"


@pytest.fixture
def busy(atlas: Atlas, tmp_path: Path) -> list[tuple[User, Project]]:
    """Make two users with two projects each, with equal contents and rows of every kind."""
    made = []
    for email in ("ada@example.com", "bob@example.com"):
        for name in ("one", "two"):
            folder = tmp_path / email / name
            folder.mkdir(parents=True)
            user, project = new_project(atlas, folder, email)
            for n in range(5):
                (folder / "CLAUDE.md").write_bytes(BODY + b"%d" % n)
                atlas.memory.capture(project)
                atlas.memory.checkpoint(project, f"c{n}")
            atlas.memory.restore(project, "c1")
            made.append((user, project))
    return made


def test_deleting_a_project_removes_its_memory_and_nothing_of_others(
    atlas: Atlas, admin: psycopg.Connection[Any], busy: list[tuple[User, Project]]
) -> None:
    others = [rows(admin, "project_id", project.id) for _, project in busy[1:]]
    admin.execute("DELETE FROM projects WHERE id = %s", [busy[0][1].id])
    assert set(rows(admin, "project_id", busy[0][1].id).values()) == {0}
    assert [rows(admin, "project_id", project.id) for _, project in busy[1:]] == others
    for user, project in busy[1:]:
        assert atlas.memory.read(project, "CLAUDE.md", "c3") == BODY + b"3"
        assert atlas.memory.verify(user).ok
    with pytest.raises(NotFound):
        atlas.memory.snapshot(busy[0][1], "CLAUDE.md", b"into the void")


def test_deleting_a_user_removes_everything_of_theirs_and_nothing_of_others(
    atlas: Atlas, admin: psycopg.Connection[Any], busy: list[tuple[User, Project]]
) -> None:
    (ada, _), (bob, project) = busy[0], busy[3]
    before = rows(admin, "user_id", bob.id)
    assert min(before.values()) >= 2
    admin.execute("DELETE FROM users WHERE id = %s", [ada.id])
    assert set(rows(admin, "user_id", ada.id).values()) == {0}
    assert rows(admin, "user_id", bob.id) == before
    assert atlas.memory.verify(bob).ok
    assert atlas.memory.read(project, "CLAUDE.md", "c3") == BODY + b"3"
    assert atlas.memory.undo(project) is not None


def test_a_blob_that_something_needs_cannot_be_deleted(
    atlas: Atlas, admin: psycopg.Connection[Any], folder: Path
) -> None:
    user, project = new_project(atlas, folder)
    for n in range(4):
        atlas.memory.snapshot(project, "CLAUDE.md", BODY + b"%d" % n, kind="auto")
    age(admin, project)
    assert admin.execute(PRUNE).rowcount == 3
    # No version has these contents any more, but the newest content is a delta of them.
    bases = admin.execute(
        "SELECT sha256 FROM memory_blobs WHERE sha256 NOT IN (SELECT sha256 FROM memory_snapshots)"
    ).fetchall()
    assert len(bases) == 3
    for (sha256,) in bases:
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            admin.execute("DELETE FROM memory_blobs WHERE sha256 = %s", [sha256])
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        admin.execute("DELETE FROM memory_blobs WHERE depth = 3")
    assert atlas.memory.read(project, "CLAUDE.md") == BODY + b"3"
    assert atlas.memory.verify(user).ok
