"""Users, projects and events, through both faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from atlas_sdk import AlreadyExists, InvalidInput, NotAProject, NotFound


def test_an_address_belongs_to_one_user(face: Any) -> None:
    ada = face.users.create(" Ada@Example.COM ", name="Ada", plan="pro")
    assert (ada.email, ada.plan, ada.email_verified) == ("ada@example.com", "pro", False)
    assert face.users.by_email("ADA@example.com") == ada
    assert face.users.get(ada.id) == ada
    with pytest.raises(AlreadyExists, match="ada@example.com"):
        face.users.create("ada@example.com")


@pytest.mark.parametrize("email", ["", "ada", "@x", "ada@", "a b@x", "a@b@c", "a@x\n", "x" * 320 + "@y"])
def test_what_is_no_address_is_refused(face: Any, email: str) -> None:
    with pytest.raises(InvalidInput) as failure:
        face.users.create(email) if email != "a@x\n" else face.users.create("a\n@x")
    assert failure.value.field == "email"


def test_an_unknown_plan_is_refused(face: Any) -> None:
    with pytest.raises(InvalidInput, match="no plan is called .*; there are: free, pro, enterprise"):
        face.users.create("ada@example.com", plan="gold")


def test_unknown_users_are_not_found(face: Any) -> None:
    with pytest.raises(NotFound):
        face.users.get(UUID(int=5))
    assert face.users.by_email("nobody@example.com") is None


def test_the_local_user_is_made_once(face: Any) -> None:
    assert face.users.local() == face.users.local()


def test_a_project_is_found_from_anywhere_inside(face: Any, folder: Path) -> None:
    user = face.users.local()
    project = face.projects.create(user, path=folder)
    assert (project.name, project.path) == ("app", str(folder))
    (folder / "src").mkdir()
    assert face.projects.by_path(folder / "src" / "deep.py") == project
    inner = face.projects.create(user, path=folder / "src")
    assert face.projects.by_path(folder / "src" / "deep.py") == inner
    assert face.projects.list(user) == [project, inner]
    with pytest.raises(NotAProject, match="is not in a registered project$"):
        face.projects.by_path(folder.parent)
    with pytest.raises(AlreadyExists):
        face.projects.create(user, path=folder)


def test_a_project_is_the_same_through_a_symlink(face: Any, folder: Path) -> None:
    project = face.projects.create(face.users.local(), path=folder)
    alias = folder.with_name("alias")
    alias.symlink_to(folder)
    assert face.projects.by_path(alias / "CLAUDE.md") == project


def test_projects_of_others_are_not_found(face: Any, folder: Path) -> None:
    ada, bob = face.users.create("ada@example.com"), face.users.create("bob@example.com")
    hers = face.projects.create(ada, path=folder, session_id="hers")
    with pytest.raises(NotAProject):
        face.projects.by_path(folder, user=bob)
    with pytest.raises(NotFound):
        face.projects.get(bob, hers.id)
    with pytest.raises(AlreadyExists, match="'hers'"):
        face.projects.create(bob, path=folder, session_id="hers")
    assert face.projects.create(bob, path=folder).path == hers.path
    assert face.projects.by_session("hers") == hers


def test_a_folder_with_any_name_is_a_project(face: Any, tmp_path: Path) -> None:
    odd = tmp_path / "caf\udce9 \n\\x"
    odd.mkdir()
    project = face.projects.create(face.users.local(), path=odd)
    assert project.path == str(odd)
    assert face.projects.by_path(odd) == project


def test_an_archived_project_is_left_out_and_comes_back_with_its_history(face: Any, folder: Path) -> None:
    user = face.users.create("ada@example.com")
    project = face.projects.create(user, path=folder)
    first = face.memory.snapshot(project, "CLAUDE.md")
    archived = face.projects.archive(project)
    assert (archived.id, archived.status) == (project.id, "archived")
    assert face.projects.list(user) == []
    with pytest.raises(NotAProject):
        face.projects.by_path(folder / "CLAUDE.md", user=user)
    assert face.projects.at(folder, user=user) == face.projects.get(user, project.id) == archived
    assert face.memory.history(archived) == [first]
    active = face.projects.activate(archived)
    assert (active.id, active.status) == (project.id, "active")
    assert face.projects.list(user) == [active]
    assert face.projects.by_path(folder / "CLAUDE.md", user=user) == active
    assert face.memory.history(active) == [first]


def test_archiving_is_on_record_once_and_again_changes_nothing(face: Any, folder: Path) -> None:
    user = face.users.create("ada@example.com")
    project = face.projects.create(user, path=folder)
    assert face.projects.activate(project) == project
    archived = face.projects.archive(project)
    assert face.projects.archive(project) == archived
    active = face.projects.activate(project)
    assert face.projects.activate(archived) == active
    found = face.events.recent(user, project=project)
    assert [event.type for event in found] == ["project.activated", "project.archived", "project.created"]
    assert found[0].meta["path"] == str(folder)


def test_an_archived_folder_is_not_registered_twice(face: Any, folder: Path) -> None:
    ada, bob = face.users.create("ada@example.com"), face.users.create("bob@example.com")
    project = face.projects.archive(face.projects.create(ada, path=folder))
    with pytest.raises(AlreadyExists, match="archived: projects.activate brings it back"):
        face.projects.create(ada, path=folder, session_id="again")
    assert face.projects.by_session("again") is None
    assert face.projects.at(folder, user=ada) == project
    assert face.projects.at(folder, user=bob) is None
    assert face.projects.create(bob, path=folder, session_id="again").status == "active"


def test_an_archived_project_makes_way_for_the_one_around_it(face: Any, folder: Path) -> None:
    user = face.users.local()
    outer, inner = face.projects.create(user, path=folder), face.projects.create(user, path=folder / "src")
    face.projects.archive(inner)
    assert face.projects.by_path(folder / "src") == outer
    assert face.projects.at(folder / "src" / "deep", user=user) is None


def test_a_deleted_project_stays_deleted(face: Any, migrated: Any, folder: Path) -> None:
    user = face.users.create("ada@example.com")
    project = face.projects.create(user, path=folder)
    migrated.execute("UPDATE projects SET status = 'deleted' WHERE id = %s", [project.id])
    for change in (face.projects.archive, face.projects.activate):
        with pytest.raises(NotFound, match="the project app is deleted; register its folder again"):
            change(project)
    assert face.projects.at(folder, user=user) is None
    assert face.projects.create(user, path=folder).id != project.id


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_folder_is_refused(face: Any, path: str) -> None:
    with pytest.raises(InvalidInput):
        face.projects.create(face.users.local(), path=path)


def test_what_happened_is_on_record(face: Any, folder: Path) -> None:
    user = face.users.create("ada@example.com")
    project = face.projects.create(user, path=folder)
    face.memory.capture(project)
    face.memory.checkpoint(project, "one")
    face.events.log("deploy.done", user=user, project=project, meta={"commit": "abc"})
    types = [event.type for event in face.events.recent(user)]
    assert types == ["deploy.done", "checkpoint.created", "project.created", "user.created"]
    newest = face.events.recent(user, project=project, limit=1)[0]
    assert newest.meta["commit"] == "abc"
    assert newest.meta["source"] == "sdk"
    with pytest.raises(InvalidInput):
        face.events.log("", user=user)
