"""The worker's decisions, one step at a time: a clock that a test turns, and real files."""

import hashlib
import math
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve
from daemons import without_privileges
from fakes import FakeAtlas, FakeBackend

from atlas_sdk import DatabaseError, DatabaseUnreachable, NotFound, QuotaExceeded
from atlas_sdk.files import signature
from watcher.backend import Place
from watcher.database import Database
from watcher.debounce import ChangeKind, Timing
from watcher.event_queue import EventQueue
from watcher.status import Status
from watcher.worker import Worker


class Rig:
    """A worker with everything around it."""

    def __init__(self, atlas, **timing):
        self.now = 1000.0
        self.atlas = atlas
        self.timing = Timing(**timing)
        self.backend = FakeBackend()
        self.queue = EventQueue(self.timing, clock=lambda: self.now)
        self.reports = []
        self.database = Database(lambda: atlas, timing=self.timing)
        self.worker = Worker(
            database=self.database,
            backend=self.backend,
            queue=self.queue,
            timing=self.timing,
            clock=lambda: self.now,
            started=Status(pid=1, started_at=datetime.now(UTC)),
            report=self.reports.append,
        )
        self.backend.start(self.queue)

    def settle(self, seconds=0.0):
        """Let time pass in small steps, and do what comes due."""
        end = self.now + seconds
        while True:
            while self.worker.step() <= self.now:
                pass
            if self.now >= end:
                return
            self.now = min(end, self.now + 0.01)

    def event(self, project, path, change=ChangeKind.CLOSED, *, is_folder=False):
        folder, _, name = path.rpartition("/")
        self.queue.changed(Place(project.id, folder), name, change, is_folder=is_folder)

    def status_of(self, project):
        return next(one for one in self.worker.status().projects if one.id == str(project.id))


@pytest.fixture
def rig():
    return Rig(FakeAtlas())


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "app"
    root.mkdir()
    return root


@pytest.fixture
def app(rig, root):
    """A project with one stored file."""
    (root / "CLAUDE.md").write_text("one")
    project = rig.atlas.add(root)
    rig.settle()
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one"]
    assert rig.worker.ready
    return project


def test_an_event_is_read_after_it_settled(rig, app, root):
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.settle(0.04)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(0.02)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


def test_files_that_are_no_memory_cost_nothing(rig, app, root):
    rig.event(app, "main.py")
    rig.event(app, "src", is_folder=True)
    assert len(rig.queue) == 0
    assert rig.queue.events == 2


def test_known_changes_only_after_the_database_answered(rig, app, root):
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


def test_the_database_is_asked_ever_less_often(rig, app):
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(60.0)
    assert 10 < rig.worker.status().counters["errors"] < 25


def test_the_start_waits_for_the_database(rig, root):
    (root / "CLAUDE.md").write_text("one")
    project = rig.atlas.add(root)
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(3.0)
    assert not rig.worker.ready
    rig.atlas.problem = None
    rig.settle(5.0)
    assert rig.worker.ready
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one"]


def test_a_statement_that_is_refused_stops_no_other_file(rig, app, root):
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


def test_a_hard_limit_shows_at_the_file_and_is_tried_again(rig, app, root):
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


def test_the_sweep_tells_of_memory_where_it_grew(rig, app, root):
    rig.settle(65.0)
    assert rig.atlas.told == [app.user_id]
    rig.settle(120.0)
    assert rig.atlas.told == [app.user_id]
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.settle(1.0)
    assert rig.atlas.told == [app.user_id]
    rig.settle(60.0)
    assert rig.atlas.told == [app.user_id] * 2


def test_memory_is_told_when_the_database_is_back(rig, app, monkeypatch):
    def get(user_id):
        raise DatabaseUnreachable("no connection")

    with monkeypatch.context() as away:
        away.setattr(rig.atlas, "get", get)
        rig.settle(65.0)
    assert rig.atlas.told == []
    assert not rig.worker.status().database.ok
    rig.settle(10.0)
    assert rig.atlas.told == [app.user_id]


def test_a_user_who_is_gone_stops_no_telling(rig, app, root, monkeypatch, caplog):
    def get(user_id):
        raise NotFound("no such user", kind="user", name=str(user_id))

    monkeypatch.setattr(rig.atlas, "get", get)
    rig.settle(65.0)
    assert rig.atlas.told == []
    assert "no such user" in caplog.text
    assert rig.worker.step() > rig.now


def test_the_last_thing_tells_of_memory(rig, app):
    rig.worker.drain()
    assert rig.atlas.told == [app.user_id]


