"""The watcher captures the memory files in the folders of a project, also where it does not watch."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig import Rig

from atlas_sdk import Project
from atlas_sdk.files import pin
from watcher.folder import Folder


def test_new_nested_file_is_captured_by_its_event(rig: Rig, app: Project, root: Path) -> None:
    (root / "packages/api").mkdir(parents=True)
    rig.event(app, "packages", is_folder=True)
    rig.settle(1.0)
    (root / "packages/api/CLAUDE.md").write_text("one")
    rig.event(app, "packages/api/CLAUDE.md")
    rig.settle(1.0)
    assert rig.atlas.contents(app, "packages/api/CLAUDE.md") == [b"one"]
    scans = rig.worker.status().counters["scans"]
    (root / "packages/api/CLAUDE.md").write_text("two")
    rig.event(app, "packages/api/CLAUDE.md")
    rig.settle(1.0)
    assert rig.atlas.contents(app, "packages/api/CLAUDE.md") == [b"one", b"two"]
    assert rig.worker.status().counters["scans"] == scans


def test_sweep_finds_a_nested_file_in_a_folder_that_is_not_watched(
    rig: Rig, app: Project, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas_sdk.files.tracking.MOST_WATCHED", 0)
    (root / "far/away").mkdir(parents=True)
    rig.event(app, "far", is_folder=True)
    rig.settle(1.0)
    (root / "far/away/AGENTS.md").write_text("one")
    rig.settle(65.0)
    assert rig.atlas.contents(app, "far/away/AGENTS.md") == [b"one"]


def test_file_in_a_folder_that_git_ignores_is_not_captured_until_git_does_not(
    rig: Rig, app: Project, root: Path
) -> None:
    (root / "gen").mkdir()
    (root / ".gitignore").write_text("gen\n")
    (root / "gen/CLAUDE.md").write_text("one")
    rig.event(app, "gen", is_folder=True)
    rig.event(app, "gen/CLAUDE.md")
    rig.settle(2.0)
    assert rig.atlas.contents(app, "gen/CLAUDE.md") == []
    (root / ".gitignore").write_text("")
    rig.event(app, ".gitignore")
    rig.settle(2.0)
    assert rig.atlas.contents(app, "gen/CLAUDE.md") == [b"one"]


def test_sweep_scans_a_project_only_when_a_searched_folder_differs(app: Project, root: Path) -> None:
    (root / "far/away").mkdir(parents=True)
    folder = Folder(app)
    folder.identity = pin(root).identity
    found = folder.tracking.scan(root)
    folder.folders = {"": folder.stamp("")}
    folder.searched = {name: folder.stamp(name) or (0, 0, 0) for name in found.directories if name}
    assert set(folder.searched) == {"far", "far/away"}
    assert folder.is_unchanged()
    (root / "far/away/AGENTS.md").touch()
    assert not folder.is_unchanged()
