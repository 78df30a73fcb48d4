"""`atlasctl doctor`: the canary with a real watcher, and the verdicts on the machine."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from patience import PATIENCE_S

from atlas_sdk import Atlas, Attribution
from atlas_sdk.cli import canary
from atlas_sdk.cli.canary import Canary
from atlas_sdk.cli.machine_checks import examine_journal, examine_limits, examine_watcher
from atlas_sdk.journal import Journal, Record
from watcher.daemon import run
from watcher.debounce import Timing
from watcher.status import DatabaseStatus, ProjectStatus, Status

NOW = datetime(2026, 2, 3, tzinfo=UTC)
STEPS = ["register", "watch", "journal", "database", "read", "remove"]


@pytest.fixture
def own_home(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home without a watcher, with a database of its own, that has a user of this login."""
    home = tmp_path / "home"
    monkeypatch.setenv("ATLAS_HOME", str(home))
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    with Atlas.open(dsn, home=home) as atlas:
        atlas.users.local()
    return home


@contextmanager
def watching(home: Path, dsn: str) -> Iterator[None]:
    """Run the daemon in a thread of this process."""
    stop, ready = threading.Event(), threading.Event()
    timing = Timing(projects_s=0.05, status_s=0.02)
    thread = threading.Thread(
        target=run, kwargs={"dsn": dsn, "home": home, "stop": stop, "ready": ready.set, "timing": timing}
    )
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)


def nothing_is_left(home: Path, dsn: str) -> bool:
    """Return whether there is no project, no version, nothing in the journal and no folder of a canary."""
    with Atlas.open(dsn, home=home) as atlas:
        projects = list(atlas.projects.list(status=None))
    with Journal.open(home) as journal:
        records = journal.status().records
    return projects == [] and records == 0 and [one.name for one in (home / "doctor").iterdir()] == ["lock"]


def test_a_canary_goes_the_whole_way_and_leaves_nothing_behind(own_home, dsn, cli):
    with watching(own_home, dsn):
        ran = cli("doctor", "--json", "--wait", str(PATIENCE_S))
        found = ran.record
        assert [step["step"] for step in found["canary"]] == STEPS
        assert all(step["seconds"] >= 0 for step in found["canary"])
        verdicts = {one["name"]: one["verdict"] for one in found["findings"]}
        assert (verdicts["watcher"], verdicts["watches"], verdicts["journal"]) == ("ok", "ok", "ok")
        wrong = [one for one in found["findings"] if one["verdict"] in {"problem", "skipped"}]
        # The server of the tests does not wait for the disk, which `db doctor` reports.
        assert {one["name"] for one in wrong}.isdisjoint({"watcher", "service", "watches", "journal", "canary"})
        assert (ran.code, found["ok"]) == (1, False) if wrong else (0, True)
        assert nothing_is_left(own_home, dsn)
        # A canary that was killed has left a project, a note, and a folder without a note.
        with Atlas.open(dsn, home=own_home) as atlas:
            for name in ("dead", "older"):
                folder = own_home / f"doctor/canary-{name}"
                folder.mkdir(mode=0o700)
                left = atlas.projects.create(atlas.users.local(), path=folder)
                atlas.memory.snapshot(left, "CLAUDE.md", b"x")
            (own_home / "doctor/canary-older.project").write_text(str(left.id))
            (own_home / "doctor/canary-older.project").chmod(0o600)
        shown = cli("doctor", "--wait", str(PATIENCE_S))
        assert shown.code == ran.code
        assert "journal   " in shown.out.partition("canary\n")[2]
        assert nothing_is_left(own_home, dsn)


def test_without_a_watcher_nothing_is_protected(own_home, cli):
    ran = cli("doctor")
    assert ran.code == 6
    assert "no watcher runs for this home: no change is captured" in ran.out
    assert "atlasctl service install" in ran.out
    assert "canary" not in ran.out
    assert not (own_home / "doctor").exists()


def test_a_step_that_does_not_come_names_the_reason_and_leaves_nothing(own_home, dsn, cli, monkeypatch):
    away = DatabaseStatus(ok=False, problem="cannot reach PostgreSQL")
    now = datetime.now(UTC)
    status = Status(pid=os.getpid(), started_at=now, written_at=now, ready=True, backend="inotify", database=away)
    monkeypatch.setattr("watcher.status.read_status", lambda _: status)
    ran = cli("doctor", "--json", "--wait", "0.1")
    assert ran.code == 6
    steps = {step["step"]: step["seconds"] for step in ran.record["canary"]}
    assert list(steps) == ["register", "watch", "remove"]
    assert steps["watch"] is None
    (problem,) = (one for one in ran.record["findings"] if one["name"] == "canary")
    assert problem["detail"] == ("watch: the watcher does not find a new project within 0.1 s; cannot reach PostgreSQL")
    assert problem["fix"] == ["atlasctl db doctor"]
    assert nothing_is_left(own_home, dsn)