def test_delete_and_write_again_is_no_deletion(rig, app, root):
    (root / "CLAUDE.md").unlink()
    rig.event(app, "CLAUDE.md", ChangeKind.VANISHED)
    rig.settle(0.5)
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md", ChangeKind.CHANGED)
    rig.settle(2.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


def test_a_file_missing_at_a_close_is_given_the_time_to_come_back(rig, app, root):
    (root / "CLAUDE.md").unlink()
    rig.event(app, "CLAUDE.md", ChangeKind.CLOSED)
    rig.settle(0.6)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(0.2)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None]


def test_the_sweep_finds_what_no_event_told(rig, app, root):
    (root / "CLAUDE.md").write_text("two")
    (root / "notes.md").write_text("new")
    rig.settle(50.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(15.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.atlas.contents(app, "notes.md") == [b"new"]
    (root / "notes.md").unlink()
    rig.settle(65.0)
    assert rig.atlas.contents(app, "notes.md") == [b"new", None]


def test_an_overflow_scans_everything_at_once(rig, app, root):
    (root / "CLAUDE.md").write_text("two")
    rig.queue.overflowed()
    rig.settle()
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.worker.status().counters["overflows"] == 1


def test_a_file_written_between_listing_and_watch_is_found(rig, app, root):
    def write_first(place):
        if place.folder == ".claude/rules" and not (root / ".claude/rules/a.md").exists():
            (root / ".claude/rules/a.md").write_text("early")

    rig.backend.before_watch = write_first
    (root / ".claude/rules").mkdir(parents=True)
    rig.event(app, ".claude", ChangeKind.CHANGED, is_folder=True)
    rig.settle(1.0)
    assert rig.atlas.contents(app, ".claude/rules/a.md") == [b"early"]
    assert Place(app.id, ".claude/rules") in rig.backend.watched


def test_a_folder_that_cannot_be_watched_is_looked_at(rig, root):
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


def test_a_root_that_is_gone_is_lost_and_nothing_is_deleted(rig, app, root):
    root.rename(root.with_name("away"))
    rig.queue.root_changed(Place(app.id, ""))
    rig.event(app, "CLAUDE.md", ChangeKind.VANISHED)
    rig.settle(5.0)
    assert rig.status_of(app).lost
    assert not rig.backend.watched
    root.with_name("away").rename(root)
    (root / "CLAUDE.md").write_text("two")
    rig.settle(1.0)
    assert not rig.status_of(app).lost
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


def test_an_empty_folder_in_its_place_is_an_unmounted_disk_for_two_minutes(rig, app, root):
    root.rename(root.with_name("away"))
    root.mkdir()
    rig.queue.root_changed(Place(app.id, ""))
    rig.settle(119.0)
    assert rig.status_of(app).lost
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.settle(3.0)
    assert not rig.status_of(app).lost
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None]


def test_a_new_clone_in_its_place_is_the_project(rig, app, root):
    shutil.rmtree(root)
    root.mkdir()
    (root / "CLAUDE.md").write_text("cloned")
    rig.queue.root_changed(Place(app.id, ""))
    rig.settle(0.1)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"cloned"]


def test_a_folder_that_was_made_again_with_another_file_is_the_project(rig, app, root):
    # Not removed: the new folder would get its inode.
    root.rename(root.with_name("away"))
    root.mkdir()
    (root / "AGENTS.md").write_text("draft")
    rig.queue.root_changed(Place(app.id, ""))
    rig.settle(1.0)
    assert not rig.status_of(app).lost
    assert rig.atlas.contents(app, "AGENTS.md") == [b"draft"]
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None]


def test_a_folder_with_nothing_but_code_in_its_place_is_waited_for(rig, app, root):
    # Not removed: the new folder would get its inode.
    root.rename(root.with_name("away"))
    root.mkdir()
    (root / "main.py").write_text("pass")
    rig.queue.root_changed(Place(app.id, ""))
    rig.settle(100.0)
    assert rig.status_of(app).lost
    (root / "AGENTS.md").write_text("draft")
    rig.settle(1.0)
    assert rig.atlas.contents(app, "AGENTS.md") == [b"draft"]


@pytest.fixture
def versions(rig, app):
    """The versions of the stored file, for another client to change; the daemon trusts what it knows by now."""
    os.utime(rig.worker._folders[app.id].root / "CLAUDE.md", (1, 1))
    folder = rig.worker._folders[app.id]
    path, known = "CLAUDE.md", folder.known["CLAUDE.md"]
    folder.known[path] = evolve(known, signature=signature(folder.root, path))
    assert folder.is_unchanged()
    return rig.atlas.history[app.id, path]


