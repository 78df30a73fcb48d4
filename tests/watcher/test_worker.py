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
from atlas_sdk.files import FileState, Root, read_file
from atlas_sdk.journal import JournalProblem
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


def state_of(rig: Rig, project: Project, path: str = "CLAUDE.md") -> tuple[str, str | None]:
    """Return the state of a file in the status, and the reason."""
    file = next(one for one in rig.status_of(project).files if one.path == path)
    return file.state, file.why


def test_known_changes_only_after_the_journal_has_the_version(rig: Rig, app: Project, root: Path) -> None:
    before = rig.status_of(app).files[0]
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.journal.problem = JournalProblem("cannot write the journal: no space left on device", path="journal.db")
    rig.settle(1.0)
    file = rig.status_of(app).files[0]
    assert (file.sha256, file.protected_since) == (before.sha256, before.protected_since)
    assert (file.state, file.why) == ("pending", "cannot write the journal: no space left on device")
    assert rig.worker.status().pending == 1
    assert rig.worker.status().journal.problem == "cannot write the journal: no space left on device"
    (root / "CLAUDE.md").write_text("three")
    rig.journal.problem = None
    rig.settle(5.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"three"]
    assert state_of(rig, app) == ("saved", None)
    assert rig.worker.status().journal.problem is None


