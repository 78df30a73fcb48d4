"""Files that a link or an import names are captured when they appear, and again after they were away."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from rig import Rig

from atlas_sdk import Project
from watcher.backend import WatchedFolder
from watcher.debounce import ChangeKind


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the watcher rely on `stat` of a file that was written a moment ago."""
    monkeypatch.setattr("watcher.folder.COARSEST_NS", -1)


def write(rig: Rig, project: Project, root: Path, path: str, content: str) -> None:
    """Write a file, and send the event only if its folder is watched, as the kernel would."""
    (root / path).write_text(content)
    send(rig, project, path)


def send(
    rig: Rig, project: Project, path: str, change: ChangeKind = ChangeKind.CLOSED, *, folder: bool = False
) -> None:
    if WatchedFolder(project.id, path.rpartition("/")[0]) in rig.backend.watched:
        rig.event(project, path, change, is_folder=folder)


def test_import_of_a_file_that_appears_later_is_captured_at_once(rig: Rig, root: Path) -> None:
    (root / "docs").mkdir()
    (root / "docs/other.md").write_text("x")
    (root / "CLAUDE.md").write_text("@docs/plan.md")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    write(rig, project, root, "docs/plan.md", "v1")
    rig.settle(1.0)
    write(rig, project, root, "docs/plan.md", "v2")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "docs/plan.md") == [b"v1", b"v2"]


def test_import_below_folders_that_appear_later_is_captured(rig: Rig, root: Path) -> None:
    (root / "CLAUDE.md").write_text("@docs/deep/plan.md")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    for folder in ("docs", "docs/deep"):
        (root / folder).mkdir()
        send(rig, project, folder, ChangeKind.CHANGED, folder=True)
        rig.settle(1.0)
    write(rig, project, root, "docs/deep/plan.md", "v1")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "docs/deep/plan.md") == [b"v1"]


def test_import_that_appears_without_an_event_is_found_by_the_sweep(rig: Rig, root: Path) -> None:
    (root / "docs").mkdir()
    (root / "CLAUDE.md").write_text("@docs/plan.md")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    (root / "docs/plan.md").write_text("v1")
    rig.settle(65.0)
    assert rig.atlas.contents(project, "docs/plan.md") == [b"v1"]


def test_import_that_was_away_for_longer_than_a_sweep_is_captured_again(rig: Rig, root: Path) -> None:
    (root / "docs").mkdir()
    (root / "docs/r.md").write_text("v1")
    (root / "CLAUDE.md").write_text("@docs/r.md")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    (root / "docs/r.md").unlink()
    send(rig, project, "docs/r.md", ChangeKind.VANISHED)
    rig.settle(75.0)
    write(rig, project, root, "docs/r.md", "v2")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "docs/r.md") == [b"v1", None, b"v2"]


def test_folder_of_former_memory_that_comes_back_is_searched(rig: Rig, root: Path) -> None:
    (root / "docs/deep").mkdir(parents=True)
    (root / "docs/deep/r.md").write_text("v1")
    (root / "CLAUDE.md").write_text("@docs/deep/r.md")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    shutil.rmtree(root / "docs")
    send(rig, project, "docs", ChangeKind.VANISHED, folder=True)
    rig.settle(75.0)
    assert rig.atlas.contents(project, "docs/deep/r.md") == [b"v1", None]
    (root / "docs/deep").mkdir(parents=True)
    (root / "docs/deep/r.md").write_text("v2")
    send(rig, project, "docs", ChangeKind.CHANGED, folder=True)
    rig.settle(1.0)
    assert rig.atlas.contents(project, "docs/deep/r.md") == [b"v1", None, b"v2"]


def test_target_of_a_symlink_that_appears_later_is_captured(rig: Rig, root: Path) -> None:
    (root / "docs").mkdir()
    (root / "CLAUDE.md").symlink_to("docs/agents.md")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    write(rig, project, root, "docs/agents.md", "one")
    rig.settle(1.0)
    write(rig, project, root, "docs/agents.md", "two")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one", b"two"]


def test_symlink_in_the_middle_of_a_chain_that_changes_is_noticed(rig: Rig, root: Path) -> None:
    (root / "docs").mkdir()
    for version in ("v1", "v2"):
        (root / "docs" / version).write_text(version)
    (root / "docs/current").symlink_to("v1")
    (root / "CLAUDE.md").symlink_to("docs/current")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    (root / "docs/next").symlink_to("v2")
    (root / "docs/next").rename(root / "docs/current")
    send(rig, project, "docs/current")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"v1", b"v2"]


def test_symlinked_folder_of_an_import_that_changes_is_noticed(rig: Rig, root: Path) -> None:
    for version in ("v1", "v2"):
        (root / version).mkdir()
        (root / version / "plan.md").write_text(version)
    (root / "docs").symlink_to("v1")
    (root / "CLAUDE.md").write_text("@docs/plan.md")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    (root / "next").symlink_to("v2")
    (root / "next").rename(root / "docs")
    send(rig, project, "docs")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "v2/plan.md") == [b"v2"]


