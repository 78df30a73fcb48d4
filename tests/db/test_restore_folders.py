"""A restore writes only into the folder for which its plan was made, and restores folders and owners as they were."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from atlas_sdk import FileProblem, Project, RestoreRefused
from atlas_sdk.files import temporary
from atlas_sdk.ops import restores


@pytest.fixture
def project(client: Any, folder: Path) -> Project:
    """Return a project with a checkpoint "one" and a newer CLAUDE.md on disk."""
    (folder / "CLAUDE.md").write_bytes(b"one\n")
    made = client.projects.create(client.users.local(), path=folder)
    client.memory.capture(made)
    client.memory.checkpoint(made, "one")
    (folder / "CLAUDE.md").write_bytes(b"two\n")
    return made


def plan(client: Any, project: Project, reason: str) -> Any:
    """Plan a restore, or the undo or redo of one that was carried out."""
    if reason == "restore":
        return client.memory.plan_restore(project, "one")
    client.memory.restore(project, "one")
    if reason == "undo":
        return client.memory.plan_undo(project)
    client.memory.undo(project)
    return client.memory.plan_redo(project)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("reason", ["restore", "undo", "redo"])
def test_folder_swapped_for_a_symlink_after_the_plan(client: Any, project: Project, folder: Path, reason: str) -> None:
    made = plan(client, project, reason)
    outside = folder.with_name("outside")
    outside.mkdir()
    (outside / "CLAUDE.md").write_bytes((folder / "CLAUDE.md").read_bytes())
    before = everything(outside)
    folder.rename(folder.with_name("old"))
    folder.symlink_to(outside)
    with pytest.raises(FileProblem, match="app in its path is a symlink"):
        client.memory.restore(project, made)
    assert everything(outside) == before


@pytest.mark.parametrize("reason", ["restore", "undo", "redo"])
def test_folder_swapped_for_another_after_the_plan(client: Any, project: Project, folder: Path, reason: str) -> None:
    made = plan(client, project, reason)
    content = (folder / "CLAUDE.md").read_bytes()
    folder.rename(folder.with_name("old"))
    folder.mkdir()
    (folder / "CLAUDE.md").write_bytes(content)
    with pytest.raises(RestoreRefused, match="is another folder than the one that the plan was made for"):
        client.memory.restore(project, made)
    assert everything(folder) == {"CLAUDE.md": content}
    # A new plan for the new folder works.
    client.memory.restore(project, "one")
    assert (folder / "CLAUDE.md").read_bytes() == b"one\n"


def test_folder_swapped_while_files_are_written(
    client: Any, project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "AGENTS.md").write_bytes(b"one\n")
    client.memory.capture(project)
    client.memory.checkpoint(project, "both")
    for name in ("AGENTS.md", "CLAUDE.md"):
        (folder / name).write_bytes(b"three\n")
    outside = folder.with_name("outside")
    outside.mkdir()
    real = restores.replace_file

    def replace(root: Any, path: str, *args: Any, **options: Any) -> None:
        real(root, path, *args, **options)
        if path == "AGENTS.md":
            folder.rename(folder.with_name("old"))
            folder.symlink_to(outside)

    monkeypatch.setattr(restores, "replace_file", replace)
    with pytest.raises(FileProblem, match="app in its path is a symlink"):
        client.memory.restore(project, "both")
    assert everything(outside) == {}
    written = everything(folder.with_name("old"))
    assert (written["AGENTS.md"], written["CLAUDE.md"]) == (b"one\n", b"three\n")


def test_private_folders_come_back_private(client: Any, project: Project, folder: Path) -> None:
    rule = folder / ".claude" / "rules" / "a.md"
    rule.parent.mkdir(parents=True)
    rule.write_bytes(b"rule\n")
    rule.parent.chmod(0o750)
    rule.parent.parent.chmod(0o700)
    client.memory.capture(project)
    client.memory.checkpoint(project, "private")
    rule.unlink()
    rule.parent.rmdir()
    rule.parent.parent.rmdir()
    client.memory.restore(project, "private")
    assert [path.stat().st_mode & 0o777 for path in (rule.parent.parent, rule.parent)] == [0o700, 0o750]
    (version,) = client.memory.history(project, ".claude/rules/a.md", limit=1)
    assert version.folder_modes == (0o700, 0o750)
    (undone,) = client.memory.history(project, "CLAUDE.md", limit=1)
    assert undone.folder_modes == ()


def test_what_root_restores_belongs_to_the_owner_of_the_folder(client: Any, project: Project, folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away: run the tests as root")
    for path in (folder, folder / "CLAUDE.md"):
        os.chown(path, 65534, 65534)
    (folder / "CLAUDE.md").unlink()
    client.memory.restore(project, "one")
    found = (folder / "CLAUDE.md").stat()
    assert (found.st_uid, found.st_gid) == (65534, 65534)


def test_leftovers_of_a_killed_restore_go_with_the_next(client: Any, project: Project, folder: Path) -> None:
    known, unknown = (folder / temporary.temporary_name("CLAUDE.md") for _ in range(2))
    known.write_bytes(b"one\n")
    unknown.write_bytes(b"written by somebody in the middle of a restore")
    client.memory.restore(project, "one")
    assert not known.exists()
    assert unknown.read_bytes() == b"written by somebody in the middle of a restore"


def test_leftovers_are_searched_in_every_tracked_folder(client: Any, project: Project, folder: Path) -> None:
    (folder / "notes").mkdir()
    left = [folder / temporary.temporary_name("x"), folder / "notes" / temporary.temporary_name("y")]
    for path in left:
        path.write_bytes(b"one\n")
    names = tuple(str(path.relative_to(folder)) for path in left)
    assert client.memory.remove_leftovers(project) == names
    assert client.memory.remove_leftovers(project) == ()
    assert not any(path.exists() for path in left)


def test_content_of_another_project_does_not_take_a_leftover_along(client: Any, project: Project, folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    (other / "CLAUDE.md").write_bytes(b"of the other project\n")
    client.memory.capture(client.projects.create(client.users.local(), path=other))
    left = folder / temporary.temporary_name("CLAUDE.md")
    left.write_bytes(b"of the other project\n")
    assert client.memory.remove_leftovers(project) == ()
    assert left.exists()
