"""Users, projects and events, through both clients."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from atlas_sdk import AlreadyExists, InvalidInput, NotAProject, NotFound


def test_an_address_belongs_to_one_user(client: Any) -> None:
    ada = client.users.create(" Ada@Example.COM ", name="Ada", plan="pro")
    assert (ada.email, ada.plan, ada.email_verified) == ("ada@example.com", "pro", False)
    assert client.users.by_email("ADA@example.com") == ada
    assert client.users.get(ada.id) == ada
    with pytest.raises(AlreadyExists, match="ada@example.com"):
        client.users.create("ada@example.com")


def test_spellings_of_an_address_are_one_user(client: Any) -> None:
    jose = client.users.create("JOSÉ@bücher.example")
    assert jose.email == "josé@xn--bcher-kva.example"
    for spelling in ("josé@xn--bcher-kva.example", unicodedata.normalize("NFD", "josé@BÜCHER.example")):
        assert client.users.by_email(spelling) == jose
        with pytest.raises(AlreadyExists):
            client.users.create(spelling)
    client.users.create("mike@kelvin.example")
    # The Kelvin sign is a K in the domain. Before the "@" it may be another mailbox.
    assert client.users.by_email("mike@\N{KELVIN SIGN}elvin.example") is not None
    assert client.users.by_email("mi\N{KELVIN SIGN}e@kelvin.example") is None
    with pytest.raises(InvalidInput, match="stands for others"):
        client.users.create("mi\N{KELVIN SIGN}e@kelvin.example")


def test_sql_and_the_sdk_make_one_user_of_an_address(client: Any, migrated: Any) -> None:
    ((raw_id,),) = migrated.execute("INSERT INTO users (email) VALUES ('ada@example.com') RETURNING id").fetchall()
    ada = client.users.by_email("Ada@Example.com")
    assert ada.id == raw_id
    with pytest.raises(AlreadyExists):
        client.users.create("ada@example.com")
    client.users.create("bob@example.com")
    for change in (
        "INSERT INTO users (email) VALUES ('ada@example.com')",
        "INSERT INTO users (email) VALUES ('bob@example.com')",
        "UPDATE users SET email = 'bob@example.com' WHERE email = 'ada@example.com'",
    ):
        with pytest.raises(psycopg.errors.UniqueViolation):
            migrated.execute(change)
    migrated.execute("UPDATE users SET email = 'lovelace@example.com' WHERE id = %s", [raw_id])
    assert client.users.by_email("lovelace@example.com").id == raw_id
    assert client.users.by_email("ada@example.com") is None
    migrated.execute("DELETE FROM users WHERE id = %s", [raw_id])
    client.users.create("lovelace@example.com")
    client.users.create("ada@example.com")


def test_an_unknown_plan_is_refused(client: Any) -> None:
    with pytest.raises(InvalidInput, match="no plan is called .*; there are: free, pro, enterprise"):
        client.users.create("ada@example.com", plan="gold")


def test_unknown_users_are_not_found(client: Any) -> None:
    with pytest.raises(NotFound):
        client.users.get(UUID(int=5))
    assert client.users.by_email("nobody@example.com") is None


def test_the_local_user_is_made_once(client: Any) -> None:
    assert client.users.local() == client.users.local()


def test_a_project_is_found_from_anywhere_inside(client: Any, folder: Path) -> None:
    user = client.users.local()
    project = client.projects.create(user, path=folder)
    assert (project.name, project.path) == ("app", str(folder))
    (folder / "src").mkdir()
    assert client.projects.by_path(folder / "src" / "deep.py") == project
    inner = client.projects.create(user, path=folder / "src")
    assert client.projects.by_path(folder / "src" / "deep.py") == inner
    assert client.projects.list(user) == [project, inner]
    with pytest.raises(NotAProject, match="is not in a registered project$"):
        client.projects.by_path(folder.parent)
    with pytest.raises(AlreadyExists):
        client.projects.create(user, path=folder)


def test_a_project_is_the_same_through_a_symlink(client: Any, folder: Path) -> None:
    project = client.projects.create(client.users.local(), path=folder)
    alias = folder.with_name("alias")
    alias.symlink_to(folder)
    assert client.projects.by_path(alias / "CLAUDE.md") == project


def test_projects_of_others_are_not_found(client: Any, folder: Path) -> None:
    ada, bob = client.users.create("ada@example.com"), client.users.create("bob@example.com")
    hers = client.projects.create(ada, path=folder, session_id="hers")
    with pytest.raises(NotAProject):
        client.projects.by_path(folder, user=bob)
    with pytest.raises(NotFound):
        client.projects.get(bob, hers.id)
    with pytest.raises(AlreadyExists, match="'hers'"):
        client.projects.create(bob, path=folder, session_id="hers")
    assert client.projects.create(bob, path=folder).path == hers.path
    assert client.projects.by_session("hers") == hers


def test_a_folder_with_any_name_is_a_project(client: Any, tmp_path: Path) -> None:
    odd = tmp_path / "caf\udce9 \n\\x"
    odd.mkdir()
    project = client.projects.create(client.users.local(), path=odd)
    assert project.path == str(odd)
    assert client.projects.by_path(odd) == project


def test_an_archived_project_is_left_out_and_comes_back_with_its_history(client: Any, folder: Path) -> None:
    user = client.users.create("ada@example.com")
    project = client.projects.create(user, path=folder)
    first = client.memory.snapshot(project, "CLAUDE.md")
    archived = client.projects.archive(project)
    assert (archived.id, archived.status) == (project.id, "archived")
    assert client.projects.list(user) == []
    with pytest.raises(NotAProject):
        client.projects.by_path(folder / "CLAUDE.md", user=user)
    assert client.projects.at(folder, user=user) == client.projects.get(user, project.id) == archived
    assert client.memory.history(archived) == [first]
    active = client.projects.activate(archived)
    assert (active.id, active.status) == (project.id, "active")
    assert client.projects.list(user) == [active]
    assert client.projects.by_path(folder / "CLAUDE.md", user=user) == active
    assert client.memory.history(active) == [first]


def test_archiving_is_on_record_once_and_again_changes_nothing(client: Any, folder: Path) -> None:
    user = client.users.create("ada@example.com")
    project = client.projects.create(user, path=folder)
    assert client.projects.activate(project) == project
    archived = client.projects.archive(project)
    assert client.projects.archive(project) == archived
    active = client.projects.activate(project)
    assert client.projects.activate(archived) == active
    found = client.events.recent(user, project=project)
    assert [event.type for event in found] == ["project.activated", "project.archived", "project.created"]
    assert found[0].meta["path"] == str(folder)


def test_an_archived_folder_is_not_registered_twice(client: Any, folder: Path) -> None:
    ada, bob = client.users.create("ada@example.com"), client.users.create("bob@example.com")
    project = client.projects.archive(client.projects.create(ada, path=folder))
    with pytest.raises(AlreadyExists, match="archived: projects.activate brings it back"):
        client.projects.create(ada, path=folder, session_id="again")
    assert client.projects.by_session("again") is None
    assert client.projects.at(folder, user=ada) == project
    assert client.projects.at(folder, user=bob) is None
    assert client.projects.create(bob, path=folder, session_id="again").status == "active"


def test_an_archived_project_makes_way_for_the_one_around_it(client: Any, folder: Path) -> None:
    user = client.users.local()
    outer, inner = client.projects.create(user, path=folder), client.projects.create(user, path=folder / "src")
    client.projects.archive(inner)
    assert client.projects.by_path(folder / "src") == outer
    assert client.projects.at(folder / "src" / "deep", user=user) is None


def test_a_deleted_project_stays_deleted(client: Any, migrated: Any, folder: Path) -> None:
    user = client.users.create("ada@example.com")
    project = client.projects.create(user, path=folder)
    migrated.execute("UPDATE projects SET status = 'deleted' WHERE id = %s", [project.id])
    for change in (client.projects.archive, client.projects.activate):
        with pytest.raises(NotFound, match="the project app is deleted; register its folder again"):
            change(project)
    assert client.projects.at(folder, user=user) is None
    assert client.projects.create(user, path=folder).id != project.id


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_folder_is_refused(client: Any, path: str) -> None:
    with pytest.raises(InvalidInput):
        client.projects.create(client.users.local(), path=path)


def test_what_happened_is_on_record(client: Any, folder: Path) -> None:
    user = client.users.create("ada@example.com")
    project = client.projects.create(user, path=folder)
    client.memory.capture(project)
    client.memory.checkpoint(project, "one")
    client.events.log("deploy.done", user=user, project=project, meta={"commit": "abc"})
    types = [event.type for event in client.events.recent(user)]
    assert types == ["deploy.done", "checkpoint.created", "project.created", "user.created"]
    newest = client.events.recent(user, project=project, limit=1)[0]
    assert newest.meta["commit"] == "abc"
    assert newest.meta["source"] == "sdk"
    with pytest.raises(InvalidInput):
        client.events.log("", user=user)
