"""The status file and the lock."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from watcher.debounce import Timing
from watcher.lock import AlreadyRunning, take
from watcher.status import (
    FRESH_S,
    DatabaseStatus,
    FileStatus,
    JournalNumbers,
    MaintenanceStatus,
    ProjectStatus,
    Status,
    read_status,
    write,
)

NOW = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)


def a_status(**changes: Any) -> Status:
    file = FileStatus(
        path="no\udcfftes.md",
        sha256="ab" * 32,
        protected_since=NOW,
        problem=None,
        state="journal",
        since=NOW,
        why="the database is away",
    )
    project = ProjectStatus(id="1", path="/srv/app", lost=False, problem="odd", files=(file,))
    known: dict[str, Any] = {
        "database": DatabaseStatus(ok=True, since=NOW),
        "projects": (project,),
        "counters": {"events": 3},
        "journal": JournalNumbers(records=2, bytes=9, oldest_at=NOW),
        "oldest_pending_at": NOW,
        "maintenance": MaintenanceStatus(at=NOW, outcome="done", removed=7),
    }
    return Status(pid=os.getpid(), started_at=NOW, ready=True, backend="inotify", **{**known, **changes})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    lock = take(tmp_path)
    status = a_status()
    write(tmp_path, status)
    assert read_status(tmp_path) == status
    assert (tmp_path / "watcher/status.json").stat().st_mode & 0o077 == 0
    os.close(lock)


def test_without_a_daemon_there_is_no_status(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    os.close(take(tmp_path))
    write(tmp_path, a_status())
    assert read_status(tmp_path) is None


def test_a_daemon_that_says_nothing_is_not_at_work() -> None:
    status = a_status(written_at=NOW)
    assert status.is_fresh(NOW + timedelta(seconds=30))
    assert not status.is_fresh(NOW + timedelta(seconds=31))
    assert Timing().heartbeat_most_s < FRESH_S


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "started_at": "2026-02-03T04:05:06Z"}'])
def test_an_old_or_broken_file_is_not_believed(tmp_path: Path, text: str) -> None:
    lock = take(tmp_path)
    (tmp_path / "watcher/status.json").write_text(text)
    status = read_status(tmp_path)
    assert status is not None
    assert (status.pid, status.ready) == (os.getpid(), False)
    os.close(lock)


def test_the_lock_is_for_one_and_names_its_owner(tmp_path: Path) -> None:
    lock = take(tmp_path)
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()};"):
        take(tmp_path)
    os.close(lock)
    os.close(take(tmp_path))