def test_many_unresolved_names_have_a_bounded_number_of_watches(
    rig: Rig, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas_sdk.files.tracking._MOST_AWAITED", 3)
    # Watch no folder only because a nested file can appear in it.
    monkeypatch.setattr("atlas_sdk.files.tracking.MOST_WATCHED", 0)
    for number in range(9):
        (root / f"d{number}").mkdir()
    (root / "CLAUDE.md").write_text(" ".join(f"@d{number}/plan.md" for number in range(9)))
    project = rig.atlas.add(root)
    rig.settle(1.0)
    assert len(rig.backend.watched) == 4
    # No watch reports a file in the last folder, so each sweep resolves the names again.
    write(rig, project, root, "d8/plan.md", "v1")
    rig.settle(65.0)
    assert rig.atlas.contents(project, "d8/plan.md") == [b"v1"]


def test_hard_links_are_looked_at_together(rig: Rig, root: Path) -> None:
    (root / "AGENTS.md").write_text("one")
    (root / "CLAUDE.md").hardlink_to(root / "AGENTS.md")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    write(rig, project, root, "AGENTS.md", "two")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one", b"two"]
    assert rig.atlas.contents(project, "AGENTS.md") == [b"one", b"two"]


def test_hard_link_that_is_made_later_is_looked_at_together(rig: Rig, app: Project, root: Path) -> None:
    (root / "AGENTS.md").hardlink_to(root / "CLAUDE.md")
    send(rig, app, "AGENTS.md", ChangeKind.CHANGED)
    rig.settle(2.0)
    write(rig, app, root, "AGENTS.md", "two")
    rig.settle(1.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


def test_memory_file_that_became_a_folder_is_recorded_as_deleted(rig: Rig, root: Path) -> None:
    (root / ".clinerules").write_text("rule")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    (root / ".clinerules").unlink()
    (root / ".clinerules").mkdir()
    (root / ".clinerules/a.md").write_text("n")
    send(rig, project, ".clinerules", ChangeKind.VANISHED)
    send(rig, project, ".clinerules", ChangeKind.CHANGED, folder=True)
    rig.settle(5.0)
    assert rig.atlas.contents(project, ".clinerules") == [b"rule", None]
    assert rig.atlas.contents(project, ".clinerules/a.md") == [b"n"]
    states = {file.path: (file.state, file.problem) for file in rig.status_of(project).files}
    assert states.pop(".clinerules") == ("deleted", None)
    assert {problem for _, problem in states.values()} == {None}


def test_folder_in_the_place_of_a_file_is_found_by_the_sweep(rig: Rig, app: Project, root: Path) -> None:
    (root / "CLAUDE.md").unlink()
    (root / "CLAUDE.md").mkdir()
    rig.settle(65.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None]


def test_file_that_is_excluded_leaves_the_status_and_its_end_is_recorded(rig: Rig, app: Project, root: Path) -> None:
    (root / "NOTES.md").write_text("n1")
    rig.event(app, "NOTES.md")
    rig.settle(1.0)
    write(rig, app, root, ".atlas.toml", '[track]\nexclude = ["NOTES.md"]\n')
    rig.settle(1.0)
    write(rig, app, root, "NOTES.md", "n2")
    rig.settle(75.0)
    assert rig.atlas.contents(app, "NOTES.md") == [b"n1"]
    assert [file.path for file in rig.status_of(app).files] == ["CLAUDE.md"]
    (root / "NOTES.md").unlink()
    rig.settle(75.0)
    assert rig.atlas.contents(app, "NOTES.md") == [b"n1", None]


def test_folder_replaced_by_a_symlink_to_outside_is_warned_about_once(
    rig: Rig, app: Project, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "notes").mkdir()
    (root / "notes/a.md").write_text("a")
    rig.event(app, "notes", ChangeKind.CHANGED, is_folder=True)
    rig.settle(1.0)
    assert rig.atlas.contents(app, "notes/a.md") == [b"a"]
    # Another client stores a file that was never on the disk.
    rig.atlas.history[app.id, "notes/mine.md"] = []
    rig.atlas.append(app, "notes/mine.md", "scratch", hashlib.sha256(b"x").digest(), b"x", 0o644)
    (root / "notes").rename(root.with_name("outside"))
    (root / "notes").symlink_to(root.with_name("outside"))
    caplog.clear()
    rig.settle(400.0)
    assert len(caplog.messages) == len(set(caplog.messages)) <= 2
    # The other files are still compared with the database.
    rig.atlas.delete(app, "CLAUDE.md", kind="auto")
    rig.settle(400.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None, b"one"]