def test_the_sweep_finds_that_another_client_stored_something_else(rig, app, versions):
    rig.atlas._append(app, "CLAUDE.md", "auto", hashlib.sha256(b"half").digest(), b"half", versions[0][0].mode)
    rig.settle(65.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"half", b"one"]
    calls = rig.atlas.calls
    rig.settle(200.0)
    assert rig.atlas.calls == calls


def test_the_sweep_finds_that_another_client_stored_a_deletion(rig, app, versions):
    rig.atlas.delete(app, "CLAUDE.md", kind="auto")
    rig.settle(65.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None, b"one"]


def test_the_sweep_waits_for_a_database_that_is_away(rig, app, versions):
    rig.atlas.delete(app, "CLAUDE.md", kind="auto")
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(65.0)
    rig.atlas.problem = None
    rig.settle(6.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", None, b"one"]


def test_the_sweep_leaves_alone_what_was_never_on_the_disk(rig, app):
    rig.atlas.history[app.id, "notes/mine.md"] = []
    rig.atlas._append(app, "notes/mine.md", "scratch", hashlib.sha256(b"x").digest(), b"x", 0o644)
    rig.settle(65.0)
    assert rig.atlas.contents(app, "notes/mine.md") == [b"x"]


def test_the_sweep_keeps_what_was_over_the_limit_of_its_day(rig, app, versions):
    (version, _) = versions[0]
    versions[0] = (evolve(version, kept=False), None)
    rig.settle(65.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [None, b"one"]


def test_the_sweep_does_not_ask_for_what_is_over_the_limit_still(rig, app, versions, root):
    (version, _) = versions[0]
    versions[0] = (evolve(version, kept=False, size=2**40), None)
    calls = rig.atlas.calls
    rig.settle(65.0)
    assert rig.atlas.calls == calls


def test_projects_come_and_go(rig, app, root):
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


def test_a_new_import_is_tracked(rig, app, root):
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


def test_the_target_of_a_symlink_is_watched(rig, root):
    (root / "docs").mkdir()
    (root / "docs" / "agents.md").write_text("one")
    (root / "CLAUDE.md").symlink_to("docs/agents.md")
    project = rig.atlas.add(root)
    rig.settle()
    (root / "docs" / "agents.md").write_text("two")
    rig.event(project, "docs/agents.md")
    rig.settle(1.0)
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one", b"two"]


def test_wrong_settings_are_told_and_the_old_ones_hold(rig, app, root, caplog):
    (root / ".atlas.toml").write_text("[track]\npresets = ['nonsense']\n")
    rig.event(app, ".atlas.toml")
    rig.settle(1.0)
    assert "nonsense" in rig.status_of(app).problem
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


def test_an_unreadable_file_is_told_once_and_stops_no_other(caplog):
    parent = Path(tempfile.mkdtemp(prefix="atlas-unreadable-"))
    parent.chmod(0o755)
    rig = Rig(FakeAtlas())
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
        assert "permission denied" in problems["CLAUDE.md"]
        assert problems["notes.md"] is None
        assert caplog.text.count("permission denied") == 1
        (parent / "CLAUDE.md").chmod(0o644)
        rig.settle(65.0)
        assert rig.atlas.contents(project, "CLAUDE.md") == [b"secret"]
        assert {file.problem for file in rig.status_of(project).files} == {None}
    finally:
        shutil.rmtree(parent)


def test_a_touched_file_is_read_but_not_sent_by_the_sweep(rig, app, root):
    calls = rig.atlas.calls
    os.utime(root / "CLAUDE.md", (1, 1))
    rig.settle(65.0)
    assert rig.atlas.calls == calls


def test_the_last_thing_is_to_store_everything(rig, app, root):
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md", ChangeKind.CHANGED)
    (root / "notes.md").write_text("without an event")
    rig.worker.drain()
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.atlas.contents(app, "notes.md") == [b"without an event"]
    assert rig.reports[-1].pending == 0


def test_an_idle_worker_sleeps_and_reports_every_ten_seconds(rig, app):
    rig.settle(3.0)
    reports = len(rig.reports)
    assert rig.worker.step() > rig.now
    rig.settle(30.0)
    assert 3 <= len(rig.reports) - reports <= 4
    assert math.isfinite(rig.worker.step())
