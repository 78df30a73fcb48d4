"""`status` without a database, and on narrow terminals."""

from __future__ import annotations

import hashlib
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from journaling import project as a_project
from journaling import record

from atlas_sdk.cli.file_states import STATES, Entry
from atlas_sdk.cli.output import Output
from atlas_sdk.cli.status_report import Report
from atlas_sdk.cli.status_view import show
from atlas_sdk.journal import Journal, JournalStatus, KnownHead
from watcher import status as watcher_status
from watcher.status import ProjectStatus, Status

NOW = datetime.now(UTC)


@pytest.fixture
def away(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """Return the journal of a home whose database is away; it knows the project of the current folder."""
    home = tmp_path / "home"
    monkeypatch.setenv("ATLAS_HOME", str(home))
    monkeypatch.setenv("ATLAS_DATABASE_URL", "postgresql://ada@127.0.0.1:1/atlas")
    monkeypatch.chdir(folder)
    project = a_project(path=str(folder))
    content = (folder / "CLAUDE.md").read_bytes()
    kept = record(content, project_id=project.id, captured_at=NOW - timedelta(hours=1))
    old = record(None, project_id=project.id, path="TODO.md", captured_at=NOW)
    heads = [
        KnownHead(path=path, sha256=sha256, mode=0o644, link=None, kept=True, captured_at=NOW)
        for path, sha256 in (
            ("CLAUDE.md", kept.sha256),
            ("TODO.md", None),
            ("notes.md", hashlib.sha256((folder / "notes.md").read_bytes()).digest()),
        )
    ]
    with Journal.open(home) as journal:
        journal.remember_projects([project, a_project(3, status="archived", path=str(folder / "src"))])
        journal.append([kept, old], {project.id: heads})
        yield journal


@pytest.fixture
def watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher watches the project."""
    of_project = ProjectStatus(id=str(a_project().id), path=str(folder), lost=False, problem=None, files=())
    status = Status(pid=1, started_at=NOW, ready=True, projects=(of_project,), counters={"events": 7, "overflows": 1})
    monkeypatch.setattr(watcher_status, "read_status", lambda _: evolve(status, written_at=datetime.now(UTC)))


@pytest.mark.usefixtures("watched")
def test_while_the_database_is_away_the_journal_tells(away: Journal, folder: Path, cli: Any) -> None:
    ran = cli("status", "--json")
    assert ran.code == 0
    found = ran.record
    assert (found["protected"], found["memory"], found["database"]["ok"]) == (True, None, False)
    assert "cannot reach PostgreSQL" in found["database"]["problem"]
    assert (found["journal"]["records"], found["journal"]["bytes"]) == (2, 18)
    (project,) = found["projects"]
    assert project["path"] == str(folder)
    assert {one["path"]: one["state"] for one in project["files"]} == {
        "CLAUDE.md": "journal",
        "TODO.md": "deleted",
        "notes.md": "saved",
    }
    shown = cli("status")
    assert "journal   2 versions, 18 B, saved here, not in the database yet; the oldest: " in shown.out
    assert "database  away; the journal of this machine tells the rest\n" in shown.out
    assert "7 events, 1 overflow, 0 waiting" in shown.out
    assert "warning: cannot reach PostgreSQL" in shown.err


def test_without_a_watcher_nothing_is_watched_while_the_database_is_away(away: Journal, folder: Path, cli: Any) -> None:
    ran = cli("status", "--all")
    assert ran.code == 6
    assert "notes.md   saved, not watched" in ran.out
    (folder / "notes.md").write_text("nobody saves this")
    assert "notes.md   changed, not saved" in cli("status").out


@pytest.mark.parametrize("where", ["..", "src"])
def test_what_the_journal_does_not_know_needs_the_database(away: Journal, folder: Path, cli: Any, where: str) -> None:
    # The archived project of the folder `src` is not shown, but the one around it.
    (folder / "src").mkdir()
    ran = cli("status", "--project", where)
    assert ran.code == (5 if where == ".." else 6)


def test_a_border_holds_while_the_database_is_away(away: Journal, folder: Path, cli: Any) -> None:
    (folder / "w1" / ".git").mkdir(parents=True)
    refused = cli("status", "--project", "w1")
    assert refused.code == 3
    assert f"so the project {folder} ends there" in refused.sentence


def test_a_journal_that_cannot_be_read_is_told(home: Path, folder: Path, cli: Any, monkeypatch: Any) -> None:
    cli("init", folder)
    (home / "journal").mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setattr(Journal, "existing", _broken)
    ran = cli("status", "--project", folder, "--json")
    assert ran.record["journal"]["problem"] == "the journal is of a newer version"
    assert "warning: the journal is of a newer version" in cli("status", "--project", folder).err


def _broken(_home: Path) -> Journal:
    from atlas_sdk import JournalProblem

    raise JournalProblem("the journal is of a newer version", path="journal.db")


LONG = "packages/some-service/.claude/agent-memory/reviewer/MEMORY.md"


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("color", ["never", "always"])
def test_no_path_is_folded(
    width: int, color: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entries = [
        Entry(path=f"{number}.md", state=state, since=NOW, size=1234, why="why")
        for number, state in enumerate(STATES, start=10)
    ]
    entries.append(Entry(path=LONG, state="saved_not_watched", since=NOW, size=1234))
    out = Output(color=color)
    out.terminal = True
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((width, 24)))
    project = a_project(path=f"/home/ada/{LONG}")
    report = Report(
        now=NOW,
        watcher=None,
        journal=JournalStatus(records=12, bytes=3456, oldest_at=NOW),
        database_problem=None,
        memory=None,
        projects=[(project, entries, False)],
    )
    show(out, report)
    lines = capfd.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[2m", "").splitlines()
    assert f"/home/ada/{LONG}" in lines
    of_files = lines[lines.index(f"/home/ada/{LONG}") + 1 :]
    assert len(of_files) == len(entries)
    (line,) = [line for line in of_files if LONG in line]
    assert line.split(maxsplit=1)[0] == LONG
    # The columns with the size and the time are there only if everything fits.
    assert ("1.2 KiB" in line) is (width == 200)
    assert (" ago" in line) is (width == 200)
