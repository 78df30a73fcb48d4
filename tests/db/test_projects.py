"""Projects: paged, touched, measured, deleted and purged, through both faces."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from guard_adapter import until, waiting
from patience import PATIENCE_S
from previewing import WAY, events_of, preview_in

from atlas_sdk import (
    AlreadyExists,
    Atlas,
    AtlasError,
    IllegalTransition,
    InvalidInput,
    NotAProject,
    NotFound,
    NotPermitted,
    Project,
    User,
)


@pytest.fixture
def user(face: Any) -> User:
    return face.users.create("ada@example.com")


@pytest.fixture
def project(face: Any, user: User, folder: Path) -> Project:
    return face.projects.create(user, path=folder, session_id="app", framework="django", language="python")


def types(face: Any, project: Project) -> list[str]:
    user = face.users.get(project.user_id)
    return [event.type for event in face.events.recent(user, project=project)][::-1]


def leave_alone(connection: psycopg.Connection[Any], project: Project, *, days: int) -> None:
    """Let nobody have used a project for so long."""
    with connection.transaction():
        connection.execute("ALTER TABLE projects DISABLE TRIGGER update_projects_updated_at")
        connection.execute(
            "UPDATE projects SET updated_at = now() - make_interval(days => %s) WHERE id = %s", [days, project.id]
        )
        connection.execute("ALTER TABLE projects ENABLE TRIGGER update_projects_updated_at")


# Pages.


def test_what_is_known_of_a_project_is_on_it(face: Any, user: User, project: Project) -> None:
    found = face.projects.get(user, project.id)
    assert found == project
    assert (found.framework, found.language) == ("django", "python")
    assert (found.has_memory, found.memory_size) == (False, 0)


@pytest.mark.parametrize("order", ["created", "used"])
def test_pages_hold_every_project_once(face: Any, migrated: Any, user: User, order: str) -> None:
    for number in range(7):
        face.projects.create(user, path=f"/srv/{number}")
    face.projects.create(face.users.create("bob@example.com"), path="/srv/bobs")
    # Of one instant, as those of one transaction are: then the id decides.
    migrated.execute(
        "UPDATE projects SET created_at = '2026-01-01 00:00+00' WHERE user_id = %s AND path < '/srv/4'", [user.id]
    )
    every = face.projects.list(user, order=order)
    assert sorted(one.path for one in every) == [f"/srv/{number}" for number in range(7)]
    seen = face.projects.list(user, order=order, limit=3)
    while page := face.projects.list(user, order=order, limit=3, after=seen[-1]):
        assert len(page) <= 3
        assert seen[-1] not in page
        seen += page
    assert seen == every


def test_a_new_project_does_not_shift_the_pages(face: Any, user: User) -> None:
    made = [face.projects.create(user, path=f"/srv/{number}") for number in range(4)]
    first = face.projects.list(user, limit=2)
    face.projects.create(user, path="/srv/new")
    face.projects.archive(made[0])
    assert face.projects.list(user, limit=2, after=first[-1]) == made[2:]


def test_projects_are_listed_by_status(face: Any, user: User) -> None:
    active, other, third = (face.projects.create(user, path=f"/srv/{name}") for name in "abc")
    archived, deleted = face.projects.archive(other), face.projects.delete(third)
    assert face.projects.list(user) == [active]
    assert face.projects.list(user, status="archived") == [archived]
    assert face.projects.list(user, status="deleted") == [deleted]
    assert face.projects.list(user, status=None) == [active, archived, deleted]


def test_what_was_used_last_comes_first(face: Any, migrated: Any, user: User) -> None:
    first, second = face.projects.create(user, path="/srv/a"), face.projects.create(user, path="/srv/b")
    assert [one.id for one in face.projects.list(user, order="used")] == [second.id, first.id]
    # Just made is just used.
    assert face.projects.touch(first) is False
    leave_alone(migrated, first, days=2)
    leave_alone(migrated, second, days=1)
    assert [face.projects.touch(first), face.projects.touch(first)] == [True, False]
    used = face.projects.list(user, order="used")
    assert [one.id for one in used] == [first.id, second.id]
    assert used[0].updated_at - used[1].updated_at > timedelta(hours=23)
    assert [one.id for one in face.projects.list(user)] == [first.id, second.id]
    assert types(face, first) == ["project.created"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"status": "lost"}, "status"),
        ({"order": "name"}, "order"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
    ],
)
def test_bad_input_is_named(face: Any, user: User, bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as failure:
        face.projects.list(user, **bad)
    assert failure.value.field == field


# What is noted of the memory.


def test_what_is_noted_of_the_memory_is_taken_from_the_memory(face: Any, user: User, project: Project) -> None:
    assert face.projects.update_memory(project) == project
    face.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    face.memory.snapshot(project, "notes.md", b"- one\n")
    measured = face.projects.update_memory(project)
    assert (measured.has_memory, measured.memory_size) == (True, 14)
    assert face.projects.get(user, project.id) == measured == face.projects.update_memory(project)
    for name in ("CLAUDE.md", "notes.md"):
        face.memory.delete(project, name)
    emptied = face.projects.update_memory(project)
    assert (emptied.has_memory, emptied.memory_size) == (False, 0)
    assert types(face, project) == ["project.created", "project.memory_updated", "project.memory_updated"]


# Status.


def test_a_status_is_set_by_its_name(face: Any, project: Project) -> None:
    for status in ("archived", "archived", "active", "deleted"):
        assert face.projects.set_status(project, status).status == status
    assert types(face, project) == ["project.created", "project.archived", "project.activated", "project.deleted"]
    with pytest.raises(InvalidInput, match="active, archived, deleted") as failure:
        face.projects.set_status(project, "lost")
    assert failure.value.field == "status"


@pytest.mark.parametrize("to", ["active", "archived"])
def test_the_database_brings_no_deleted_project_back(face: Any, migrated: Any, project: Project, to: str) -> None:
    deleted = face.projects.delete(project)
    with pytest.raises(NotFound, match="is deleted; register its folder again"):
        face.projects.set_status(deleted, to)
    with pytest.raises(psycopg.Error) as refused:
        migrated.execute("UPDATE projects SET status = %s WHERE id = %s", [to, project.id])
    assert refused.value.sqlstate == "23T01"
    # As it would reach a caller.
    from atlas_sdk._translate import translate

    told = translate(refused.value, "postgresql://")
    assert isinstance(told, IllegalTransition)
    assert f"the project {project.id} is deleted, which is final: it cannot become {to}" in str(told)


# Deletion.


def test_a_deleted_project_keeps_its_memory_and_makes_room(face: Any, user: User, project: Project) -> None:
    first = face.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    face.memory.checkpoint(project, "one")
    last = face.memory.snapshot(project, "CLAUDE.md", b"# New rules\n")
    deleted = face.projects.delete(project)
    assert (deleted.id, deleted.status) == (project.id, "deleted")
    assert face.projects.delete(project) == deleted == face.projects.get(user, project.id)
    assert face.projects.list(user) == []
    assert face.projects.by_session("app") is None
    assert face.projects.at(project.path, user=user) is None
    with pytest.raises(NotAProject):
        face.projects.by_path(project.path)
    # Nothing of the memory is lost.
    for known in (project, deleted):
        assert [version.id for version in face.memory.history(known, "CLAUDE.md") if version.checkpoint is None] == [
            last.id,
            first.id,
        ]
        assert face.memory.read(known, "CLAUDE.md", "one") == b"# Rules\n"
    # Folder and session id are free, for the same user as well.
    again = face.projects.create(user, path=project.path, session_id="app")
    assert again.id != project.id
    assert face.projects.by_session("app") == again
    assert face.memory.history(again) == []
    assert face.projects.delete(again).status == "deleted"
    assert types(face, project) == ["project.created", "checkpoint.created", "project.deleted"]


@pytest.mark.parametrize("status", WAY)
def test_previews_of_a_deleted_project_give_back_host_and_port(
    face: Any, migrated: Any, user: User, project: Project, status: str
) -> None:
    preview = preview_in(face, project, status)
    other = face.projects.create(user, path="/srv/other")
    theirs = face.previews.allocate_port(face.previews.create(other, host="other.example.com"))
    live = preview.is_live
    if live:
        face.previews.allocate_port(preview)
    face.projects.delete(project)
    assert face.previews.get(user, preview.id).status == ("stopped" if live else status)
    assert face.previews.by_host("app.example.com") is None
    held = migrated.execute("SELECT preview_id FROM preview_ports").fetchall()
    assert held == [(theirs.id,)]
    hosts = migrated.execute("SELECT value FROM claims WHERE kind = 'preview_host'").fetchall()
    assert hosts == [("other.example.com",)]
    assert events_of(face, project).count("preview.stopped") == (live or status == "stopped")
    (event,) = face.events.search(user, event_type="project.deleted")
    assert (event.meta["previews_stopped"], event.meta["session_id"]) == (int(live), "app")


def test_builds_of_a_deleted_project_end(face: Any, user: User, project: Project) -> None:
    queued, running, done = (face.builds.create(project) for _ in range(3))
    face.builds.start(running)
    face.builds.append_log(running, "half of it\n")
    face.builds.succeed(face.builds.start(done))
    face.projects.delete(project)
    ended = {build.id: build for build in face.builds.list(project)}
    assert [ended[build.id].status for build in (queued, running, done)] == ["failed", "failed", "succeeded"]
    assert ended[running.id].error_message == "the project was deleted"
    assert face.builds.log(running) == "half of it\n"


def test_a_deleted_project_takes_no_more(face: Any, migrated: Any, project: Project) -> None:
    face.projects.delete(project)
    with pytest.raises(NotFound, match="is deleted"):
        face.builds.create(project)
    with pytest.raises(NotFound, match="is deleted"):
        face.previews.create(project, host="app.example.com")
    leave_alone(migrated, project, days=1)
    assert face.projects.touch(project) is False
    assert migrated.execute("SELECT count(*) FROM claims WHERE kind = 'preview_host'").fetchone() == (0,)
    assert types(face, project) == ["project.created", "project.deleted"]


# Purging.


def test_a_project_in_use_is_not_purged(face: Any, user: User, project: Project) -> None:
    face.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    for known in (project, face.projects.archive(project)):
        with pytest.raises(InvalidInput, match=r"call `projects.delete` first") as failure:
            face.projects.purge(known)
        assert failure.value.field == "project"
    assert face.memory.read(project, "CLAUDE.md") == b"# Rules\n"


def test_a_purge_takes_everything_but_the_bill_and_the_audit(
    face: Any, migrated: Any, user: User, project: Project
) -> None:
    face.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    face.memory.checkpoint(project, "one")
    build, preview = face.builds.create(project), face.previews.create(project, host="app.example.com")
    face.usage.log(user, kind="tokens", amount=5, project=project)
    other = face.projects.create(user, path="/srv/other")
    face.memory.snapshot(other, "CLAUDE.md", b"# Rules\n")
    face.projects.delete(project)
    gone = face.projects.purge(project)
    assert (gone.project_id, gone.memory_snapshots, gone.checkpoints, gone.builds, gone.previews) == (
        project.id,
        2,
        1,
        1,
        1,
    )
    assert face.projects.purge(project) is None
    for look in (
        lambda: face.projects.get(user, project.id),
        lambda: face.builds.get(user, build.id),
        lambda: face.previews.get(user, preview.id),
        lambda: face.projects.delete(project),
        lambda: face.projects.update_memory(project),
    ):
        with pytest.raises(NotFound):
            look()
    assert face.memory.history(project) == []
    # The contents that another project has too are untouched.
    assert face.memory.read(other, "CLAUDE.md") == b"# Rules\n"
    assert [(total.kind, total.amount) for total in face.usage.totals(user)] == [("tokens", 5)]
    assert types(face, project)[-2:] == ["project.deleted", "project.purged"]
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
    # On the embedded server a client trusts what it knows, without a round trip.
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


# Tenants.


def test_a_tenant_has_all_of_this_for_its_own_projects_alone(atlas: Atlas, folder: Path) -> None:
    ada, bob = atlas.users.create("ada@example.com"), atlas.users.create("bob@example.com")
    hers, tenant = atlas.projects.create(ada, path=folder), atlas.as_user(bob)
    his = tenant.projects.create(bob, path=folder)
    tenant.memory.snapshot(his, "CLAUDE.md", b"# Rules\n")
    assert tenant.projects.update_memory(his).memory_size == 8
    preview = tenant.previews.allocate_port(tenant.previews.create(his, host="app.example.com"))
    tenant.builds.create(his)
    assert [project.id for project in tenant.projects.list(status=None, order="used")] == [his.id]
    for change in (
        tenant.projects.archive,
        tenant.projects.delete,
        tenant.projects.purge,
        tenant.projects.touch,
        tenant.projects.update_memory,
    ):
        with pytest.raises(NotPermitted):
            change(hers)
    assert atlas.projects.get(ada, hers.id) == hers
    deleted = tenant.projects.delete(his)
    assert tenant.previews.get(bob, preview.id).status == "stopped"
    gone = tenant.projects.purge(deleted)
    assert gone is not None
    assert (gone.memory_snapshots, gone.builds, gone.previews) == (1, 1, 1)
    assert atlas.projects.list(status=None) == [hers]


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