def test_full_journal_stops_no_scan_and_is_tried_ever_less_often(
    rig: Rig, app: Project, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig.journal.problem = JournalProblem("the journal is full", path="journal.db")
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.settle(60.0)
    assert 10 < rig.worker.status().counters["errors"] < 25
    assert caplog.text.count("the journal is full") == 1
    (root / "notes.md").write_text("found by a scan")
    rig.queue.overflowed()
    rig.settle(1.0)
    assert state_of(rig, app, "notes.md")[0] == "pending"
    rig.journal.problem = None
    rig.settle(6.0)
    assert rig.atlas.contents(app, "notes.md") == [b"found by a scan"]
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


def test_all_files_of_a_step_are_one_append(rig: Rig, app: Project, root: Path) -> None:
    appends = rig.journal.appends
    for number in range(50):
        (root / f"scratch{number}.md").write_text(str(number))
        rig.event(app, f"scratch{number}.md")
    rig.settle(0.1)
    assert rig.journal.appends == appends + 1
    assert rig.atlas.contents(app, "scratch49.md") == [b"49"]


def test_one_append_has_no_more_content_than_it_must(
    rig: Rig, app: Project, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.projects._APPEND_BYTES", 1_000)
    appends = rig.journal.appends
    for number in range(4):
        (root / f"scratch{number}.md").write_text(f"{number}" * 600)
        rig.event(app, f"scratch{number}.md")
    rig.settle(0.1)
    assert rig.journal.appends == appends + 4


def test_captures_go_on_while_the_database_is_away(rig: Rig, app: Project, root: Path) -> None:
    rig.atlas.problem = DatabaseUnreachable("no connection")
    for content in ("two", "three", "two"):
        (root / "CLAUDE.md").write_text(content)
        rig.event(app, "CLAUDE.md")
        rig.settle(0.1)
    status = rig.worker.status()
    assert (status.database.problem, status.journal.records) == ("no connection", 3)
    assert state_of(rig, app) == ("journal", "it is saved on this machine, and not in the database yet: no connection")
    times = [record.captured_at for record in rig.journal.records]
    assert times == sorted(times)
    rig.atlas.problem = None
    rig.settle(6.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two", b"three", b"two"]
    assert state_of(rig, app) == ("saved", None)
    assert rig.worker.status().database.ok


def test_the_database_is_asked_ever_less_often(rig: Rig, app: Project, root: Path) -> None:
    rig.atlas.problem = DatabaseUnreachable("no connection")
    for turn in range(60):
        (root / "CLAUDE.md").write_text(str(turn))
        rig.event(app, "CLAUDE.md")
        rig.settle(1.0)
    assert 10 < rig.worker.status().counters["errors"] < 25


def test_slow_database_delays_no_capture(rig: Rig, app: Project, root: Path) -> None:
    """The delivery does not get its turn in this test, as if a statement took for ever."""
    for content in ("two", "three"):
        (root / "CLAUDE.md").write_text(content)
        rig.event(app, "CLAUDE.md")
        rig.now += 0.1
        rig.work()
    assert [record.content for record in rig.journal.records] == [b"two", b"three"]
    assert state_of(rig, app)[0] == "journal"


def test_start_without_the_database_goes_on_from_the_journal(rig: Rig, app: Project, root: Path) -> None:
    rig.atlas.problem = DatabaseUnreachable("no connection")
    later = rig.restarted()
    later.settle(0.5)
    assert later.worker.status().ready
    assert later.journal.records == []
    (root / "CLAUDE.md").write_text("two")
    later.event(app, "CLAUDE.md")
    later.settle(0.5)
    killed, last = later, later.restarted()
    (root / "CLAUDE.md").write_text("three")
    last.settle(0.5)
    assert [record.content for record in killed.journal.records] == [b"two", b"three"]
    rig.atlas.problem = None
    last.settle(6.0)
    assert last.atlas.contents(app, "CLAUDE.md") == [b"one", b"two", b"three"]


def test_files_of_a_project_are_remembered_before_the_project(rig: Rig, app: Project, root: Path) -> None:
    """A kill right after the first list of projects makes no version again, even if the database is away then."""
    rig.journal.known.clear()
    rig.journal.remembered.clear()
    later = rig.restarted()
    later.delivery.step()
    rig.atlas.problem = DatabaseUnreachable("no connection")
    last = later.restarted()
    last.settle(1.0)
    assert last.worker.status().ready
    assert rig.journal.records == []


def test_first_start_without_the_database_waits_for_the_list_of_projects(rig: Rig, root: Path) -> None:
    (root / "CLAUDE.md").write_text("one")
    project = rig.atlas.add(root)
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(3.0)
    assert not rig.worker.status().ready
    rig.atlas.problem = None
    rig.settle(5.0)
    assert rig.worker.status().ready
    assert rig.atlas.contents(project, "CLAUDE.md") == [b"one"]


def test_warm_start_reads_no_file(rig: Rig, app: Project, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "notes.md").write_text("old")
    rig.event(app, "notes.md")
    rig.settle(1.0)
    monkeypatch.setattr("watcher.folder.COARSEST_NS", -1)
    rig.queue.overflowed()
    rig.settle(1.0)
    rig.drain()
    read = []
    real = read_file

    def counted(root: Root, path: str, *, limit_bytes: int) -> FileState | None:
        read.append(path)
        return real(root, path, limit_bytes=limit_bytes)

    monkeypatch.setattr("watcher.capture.read_file", counted)
    later = rig.restarted()
    (root / "notes.md").write_text("new")
    later.settle(1.0)
    assert later.worker.status().ready
    assert read == ["notes.md"]
    assert rig.atlas.contents(app, "notes.md") == [b"old", b"new"]


def test_file_that_the_database_refuses_shows_and_stops_no_other(rig: Rig, app: Project, root: Path) -> None:
    rig.atlas.refused["CLAUDE.md"] = QuotaExceeded(dimension="memory_bytes", asked=4, remaining=0, limit=10)
    (root / "CLAUDE.md").write_text("two")
    (root / "notes.md").write_text("fits")
    rig.event(app, "CLAUDE.md")
    rig.event(app, "notes.md")
    rig.settle(1.0)
    refusal = "CLAUDE.md: the memory limit of 10 bytes leaves 0 bytes, and 4 were asked for: have the limit raised"
    assert state_of(rig, app) == ("problem", refusal)
    assert rig.status_of(app).files[0].problem == refusal
    assert rig.worker.status().database.ok
    assert rig.atlas.contents(app, "notes.md") == [b"fits"]
    (root / "CLAUDE.md").write_text("three")
    rig.event(app, "CLAUDE.md")
    rig.settle(1.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one"]
    rig.atlas.refused.clear()
    rig.settle(2.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two", b"three"]
    assert state_of(rig, app) == ("saved", None)


def test_error_of_the_database_is_told_once_and_tried_again(
    rig: Rig, app: Project, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig.atlas.problem = DatabaseError("deadlock")
    (root / "CLAUDE.md").write_text("two")
    rig.event(app, "CLAUDE.md")
    rig.settle(20.0)
    assert caplog.text.count("deadlock") == 1
    rig.atlas.problem = None
    rig.settle(6.0)
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]


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


def test_an_unreadable_file_is_told_once_and_stops_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trust every signature, so that nothing but the problem leads to another look.
    monkeypatch.setattr("watcher.folder.COARSEST_NS", -1)
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
    rig.drain()
    assert rig.atlas.contents(app, "CLAUDE.md") == [b"one", b"two"]
    assert rig.atlas.contents(app, "notes.md") == [b"without an event"]
    assert rig.reports[-1].pending == 0


def test_end_without_the_database_leaves_everything_in_the_journal(rig: Rig, app: Project, root: Path) -> None:
    rig.atlas.problem = DatabaseUnreachable("no connection")
    rig.settle(5.0)
    errors = rig.delivery.errors
    (root / "CLAUDE.md").write_text("two")
    rig.drain()
    assert rig.delivery.errors == errors, "no attempt, which may take seconds"
    assert [record.content for record in rig.journal.records] == [b"two"]


def test_most_recent_project_is_scanned_first(rig: Rig, app: Project, root: Path) -> None:
    for name in ("old", "busy"):
        root.with_name(name).mkdir()
        (root.with_name(name) / "CLAUDE.md").write_text("one")
    old, busy = (rig.atlas.add(root.with_name(name)) for name in ("old", "busy"))
    rig.settle(3.0)
    (root.with_name("busy") / "CLAUDE.md").write_text("two")
    rig.event(busy, "CLAUDE.md")
    rig.settle(1.0)
    order = [folder.id for folder in rig.worker._projects.by_activity()]
    assert order[0] == busy.id
    assert set(order) == {app.id, old.id, busy.id}
    rig.queue.overflowed()
    rig.now += 1
    rig.worker.step()
    assert list(rig.worker._scheduler._to_scan) == order[1:]


def test_an_idle_worker_sleeps_and_reports_every_ten_seconds(rig: Rig, app: Project) -> None:
    rig.settle(3.0)
    reports = len(rig.reports)
    assert rig.worker.step() > rig.now
    rig.settle(30.0)
    assert 3 <= len(rig.reports) - reports <= 4
    assert math.isfinite(rig.worker.step())
