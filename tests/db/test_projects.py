"""Projects: paged, touched, measured, deleted and purged, through both clients."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from project_rows import leave_alone, types

from atlas_sdk import Atlas, IllegalTransition, InvalidInput, NotFound, NotPermitted, Project, User


@pytest.fixture
def user(client: Any) -> User:
    return client.users.create("ada@example.com")


@pytest.fixture
def project(client: Any, user: User, folder: Path) -> Project:
    return client.projects.create(user, path=folder, session_id="app", framework="django", language="python")


# Pages.


def test_what_is_known_of_a_project_is_on_it(client: Any, user: User, project: Project) -> None:
    found = client.projects.get(user, project.id)
    assert found == project
    assert (found.framework, found.language) == ("django", "python")
    assert (found.has_memory, found.memory_size) == (False, 0)


@pytest.mark.parametrize("order", ["created", "used"])
def test_pages_hold_every_project_once(client: Any, migrated: Any, user: User, order: str) -> None:
    for number in range(7):
        client.projects.create(user, path=f"/srv/{number}")
    client.projects.create(client.users.create("bob@example.com"), path="/srv/bobs")
    # Projects of one transaction have the same time, so the id decides their order.
    migrated.execute(
        "UPDATE projects SET created_at = '2026-01-01 00:00+00' WHERE user_id = %s AND path < '/srv/4'", [user.id]
    )
    every = client.projects.list(user, order=order)
    assert sorted(one.path for one in every) == [f"/srv/{number}" for number in range(7)]
    seen = client.projects.list(user, order=order, limit=3)
    while page := client.projects.list(user, order=order, limit=3, after=seen[-1]):
        assert len(page) <= 3
        assert seen[-1] not in page
        seen += page
    assert seen == every


def test_a_new_project_does_not_shift_the_pages(client: Any, user: User) -> None:
    made = [client.projects.create(user, path=f"/srv/{number}") for number in range(4)]
    first = client.projects.list(user, limit=2)
    client.projects.create(user, path="/srv/new")
    client.projects.archive(made[0])
    assert client.projects.list(user, limit=2, after=first[-1]) == made[2:]


def test_projects_are_listed_by_status(client: Any, user: User) -> None:
    active, other, third = (client.projects.create(user, path=f"/srv/{name}") for name in "abc")
    archived, deleted = client.projects.archive(other), client.projects.delete(third)
    assert client.projects.list(user) == [active]
    assert client.projects.list(user, status="archived") == [archived]
    assert client.projects.list(user, status="deleted") == [deleted]
    assert client.projects.list(user, status=None) == [active, archived, deleted]


def test_what_was_used_last_comes_first(client: Any, migrated: Any, user: User) -> None:
    first, second = client.projects.create(user, path="/srv/a"), client.projects.create(user, path="/srv/b")
    assert [one.id for one in client.projects.list(user, order="used")] == [second.id, first.id]
    # A new project counts as just used.
    assert client.projects.touch(first) is False
    leave_alone(migrated, first, days=2)
    leave_alone(migrated, second, days=1)
    assert [client.projects.touch(first), client.projects.touch(first)] == [True, False]
    used = client.projects.list(user, order="used")
    assert [one.id for one in used] == [first.id, second.id]
    assert used[0].updated_at - used[1].updated_at > timedelta(hours=23)
    assert [one.id for one in client.projects.list(user)] == [first.id, second.id]
    assert types(client, first) == ["project.created"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"status": "lost"}, "status"),
        ({"order": "name"}, "order"),
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
    ],
)
def test_bad_input_is_named(client: Any, user: User, bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as failure:
        client.projects.list(user, **bad)
    assert failure.value.field == field


# The fields about the memory.


def test_what_is_noted_of_the_memory_is_taken_from_the_memory(client: Any, user: User, project: Project) -> None:
    assert client.projects.update_memory(project) == project
    client.memory.snapshot(project, "CLAUDE.md", b"# Rules\n")
    client.memory.snapshot(project, "notes.md", b"- one\n")
    measured = client.projects.update_memory(project)
    assert (measured.has_memory, measured.memory_size) == (True, 14)
    assert client.projects.get(user, project.id) == measured == client.projects.update_memory(project)
    for name in ("CLAUDE.md", "notes.md"):
        client.memory.delete(project, name)
    emptied = client.projects.update_memory(project)
    assert (emptied.has_memory, emptied.memory_size) == (False, 0)
    assert types(client, project) == ["project.created", "project.memory_updated", "project.memory_updated"]


# Status.


def test_a_status_is_set_by_its_name(client: Any, project: Project) -> None:
    for status in ("archived", "archived", "active", "deleted"):
        assert client.projects.set_status(project, status).status == status
    assert types(client, project) == ["project.created", "project.archived", "project.activated", "project.deleted"]
    with pytest.raises(InvalidInput, match="active, archived, deleted") as failure:
        client.projects.set_status(project, "lost")
    assert failure.value.field == "status"


@pytest.mark.parametrize("to", ["active", "archived"])
def test_the_database_brings_no_deleted_project_back(client: Any, migrated: Any, project: Project, to: str) -> None:
    deleted = client.projects.delete(project)
    with pytest.raises(NotFound, match="is deleted; register its folder again"):
        client.projects.set_status(deleted, to)
    with pytest.raises(psycopg.Error) as refused:
        migrated.execute("UPDATE projects SET status = %s WHERE id = %s", [to, project.id])
    assert refused.value.sqlstate == "23T01"
    # Translate the error as for a caller.
    from atlas_sdk._translate import translate

    told = translate(refused.value, "postgresql://")
    assert isinstance(told, IllegalTransition)
    assert f"the project {project.id} is deleted, which is final: it cannot become {to}" in str(told)


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
