"""Projects are added, removed, lost and found again, and the set of tracked files of a project changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from attrs import evolve
from rig import Rig

from atlas_sdk import Project, Tracking
from atlas_sdk.files import Root, Scan
from watcher.backend import WatchedFolder
from watcher.debounce import ChangeKind
from watcher.projects import above


def test_folders_of_files_are_those_at_every_depth() -> None:
    assert above(["CLAUDE.md", "notes/a.md", ".claude/rules/a/b.md"]) == {
        "notes",
        ".claude",
        ".claude/rules",
        ".claude/rules/a",
    }


def test_warm_start_lists_each_project_once(
    rig: Rig, app: Project, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".claude/rules").mkdir(parents=True)
    (root / ".claude/rules/a.md").write_text("rule")
    rig.queue.overflowed()
    rig.settle(1.0)
    rig.drain()
    listed = []
    real = Tracking.scan

    def counted(tracking: Tracking, folder: Root) -> Scan:
        listed.append(folder.path)
        return real(tracking, folder)

    monkeypatch.setattr(Tracking, "scan", counted)
    later = rig.restarted()
    later.settle(1.0)
    assert later.worker.status().ready
    assert WatchedFolder(app.id, ".claude/rules") in later.backend.watched
    assert listed == [root]


def test_a_file_written_between_listing_and_watch_is_found(rig: Rig, app: Project, root: Path) -> None:
    def write_first(place: WatchedFolder) -> None:
        if place.folder == ".claude/rules" and not (root / ".claude/rules/a.md").exists():
            (root / ".claude/rules/a.md").write_text("early")

    rig.backend.before_watch = write_first
    (root / ".claude/rules").mkdir(parents=True)
    rig.event(app, ".claude", ChangeKind.CHANGED, is_folder=True)
    rig.settle(1.0)
    assert rig.atlas.contents(app, ".claude/rules/a.md") == [b"early"]
    assert WatchedFolder(app.id, ".claude/rules") in rig.backend.watched


def test_a_folder_that_cannot_be_watched_is_looked_at(rig: Rig, root: Path) -> None:
    rig.backend.refused = {"notes"}
    (root / "notes").mkdir()
    (root / "notes" / "a.md").write_text("one")
    project = rig.atlas.add(root)
    rig.settle()
    (root / "notes" / "a.md").write_text("two")
    (root / "notes" / "b.md").write_text("new")
    rig.settle(3.0)
    assert rig.atlas.contents(project, "notes/a.md") == [b"one", b"two"]
    assert rig.atlas.contents(project, "notes/b.md") == [b"new"]
    assert rig.worker.status().counters["watch_failures"] == 1


def test_a_root_that_is_gone_is_lost_and_nothing_is_deleted(rig: Rig, app: Project, root: Path) -> None:
    root.rename(root.with_name("away"))
    rig.queue.root_changed(WatchedFolder(app.id, ""))
    rig.event(app, "CLAUDE.md", ChangeKind.VANISHED)
    rig.settle(5.0)
    assert rig.status_of(app).lost
    assert not rig.backend.watched
    root.with_name("away").rename(root)
    (root / "CLAUDE.md").write_text("two")
    rig.settle(1.0)
    assert not rig.status_of(app).lost
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


def test_an_empty_folder_in_its_place_is_an_unmounted_disk_for_two_minutes(rig: Rig, app: Project, root: Path) -> None:
    root.rename(root.with_name("away"))
    root.mkdir()
    rig.queue.root_changed(WatchedFolder(app.id, ""))
    rig.settle(119.0)
    assert rig.status_of(app).lost
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(3.0)
    assert not rig.status_of(app).lost
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None]


def test_a_new_clone_in_its_place_is_the_project(rig: Rig, app: Project, root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    (root / "CLAUDE.md").write_text("cloned")
    rig.queue.root_changed(WatchedFolder(app.id, ""))
    rig.settle(0.1)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"cloned"]


def test_a_folder_that_was_made_again_with_another_file_is_the_project(rig: Rig, app: Project, root: Path) -> None:
    # Rename the folder instead of removing it, because the new folder would get the inode of a removed one.
    root.rename(root.with_name("away"))
    root.mkdir()
    (root / "AGENTS.md").write_text("draft")
    rig.queue.root_changed(WatchedFolder(app.id, ""))
    rig.settle(1.0)
    assert not rig.status_of(app).lost
    assert rig.atlas.contents(app, "AGENTS.md") == [b"draft"]
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None]


def test_a_folder_with_nothing_but_code_in_its_place_is_waited_for(rig: Rig, app: Project, root: Path) -> None:
    # Rename the folder instead of removing it, because the new folder would get the inode of a removed one.
    root.rename(root.with_name("away"))
    root.mkdir()
    (root / "main.py").write_text("pass")
    rig.queue.root_changed(WatchedFolder(app.id, ""))
    rig.settle(100.0)
    assert rig.status_of(app).lost
    (root / "AGENTS.md").write_text("draft")
    rig.settle(1.0)
    assert rig.atlas.contents(app, "AGENTS.md") == [b"draft"]


def test_projects_come_and_go(rig: Rig, app: Project, root: Path) -> None:
    other = root.with_name("other")
    other.mkdir()
    (other / "AGENTS.md").write_text("hello")
    project = rig.atlas.add(other)
    rig.settle(2.1)
    assert rig.atlas.contents(project, "AGENTS.md") == [b"hello"]
    rig.atlas.registered.remove(app)
    rig.settle(2.1)
    assert {place.project for place in rig.backend.watched} == {project.id}
    rig.event(app, "CLAUDE.md")
    assert len(rig.queue) == 0


def test_a_new_import_is_tracked(rig: Rig, app: Project, root: Path) -> None:
    (root / "docs").mkdir()
    (root / "docs" / "style.md").write_text("be kind")
    (root / "CLAUDE.md").write_text("see @docs/style.md")
    rig.event(app, "CLAUDE.md")
    rig.settle(1.0)
    assert rig.atlas.contents(app, "docs/style.md") == [b"be kind"]
    (root / "docs" / "style.md").write_text("be brief")
    rig.event(app, "docs/style.md")
    rig.settle(1.0)
    assert rig.atlas.contents(app, "docs/style.md") == [b"be kind", b"be brief"]
    (root / "CLAUDE.md").write_text("no import any more")
    rig.event(app, "CLAUDE.md")
    rig.settle(70.0)
    assert rig.atlas.contents(app, "docs/style.md")[-1] == b"be brief"
    assert [file.path for file in rig.status_of(app).files] == ["CLAUDE.md"]


def test_the_target_of_a_symlink_is_watched(rig: Rig, root: Path) -> None:
    (root / "docs").mkdir()
    (root / "docs" / "agents.md").write_text("one")
    (root / "CLAUDE.md").symlink_to("docs/agents.md")
    project = rig.atlas.add(root)
    rig.settle()
    (root / "docs" / "agents.md").write_text("two")
    rig.event(project, "docs/agents.md")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one", b"two"]


def test_wrong_settings_are_told_and_the_old_ones_hold(
    rig: Rig, app: Project, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / ".atlas.toml").write_text("[track]\npresets = ['nonsense']\n")
    rig.event(app, ".atlas.toml")
    rig.settle(1.0)
    assert "nonsense" in (rig.status_of(app).problem or "")
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.settle(200.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert caplog.text.count("nonsense") == 1
    (root / ".atlas.toml").write_text("[track]\ninclude = ['extra.md']\n")
    (root / "extra.md").write_text("more")
    rig.event(app, ".atlas.toml")
    rig.settle(1.0)
    assert rig.status_of(app).problem is None
    assert rig.atlas.contents(app, "extra.md") == [b"more"]


def test_a_project_without_a_folder_is_not_lost_and_works_when_the_folder_comes(
    rig: Rig, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = root.with_name("nowhere")
    project = rig.atlas.add(nowhere)
    rig.atlas.registered[-1] = evolve(project, had_folder=False)
    rig.settle(3.0)
    assert rig.worker.ready
    assert not rig.status_of(project).lost
    assert rig.status_of(project).problem is None
    assert "is lost" not in caplog.text
    nowhere.mkdir()
    (nowhere / "CLAUDE.md").write_text("one")
    rig.settle(61.0)
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one"]
    # From now on it is a folder like any other.
    nowhere.rename(root.with_name("away"))
    rig.queue.root_changed(WatchedFolder(project.id, ""))
    rig.settle(1.0)
    assert rig.status_of(project).lost
