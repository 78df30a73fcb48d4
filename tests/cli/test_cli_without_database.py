"""`snapshot` and `checkpoint` save on this machine while the database is away, and store it when it is back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas_sdk import Atlas
from atlas_sdk.journal import Journal

#: No server listens on this port.
AWAY = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def online(home: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return a function that makes the database reachable or not for the next commands."""

    def switch(there: bool) -> None:  # noqa: FBT001
        monkeypatch.setenv("ATLAS_DATABASE_URL", dsn if there else AWAY)

    switch(True)
    return switch


@pytest.fixture
def app(online: Any, folder: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a registered project, which is the current folder."""
    monkeypatch.chdir(folder)
    assert cli("init").code == 0
    return folder


def contents(dsn: str, app: Path, path: str = "CLAUDE.md") -> list[bytes | None]:
    with Atlas.open(dsn) as atlas:
        project = atlas.projects.by_path(app)
        found = atlas.memory.history(project, path)[::-1]
        return [None if one.deleted else atlas.memory.content(one) for one in found if one.kind != "checkpoint"]


def test_snapshots_and_a_checkpoint_are_saved_here_and_stored_later(
    app: Path, home: Path, online: Any, cli: Any, dsn: str
) -> None:
    first = (app / "CLAUDE.md").read_bytes()
    online(False)
    (app / "CLAUDE.md").write_bytes(b"two\n")
    ran = cli("snapshot")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "saved here, not in the database yet"
    assert "CLAUDE.md" in ran.out
    assert "what is saved here is stored when the database is back" in ran.err
    assert cli("checkpoint", "away", "--note", "n").out.splitlines()[-2:] == [
        "away: 2 files",
        "saved here, not in the database yet",
    ]
    (app / "CLAUDE.md").write_bytes(b"three\n")
    (app / "notes.md").unlink()
    assert cli("snapshot").code == 0
    online(True)
    assert cli("snapshot").err == "up to date: 1 file\n"
    assert contents(dsn, app) == [first, b"two\n", b"three\n"]
    assert contents(dsn, app, "notes.md")[-1] is None
    assert cli("show", "away:CLAUDE.md").out == "two\n"
    with Journal.open(home) as journal:
        assert journal.is_empty()


def test_the_versions_say_who_saved_them_and_when(app: Path, online: Any, cli: Any, dsn: str) -> None:
    online(False)
    (app / "CLAUDE.md").write_bytes(b"two\n")
    saved = cli("snapshot", "CLAUDE.md", "--json").record
    assert (saved["saved"], [one["path"] for one in saved["taken"]], saved["skipped"]) == ("journal", ["CLAUDE.md"], [])
    assert "127.0.0.1" in saved["problem"]
    online(True)
    newest = cli("log", "CLAUDE.md", "--json").records
    assert len(newest) == 1, "log reads, and does not deliver"
    cli("snapshot")
    newest = cli("log", "CLAUDE.md", "--json").records[0]
    assert newest["id"] == saved["taken"][0]["id"]
    assert newest["created_at"] == saved["taken"][0]["captured_at"]
    assert newest["attribution"]["source"] == "cli"


def test_what_cannot_be_saved_is_an_error(app: Path, online: Any, cli: Any, tmp_path: Path) -> None:
    online(False)
    assert cli("checkpoint", "one").code == 0
    again = cli("checkpoint", "one")
    assert again.code == 1
    assert "has a checkpoint 'one' already, which is not in the database yet" in again.err
    (app / "CLAUDE.md").unlink()
    os.mkfifo(app / "CLAUDE.md")
    ran = cli("snapshot")
    assert ran.code == 1
    assert "CLAUDE.md is a FIFO" in ran.err


@pytest.mark.parametrize("command", [("snapshot",), ("checkpoint", "v1")])
def test_a_folder_that_no_journal_knows_fails_as_before(
    command: tuple[str, ...], home: Path, online: Any, folder: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    online(False)
    assert cli(*command).code == 5
    assert not home.exists(), "a command that fails makes no home"


@pytest.mark.parametrize("command", [("snapshot",), ("checkpoint", "v1")])
def test_a_repository_inside_is_not_captured_for_the_project_around_it(
    command: tuple[str, ...], app: Path, home: Path, online: Any, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (app / "w1" / ".git").mkdir(parents=True)
    monkeypatch.chdir(app / "w1")
    online(False)
    (app / "CLAUDE.md").write_bytes(b"of the outer project\n")
    ran = cli(*command)
    assert ran.code == 3
    assert f"so the project {app} ends there" in ran.sentence
    with Journal.open(home) as journal:
        assert journal.is_empty()


def test_a_moved_project_is_captured_at_its_new_place(
    app: Path, online: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = app.rename(tmp_path / "new")
    assert cli("projects", "move", app, new).code == 0
    monkeypatch.chdir(new)
    online(False)
    (new / "CLAUDE.md").write_bytes(b"moved\n")
    assert cli("snapshot").code == 0


def test_a_moved_project_replaces_another_one(
    app: Path, home: Path, online: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = cli("init", "--json").record["project"]["id"]
    new = app.rename(tmp_path / "new")
    monkeypatch.chdir(new)
    assert cli("init").code == 0
    assert cli("projects", "move", app, new, "--force").code == 0
    online(False)
    (new / "CLAUDE.md").write_bytes(b"of the moved project\n")
    assert cli("snapshot").code == 0
    with Journal.open(home) as journal:
        assert {str(one.project_id) for one in journal.pending()} == {moved}


def test_a_forgotten_project_is_not_captured(app: Path, online: Any, cli: Any) -> None:
    assert cli("forget").code == 0
    online(False)
    assert cli("snapshot").code == 5
    online(True)
    assert cli("init").code == 0
    online(False)
    assert cli("snapshot").code == 0


def test_a_purge_says_what_is_only_here_and_removes_it(app: Path, home: Path, online: Any, cli: Any) -> None:
    online(False)
    cli("snapshot", "CLAUDE.md")
    online(True)
    project = cli("projects", "list", "--json").record["id"]
    assert cli("projects", "delete", project, "--yes").code == 0
    with Journal.open(home) as journal:
        assert not journal.is_empty(), "the versions of a deleted project stay until the purge"
    assert cli("projects", "purge", project, "--yes").code == 0
    with Journal.open(home) as journal:
        assert journal.is_empty()
        assert journal.projects() == []


def test_init_goes_on_where_no_journal_can_be_made(
    home: Path, online: Any, folder: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("not a folder")
    monkeypatch.chdir(folder)
    ran = cli("init", "--json")
    assert (ran.code, json.loads(ran.out)["created"]) == (0, True)
    assert "while the database is away, nothing can be captured here" in ran.err