def test_a_second_doctor_does_not_remove_the_canary_of_the_first(own_home, dsn, monkeypatch):
    with Atlas.open(dsn, home=own_home) as atlas:
        user = atlas.users.local()
        first = Canary(atlas, user, own_home, status=lambda: None, patience_s=0)
        steps = first.run()
        assert next(steps).name == "register"
        (second,) = canary.release(atlas, user, own_home, status=lambda: None, patience_s=0)
        assert (second.seconds, second.detail) == (None, "another `atlasctl doctor` runs now; wait for it")
        assert len(atlas.projects.list(user)) == 1
        # As ^C in the middle of the first.
        steps.close()
    assert nothing_is_left(own_home, dsn)
    with (own_home / "doctor/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_unreachable_database_is_exit_code_5(own_home, cli):
    ran = cli("doctor", "--json", "--dsn", "postgresql:///atlas?host=/nonexistent")
    assert ran.code == 5
    names = [one["name"] for one in ran.record["findings"]]
    assert {"connection", "watcher", "service"} <= set(names), "the machine is examined all the same"


def a_status(**more: object) -> Status:
    lost = ProjectStatus(id="1", path="/srv/a\x1b[2J", lost=True, problem="gone", files=())
    known = {"written_at": NOW, "ready": True, "backend": "inotify", "projects": (lost,)}
    return Status(pid=7, started_at=NOW, **{**known, "database": DatabaseStatus(ok=True), **more})


@pytest.mark.parametrize(
    ("status", "verdicts", "text"),
    [
        (a_status(), ["ok", "warning"], "\\x1b[2J"),
        (a_status(ready=False, projects=()), ["warning"], "has just started"),
        (a_status(written_at=NOW - timedelta(seconds=31)), ["problem"], "has said nothing for 31 s"),
        (a_status(projects=(), database=DatabaseStatus(ok=False, problem="away")), ["ok", "problem"], "away"),
    ],
)
def test_the_watcher_is_judged(status: Status, verdicts: list[str], text: str) -> None:
    found = list(examine_watcher(status, NOW))
    assert [one.verdict for one in found] == verdicts
    assert text in " ".join(one.detail for one in found)


@pytest.mark.parametrize(
    ("limit", "more", "verdict", "text"),
    [
        ("100", {}, "ok", "3 of 100 watches"),
        ("3", {}, "warning", "max_user_watches=6"),
        ("100", {"counters": {"watch_failures": 2}}, "warning", "folders of 2 projects cannot be watched"),
        ("100", {"backend": "poll"}, "warning", "max_user_instances"),
    ],
)
def test_the_limits_of_the_kernel_are_judged(
    limit: str, more: dict[str, object], verdict: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "max_user_watches").write_text(limit)
    for folder in ("fd", "fdinfo"):
        (tmp_path / "7" / folder).mkdir(parents=True)
    (tmp_path / "7/fd/5").symlink_to("anon_inode:inotify")
    (tmp_path / "7/fdinfo/5").write_text("pos:\t0\n" + "inotify wd:1 ino:2\n" * 3)
    (found,) = examine_limits(a_status(**more), kernel=tmp_path, processes=tmp_path)
    assert found.verdict == verdict
    assert text in " ".join((found.detail, *found.fix))
    assert list(examine_limits(None, kernel=tmp_path, processes=tmp_path)) == []


def test_the_journal_is_judged(tmp_path: Path) -> None:
    assert list(examine_journal(tmp_path, NOW)) == []
    with Journal.open(tmp_path) as journal:
        (found,) = examine_journal(tmp_path, NOW)
        assert (found.verdict, found.detail) == ("ok", "everything is in the database")
        record = Record(
            id=uuid4(),
            user_id=uuid4(),
            project_id=uuid4(),
            op="version",
            path="CLAUDE.md",
            content=b"x",
            sha256=b"h" * 32,
            size=1,
            kind="auto",
            attribution=Attribution(source="watcher"),
            captured_at=NOW - timedelta(seconds=61),
        )
        journal.append([record])
        (found,) = examine_journal(tmp_path, NOW)
        assert found.verdict == "warning"
        assert "1 version" in found.detail
        assert found.detail.endswith("not in the database yet, for 61 s")
        journal.hold_back(record.id, "refused", NOW)
        refused, late = examine_journal(tmp_path, NOW)
        assert (refused.verdict, late.verdict) == ("warning", "warning")
        assert refused.detail == "the database refuses 1 version, which is kept and tried again: refused"
