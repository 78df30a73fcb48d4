"""Projects that move, and the borders at which a project ends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from atlas_sdk import AlreadyExists, Atlas, InvalidInput, NotAProject, NotFound

FIRST = "1" * 40


def with_git(folder: Path, first_commit: str = FIRST) -> Path:
    """Make what git makes in a repository with one commit, as far as Atlas reads it."""
    (folder / ".git" / "logs").mkdir(parents=True)
    entry = f"{'0' * 40} {first_commit} Ada <ada@example.com> 1790000000 +0000\tcommit (initial): one\n"
    (folder / ".git" / "logs" / "HEAD").write_text(entry + entry.replace("1", "2"))
    return folder


def test_a_project_moves_with_its_history_on_record(client: Any, folder: Path) -> None:
    user = client.users.create("ada@example.com")
    project = client.projects.create(user, path=folder)
    first = client.memory.snapshot(project, "CLAUDE.md")
    new = folder.with_name("renamed")
    folder.rename(new)
    moved = client.projects.move(project, new)
    assert (moved.id, moved.path, moved.name, moved.status) == (project.id, str(new), "renamed", "active")
    assert client.projects.move(project, new) == moved
    assert client.memory.history(moved) == [first]
    assert client.projects.at(folder, user=user) is None
    (event,) = [one for one in client.events.recent(user, project=project) if one.type == "project.moved"]
    assert (event.meta["from"], event.meta["path"]) == (str(folder), str(new))


def test_a_name_of_its_own_stays_and_an_archived_project_stays_archived(atlas: Atlas, folder: Path) -> None:
    project = atlas.projects.create(atlas.users.create("ada@example.com"), path=folder, name="mine")
    atlas.projects.archive(project)
    moved = atlas.projects.move(project, folder / "not there", force=True)
    assert (moved.name, moved.status, moved.had_folder) == ("mine", "archived", False)


def test_a_move_is_refused_where_history_would_be_left_behind(atlas: Atlas, folder: Path) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path=folder)
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    with pytest.raises(InvalidInput, match="still has files"):
        atlas.projects.move(project, copy)
    there = atlas.projects.create(user, path=copy)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(AlreadyExists, match="is a project already"):
        atlas.projects.move(project, copy)
    assert atlas.projects.move(project, copy, force=True).path == str(copy)
    assert atlas.projects.get(user, there.id).status == "deleted"
    atlas.projects.delete(project)
    with pytest.raises(NotFound):
        atlas.projects.move(project, folder)


def test_a_renamed_folder_is_recognised(atlas: Atlas, folder: Path) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path=folder)
    atlas.memory.capture(project)
    new = folder.with_name("renamed")
    # A copy has not moved while the project has its folder.
    shutil.copytree(folder, new)
    assert atlas.projects.find_moved(user, new) == []
    shutil.rmtree(new)
    folder.rename(new)
    (found,) = atlas.projects.find_moved(user, new)
    assert found.project.id == project.id
    assert (found.same_folder, found.same_commit, found.same_files) == (True, False, 2)
    # For a renamed folder one file of five suffices.
    for name in ("AGENTS.md", "TODO.md", "plan.md"):
        atlas.memory.snapshot(project, name, b"not there any more")
    (new / "notes.md").write_text("changed")
    (found,) = atlas.projects.find_moved(user, new)
    assert (found.same_folder, found.same_files) == (True, 1)
    assert atlas.projects.find_moved(atlas.users.create("bob@example.com"), new) == []
    atlas.projects.move(project, new)
    assert atlas.projects.find_moved(user, new) == []


def test_a_copied_folder_is_recognised_by_its_old_files(atlas: Atlas, folder: Path, tmp_path: Path) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path=folder)
    atlas.memory.capture(project)
    new, template = folder.with_name("other disk"), folder.with_name("template")
    shutil.copytree(folder, new)
    (folder / "CLAUDE.md").write_text("newer than the copy")
    for name in ("AGENTS.md", "TODO.md", "plan.md"):
        (folder / name).write_text("never copied")
    # The folder is renamed instead of removed, so that no new folder gets its inode.
    atlas.memory.capture(project)
    folder.rename(tmp_path / "removed")
    # Two of five files are too few, unless the repository has the same first commit.
    assert atlas.projects.find_moved(user, new) == []
    for name in ("AGENTS.md", "TODO.md"):
        (new / name).write_text("never copied")
    (found,) = atlas.projects.find_moved(user, new)
    assert (found.same_folder, found.same_commit, found.same_files) == (False, False, 4)
    template.mkdir()
    assert atlas.projects.find_moved(user, template) == []


def test_a_repository_is_recognised_by_its_first_commit(atlas: Atlas, tmp_path: Path) -> None:
    user = atlas.users.create("ada@example.com")
    old = with_git(tmp_path / "old")
    project = atlas.projects.create(user, path=old)
    atlas.memory.snapshot(project, "CLAUDE.md", b"of another time")
    old.rename(tmp_path / "removed")
    (found,) = atlas.projects.find_moved(user, with_git(tmp_path / "new"))
    assert (found.project, found.same_folder, found.same_commit, found.same_files) == (project, False, True, 0)
    assert atlas.projects.find_moved(user, with_git(tmp_path / "another", "3" * 40)) == []


def test_a_project_that_never_had_a_folder_has_not_moved(atlas: Atlas, tmp_path: Path) -> None:
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path="/srv/nowhere")
    assert not project.had_folder
    atlas.memory.snapshot(project, "CLAUDE.md", b"same")
    (tmp_path / "CLAUDE.md").write_bytes(b"same")
    assert atlas.projects.find_moved(user, tmp_path) == []


def test_a_project_ends_at_a_repository_below_it(client: Any, folder: Path) -> None:
    user = client.users.create("ada@example.com")
    project = client.projects.create(user, path=with_git(folder))
    inner = folder / ".claude" / "worktrees" / "w1"
    (inner / "docs").mkdir(parents=True)
    assert client.projects.by_path(inner / "docs", user=user) == project
    (inner / ".git").write_text("gitdir: elsewhere\n")
    with pytest.raises(NotAProject, match="has a git repository of its own") as refused:
        client.projects.by_path(inner / "docs", user=user)
    assert (refused.value.border, refused.value.outer) == (str(inner), str(folder))
    assert client.projects.by_path(inner.parent, user=user) == project
    # A project inside of the repository, or of the repository itself, is found.
    of_inner = client.projects.create(user, path=inner)
    assert client.projects.by_path(inner / "docs", user=user) == of_inner
    with pytest.raises(NotAProject, match="is not in a registered project") as outside:
        client.projects.by_path(folder.parent, user=user)
    assert (outside.value.border, outside.value.outer) == (None, None)
