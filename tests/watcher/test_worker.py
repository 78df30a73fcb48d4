"""The worker, one step at a time, with a clock that a test sets and with real files."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path

import pytest
from daemons import without_privileges
from rig import Rig

from atlas_sdk import DatabaseError, DatabaseUnreachable, Project, QuotaExceeded
from watcher.debounce import ChangeKind


def test_an_event_is_read_after_it_settled(rig: Rig, app: Project, root: Path) -> None:
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.settle(0.04)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(0.02)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


def test_files_that_are_no_memory_cost_nothing(rig: Rig, app: Project, root: Path) -> None:
    rig.event(app, "main.py")
    rig.event(app, "src/main.py")
    rig.event(app, "node_modules", is_folder=True)
    assert len(rig.queue) == 0
    assert rig.queue.events == 3


def test_known_changes_only_after_the_database_answered(rig: Rig, app: Project, root: Path) -> None:
    before = rig.status_of(app).files
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(1.0)
    assert rig.status_of(app).files == before
    assert rig.worker.status().pending == 1
    assert rig.worker.status().database.problem == "no connection"
    (root / "CLAUDE.md").write_text("three")
    rig.atlas.problem = None
    rig.settle(5.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"three"]
    assert rig.status_of(app).files != before
    assert rig.worker.status().database.ok


def test_the_database_is_asked_ever_less_often(rig: Rig, app: Project) -> None:
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(60.0)
    assert 10 < rig.worker.status().counters["errors"] < 25


def test_the_start_waits_for_the_database(rig: Rig, root: Path) -> None:
    (root / "CLAUDE.md").write_text("one")
    project = rig.atlas.add(root)
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(3.0)
    assert not rig.worker.status().ready
    rig.atlas.problem = None
    rig.settle(5.0)
    assert rig.worker.status().ready
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one"]


def test_a_statement_that_is_refused_stops_no_other_file(rig: Rig, app: Project, root: Path) -> None:
    rig.atlas.problem = DatabaseError("deadlock")
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.now += 0.06
    rig.worker._look_at_files()
    assert rig.status_of(app).files[0].problem == "deadlock"
    rig.atlas.problem = None
    rig.settle(6.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.status_of(app).files[0].problem is None


def test_a_hard_limit_shows_at_the_file_and_is_tried_again(rig: Rig, app: Project, root: Path) -> None:
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.now += 0.06
    rig.atlas.problem = QuotaExceeded(dimension="memory_bytes", asked=4, remaining=0, limit=10)
    rig.worker._look_at_files()
    rig.atlas.problem = None
    problem = rig.status_of(app).files[0].problem
    assert (
        problem == "CLAUDE.md: the memory limit of 10 bytes leaves 0 bytes, and 4 were asked for: have the limit raised"
    )
    assert rig.worker.status().database.ok
    (root / "notes.md").write_text("fits")
    rig.event(app, "notes.md")
    rig.settle(29.0)
    assert rig.atlas.contents(app, "notes.md") == [b"fits"]
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(2.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.status_of(app).files[0].problem is None


def test_delete_and_write_again_is_no_deletion(rig: Rig, app: Project, root: Path) -> None:
    (root / "CLAUDE.md").unlink()
    rig.event(app, "CLAUDE.md", ChangeKind.VANISHED)
    rig.settle(0.5)
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md", ChangeKind.CHANGED)
    rig.settle(2.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


def test_a_file_missing_at_a_close_is_given_the_time_to_come_back(rig: Rig, app: Project, root: Path) -> None:
    (root / "CLAUDE.md").unlink()
    rig.event(app, "CLAUDE.md", ChangeKind.CLOSED)
    rig.settle(0.6)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(0.2)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None]


def test_an_unreadable_file_is_told_once_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    parent = Path(tempfile.mkdtemp(prefix="atlas-unreadable-"))
    parent.chmod(0o755)
    rig = Rig()
    try:
        (parent / "CLAUDE.md").write_text("secret")
        (parent / "CLAUDE.md").chmod(0o000)
        (parent / "notes.md").write_text("open")
        project = rig.atlas.add(parent)
        with without_privileges():
            rig.settle(200.0)
        assert rig.atlas.contents(project, "CLAUDE.md") == []
        assert rig.atlas.contents(project, "notes.md") == [b"open"]
        problems = {file.path: file.problem for file in rig.status_of(project).files}
        assert "permission denied" in (problems["CLAUDE.md"] or "")
        assert problems["notes.md"] is None
        assert caplog.text.count("permission denied") == 1
        (parent / "CLAUDE.md").chmod(0o644)
        rig.settle(65.0)
        assert rig.atlas.contents(project, "CLAUDE.md") == [b"secret"]
        assert {file.problem for file in rig.status_of(project).files} == {None}
    finally:
        shutil.rmtree(parent)


def test_the_last_thing_is_to_store_everything(rig: Rig, app: Project, root: Path) -> None:
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md", ChangeKind.CHANGED)
    (root / "notes.md").write_text("without an event")
    rig.worker.drain()
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.atlas.contents(app, "notes.md") == [b"without an event"]
    assert rig.reports[-1].pending == 0


def test_an_idle_worker_sleeps_and_reports_every_ten_seconds(rig: Rig, app: Project) -> None:
    rig.settle(3.0)
    reports = len(rig.reports)
    assert rig.worker.step() > rig.now
    rig.settle(30.0)
    assert 3 <= len(rig.reports) - reports <= 4
    assert math.isfinite(rig.worker.step())
