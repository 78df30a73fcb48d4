"""Deleted and purged projects: the rows that stay, the names that become free, and the calls that wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from guard_adapter import until, waiting
from patience import PATIENCE_S
from previewing import WAY, events_of, preview_in
from project_rows import leave_alone, types

from atlas_sdk import AlreadyExists, Atlas, AtlasError, InvalidInput, NotAProject, NotFound, Project, User


@pytest.fixture
def user(client: Any) -> User:
    return client.users.create("ada@example.com")


@pytest.fixture
def project(client: Any, user: User, folder: Path) -> Project:
    return client.projects.create(user, path=folder, session_id="app", framework="django", language="python")


# Deletion.


def test_a_deleted_project_keeps_its_memory_and_makes_room(client: Any, user: User, project: Project) -> None:
    first = client.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    client.memory.checkpoint(project, "one")
    last = client.memory.snapshot(project, "CLAUDE.md", b"# New rules\n")
    deleted = client.projects.delete(project)
    assert (deleted.id, deleted.status) == (project.id, "deleted")
    assert client.projects.delete(project) == deleted == client.projects.get(user, project.id)
    assert client.projects.list(user) == []
    assert client.projects.by_session("app") is None
    assert client.projects.at(project.path, user=user) is None
    with pytest.raises(NotAProject):
        client.projects.by_path(project.path)
    # The whole history stays.
    for known in (project, deleted):
        assert [version.id for version in client.memory.history(known, "CLAUDE.md") if version.checkpoint is None] == [
            last.id,
            first.id,
        ]
        assert client.memory.read(known, "CLAUDE.md", "one") == b"# Rules\n"
    # The folder and the session id are free, also for the same user.
    again = client.projects.create(user, path=project.path, session_id="app")
    assert again.id != project.id
    assert client.projects.by_session("app") == again
    assert client.memory.history(again) == []
    assert client.projects.delete(again).status == "deleted"
    assert types(client, project) == ["project.created", "checkpoint.created", "project.deleted"]


@pytest.mark.parametrize("status", WAY)
def test_previews_of_a_deleted_project_give_back_host_and_port(
    client: Any, migrated: Any, user: User, project: Project, status: str
) -> None:
    preview = preview_in(client, project, status)
    other = client.projects.create(user, path="/srv/other")
    theirs = client.previews.allocate_port(client.previews.create(other, host="other.example.com"))
    live = preview.is_live
    if live:
        client.previews.allocate_port(preview)
    client.projects.delete(project)
    assert client.previews.get(user, preview.id).status == ("stopped" if live else status)
    assert client.previews.by_host("app.example.com") is None
    held = migrated.execute("SELECT preview_id FROM preview_ports").fetchall()
    assert held == [(theirs.id,)]
    hosts = migrated.execute("SELECT value FROM claims WHERE kind = 'preview_host'").fetchall()
    assert hosts == [("other.example.com",)]
    assert events_of(client, project).count("preview.stopped") == (live or status == "stopped")
    (event,) = client.events.search(user, event_type="project.deleted")
    assert (event.meta["previews_stopped"], event.meta["session_id"]) == (int(live), "app")


def test_builds_of_a_deleted_project_end(client: Any, user: User, project: Project) -> None:
    queued, running, done = (client.builds.create(project) for _ in range(3))
    client.builds.start(running)
    client.builds.append_log(running, "half of it\n")
    client.builds.succeed(client.builds.start(done))
    client.projects.delete(project)
    ended = {build.id: build for build in client.builds.list(project)}
    assert [ended[build.id].status for build in (queued, running, done)] == ["failed", "failed", "succeeded"]
    assert ended[running.id].error_message == "the project was deleted"
    assert client.builds.log(running) == "half of it\n"


def test_a_deleted_project_takes_no_more(client: Any, migrated: Any, project: Project) -> None:
    client.projects.delete(project)
    with pytest.raises(NotFound, match="is deleted"):
        client.builds.create(project)
    with pytest.raises(NotFound, match="is deleted"):
        client.previews.create(project, host="app.example.com")
    leave_alone(migrated, project, days=1)
    assert client.projects.touch(project) is False
    assert migrated.execute("SELECT count(*) FROM claims WHERE kind = 'preview_host'").fetchone() == (0,)
    assert types(client, project) == ["project.created", "project.deleted"]


# Purging.


def test_a_project_in_use_is_not_purged(client: Any, user: User, project: Project) -> None:
    client.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    for known in (project, client.projects.archive(project)):
        with pytest.raises(InvalidInput, match=r"call `projects.delete` first") as failure:
            client.projects.purge(known)
        assert failure.value.field == "project"
    assert client.memory.read(project, "CLAUDE.md") == b"# Rules\n"


def test_a_purge_takes_everything_but_the_bill_and_the_audit(
    client: Any, migrated: Any, user: User, project: Project
) -> None:
    client.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    client.memory.checkpoint(project, "one")
    build, preview = client.builds.create(project), client.previews.create(project, host="app.example.com")
    client.usage.log(user, kind="minutes", amount=5, project=project)
    other = client.projects.create(user, path="/srv/other")
    client.memory.snapshot(other, "CLAUDE.md", b"# Rules\n")
    client.projects.delete(project)
    gone = client.projects.purge(project)
    assert (gone.project_id, gone.memory_snapshots, gone.checkpoints, gone.builds, gone.previews) == (
        project.id,
        2,
        1,
        1,
        1,
    )
    assert client.projects.purge(project) is None
    for look in (
        lambda: client.projects.get(user, project.id),
        lambda: client.builds.get(user, build.id),
        lambda: client.previews.get(user, preview.id),
        lambda: client.projects.delete(project),
        lambda: client.projects.update_memory(project),
    ):
        with pytest.raises(NotFound):
            look()
    assert client.memory.history(project) == []
    # Contents that another project also has are not deleted.
    assert client.memory.read(other, "CLAUDE.md") == b"# Rules\n"
    assert [(total.kind, total.amount) for total in client.usage.totals(user)] == [("minutes", 5)]
    assert types(client, project)[-2:] == ["project.deleted", "project.purged"]
    left = migrated.execute(
        """SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
           WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
             AND a.attname = 'project_id' AND c.relname NOT IN ('events', 'usage_ledger')"""
    ).fetchall()
    assert {"builds", "previews", "checkpoints", "memory_files", "memory_snapshots", "restores"} <= {n for (n,) in left}
    for (table,) in left:
        query = psycopg.sql.SQL("SELECT count(*) FROM {} WHERE project_id = %s").format(psycopg.sql.Identifier(table))
        assert migrated.execute(query, [project.id]).fetchone() == (0,), table


def test_after_a_purge_nothing_is_taken_for_kept(embedded: Atlas, folder: Path) -> None:
    # On the embedded server a client relies on the versions that it knows, without a round trip.
    user = embedded.users.create(f"{uuid4().hex}@example.com")
    project = embedded.projects.create(user, path=folder)
    assert embedded.memory.snapshot(project, "CLAUDE.md", b"# Rules\n") is not None
    assert embedded.memory.snapshot(project, "CLAUDE.md", b"# Rules\n") is None
    embedded.projects.purge(embedded.projects.delete(project))
    with pytest.raises(NotFound):
        embedded.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")


def test_a_purge_that_is_rolled_back_took_nothing(atlas: Atlas, folder: Path) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path=folder)
    atlas.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    with pytest.raises(ZeroDivisionError), atlas.transaction() as tx:
        tx.projects.purge(tx.projects.delete(project))
        1 / 0  # noqa: B018
    assert atlas.projects.get(user, project.id).status == "active"
    assert atlas.memory.read(project, "CLAUDE.md") == b"# Rules\n"
    with pytest.raises(AlreadyExists):
        atlas.projects.create(user, path=folder)


# Several at once.


@pytest.mark.parametrize("kind", ["build", "preview"])
def test_what_is_added_while_a_project_is_deleted_is_refused(
    atlas: Atlas, dsn: str, migrated: Any, folder: Path, kind: str
) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path=folder)
    deleted, go_on = threading.Event(), threading.Event()

    def delete() -> None:
        with atlas.transaction() as tx:
            tx.projects.delete(project)
            deleted.set()
            assert go_on.wait(PATIENCE_S)

    def add() -> str:
        try:
            if kind == "build":
                return atlas.builds.create(project).status
            return atlas.previews.create(project, host="app.example.com").status
        except AtlasError as refused:
            return type(refused).__name__

    with ThreadPoolExecutor(2) as pool:
        deletion = pool.submit(delete)
        assert deleted.wait(PATIENCE_S)
        addition = pool.submit(add)
        until(lambda: len(waiting(dsn)) == 1)
        go_on.set()
        assert addition.result(PATIENCE_S) == "NotFound"
        deletion.result(PATIENCE_S)
    assert migrated.execute("SELECT count(*) FROM claims WHERE kind = 'preview_host'").fetchone() == (0,)


def test_a_deletion_waits_for_what_is_being_added(atlas: Atlas, dsn: str, folder: Path) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path=folder)
    with ThreadPoolExecutor(1) as pool:
        with atlas.transaction() as tx:
            preview = tx.previews.create(project, host="app.example.com")
            deletion = pool.submit(atlas.projects.delete, project)
            until(lambda: len(waiting(dsn)) == 1)
        assert deletion.result(PATIENCE_S).status == "deleted"
    assert atlas.previews.get(user, preview.id).status == "stopped"
