"""The state of each file in `atlasctl status`, without a database and a watcher."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from atlas_sdk import Project
from atlas_sdk.cli.file_states import STATES, Entry, Knowledge, Newest, file_entries
from atlas_sdk.journal import PendingFile
from watcher.status import FileStatus, ProjectStatus

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    root.mkdir()
    (root / "CLAUDE.md").write_text("one")
    (root / "CLAUDE.md").chmod(0o644)
    return root


def a_project(root: Path, **changes: Any) -> Project:
    known: dict[str, Any] = {"id": uuid.uuid4(), "user_id": uuid.uuid4(), "session_id": "s", "name": "app"}
    known |= {"path": str(root), "status": "active", "created_at": NOW - HOUR, "updated_at": NOW - HOUR}
    return Project(**{**known, **changes})


def newest(text: str | None = "one", *, age: timedelta = HOUR, **changes: Any) -> Newest:
    sha256 = None if text is None else hashlib.sha256(text.encode()).hexdigest()
    known: dict[str, Any] = {"mode": 0o644, "link": None, "kept": True, "at": NOW - age, "id": uuid.uuid4()}
    return Newest(sha256=sha256, **{**known, **changes})


def pending(text: str | None, problem: str | None = None) -> PendingFile:
    sha256 = None if text is None else hashlib.sha256(text.encode()).digest()
    return PendingFile(
        path="CLAUDE.md",
        sha256=sha256,
        records=2,
        bytes=6,
        oldest_at=NOW - 2 * HOUR,
        newest_at=NOW - HOUR,
        problem=problem,
    )


def watched(root: Path, **changes: Any) -> ProjectStatus:
    return ProjectStatus(**{"id": "1", "path": str(root), "lost": False, "problem": None, "files": (), **changes})


def entries(root: Path, versions: dict[str, Newest], **known: Any) -> dict[str, Entry]:
    given = {"watched": watched(root), "now": NOW, "project": a_project(root), **known}
    return {one.path: one for one in file_entries(Knowledge(newest=versions, **given))}


def of_claude(root: Path, version: Newest | None, **known: Any) -> Entry:
    return entries(root, {} if version is None else {"CLAUDE.md": version}, **known)["CLAUDE.md"]


def make_old(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an hour pass since the last change of a file."""
    at_ns = file.lstat().st_ctime_ns + 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: at_ns)


def test_saved_and_watched(root: Path) -> None:
    version = newest()
    found = of_claude(root, version)
    assert (found.state, found.since, found.why, found.size, found.version) == (
        "saved",
        version.at,
        None,
        3,
        version.id,
    )
    assert not found.at_risk


@pytest.mark.parametrize("change", [{"text": "two"}, {"mode": 0o600}, {"link": "AGENTS.md"}], ids=str)
def test_any_difference_counts(root: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_claude(root, newest(**change)).state == "pending"
    make_old(root / "CLAUDE.md", monkeypatch)
    found = of_claude(root, newest(**change), now=NOW + timedelta(days=1))
    assert (found.state, found.at_risk) == ("changed", True)
    assert found.since is not None
    assert abs(found.since.timestamp() - (root / "CLAUDE.md").stat().st_ctime) < 0.001
    assert of_claude(root, None).state == "new"


def test_without_a_watcher_nothing_is_only_saved_or_pending(root: Path) -> None:
    for trouble in (None, watched(root, lost=True), watched(root, problem="it is too busy")):
        found = of_claude(root, newest(), watched=trouble)
        assert (found.state, found.at_risk) == ("saved_not_watched", True)
        assert of_claude(root, newest("two"), watched=trouble).state == "changed"


def test_a_project_that_the_watcher_may_not_know_yet_is_pending(root: Path) -> None:
    found = of_claude(root, newest(), watched=None, is_younger_than_report=True)
    assert (found.state, found.why) == ("pending", "the watcher has not reported since the project was registered")
    assert of_claude(root, newest(), is_younger_than_report=True).state == "saved"
    lost = watched(root, lost=True)
    assert of_claude(root, newest(), watched=lost, is_younger_than_report=True).state == "saved_not_watched"


def test_what_only_the_journal_has(root: Path) -> None:
    for version in (None, newest("zero"), newest("one", id=None)):
        found = of_claude(root, version, pending={"CLAUDE.md": pending("one")})
        assert (found.state, found.since, found.at_risk) == ("journal", NOW - HOUR, False)
    # The database has it too: it was delivered a moment ago.
    assert of_claude(root, newest("one"), pending={"CLAUDE.md": pending("one")}).state == "saved"
    # The journal has an older content only.
    assert of_claude(root, newest("zero"), pending={"CLAUDE.md": pending("half")}).state == "pending"
    refused = of_claude(root, None, pending={"CLAUDE.md": pending("one", "the limit is reached")})
    assert (refused.state, refused.why) == ("problem", "the database refuses it: the limit is reached")


def test_too_large(root: Path) -> None:
    found = of_claude(root, newest(kept=False))
    assert (found.state, found.at_risk) == ("too_large", True)
    assert found.why == "it was over the size limit, so only its hash is saved; atlasctl snapshot saves it now"
    (root / ".atlas.toml").write_text("[track]\nlimit_bytes = 2\n")
    found = of_claude(root, newest(kept=None))
    assert (found.state, found.why) == ("too_large", "it is over the size limit of 2 bytes, so only its hash is saved")
    # Another file has the same content, and was within the limit.
    assert of_claude(root, newest(kept=True)).state == "saved"


def test_unreadable(root: Path) -> None:
    (root / "AGENTS.md").symlink_to("/etc/hostname")
    os.mkfifo(root / "notes.md")
    found = entries(root, {"CLAUDE.md": newest()})
    assert {path: one.state for path, one in found.items()} == {
        "AGENTS.md": "unreadable",
        "CLAUDE.md": "saved",
        "notes.md": "unreadable",
    }
    assert "AGENTS.md" in (found["AGENTS.md"].why or "")
    assert "notes.md" in (found["notes.md"].why or "")


def test_problems_of_the_watcher(root: Path) -> None:
    file = FileStatus(path="CLAUDE.md", sha256=None, protected_since=None, problem="no", state="unreadable", since=NOW)
    found = of_claude(root, newest("two"), watched=watched(root, files=(file,)))
    assert (found.state, found.since, found.why) == ("unreadable", NOW, "no")
    found = of_claude(root, newest("two"), watched=watched(root, files=(evolve(file, state="pending"),)))
    assert found.state == "problem"
    # The problem is over: the content is on record.
    assert of_claude(root, newest(), watched=watched(root, files=(file,))).state == "saved"
    found = entries(root, {}, watched=watched(root, problem="it is too busy"))["."]
    assert (found.state, found.why) == ("problem", "the watcher: it is too busy")


def test_wrong_settings_are_a_problem_of_the_project(root: Path) -> None:
    (root / ".atlas.toml").write_text("[track]\npresets = ['nonsense']\n")
    (found,) = entries(root, {"CLAUDE.md": newest()}).values()
    assert (found.path, found.state) == (".", "problem")


def test_a_folder_that_is_gone_is_lost(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))
    lost = FileStatus(path="CLAUDE.md", sha256=None, protected_since=None, problem=None, state="lost", since=NOW)
    versions = {"CLAUDE.md": newest(), "gone.md": newest(None)}
    found = entries(root, versions, watched=watched(root, lost=True, files=(lost,)))
    assert {path: (one.state, one.since) for path, one in found.items()} == {
        ".": ("lost", NOW),
        "CLAUDE.md": ("lost", NOW),
    }
    assert "app" in (found["."].why or "")


def test_a_project_that_never_had_a_folder_is_not_lost(root: Path) -> None:
    project = a_project(root.with_name("nowhere"), had_folder=False)
    found = entries(root, {"CLAUDE.md": newest(), "gone.md": newest(None)}, project=project, watched=None)
    assert {path: one.state for path, one in found.items()} == {"CLAUDE.md": "saved"}
    # When the folder exists, it is as any other.
    found = entries(root, {"CLAUDE.md": newest()}, project=a_project(root, had_folder=False), watched=None)
    assert found["CLAUDE.md"].state == "saved_not_watched"


def test_recent_deletions_are_listed(root: Path) -> None:
    versions = {
        "recent.md": newest(None, age=timedelta(days=6)),
        "old.md": newest(None, age=timedelta(days=8)),
        "notes.md": newest("not recorded yet"),
    }
    found = entries(root, versions)
    assert found["recent.md"].state == "deleted"
    assert found["recent.md"].since == versions["recent.md"].at
    assert "old.md" not in found
    assert (found["notes.md"].state, found["notes.md"].since, found["notes.md"].at_risk) == ("deleted", None, False)


def test_a_folder_in_the_place_of_a_file_is_a_deletion(root: Path) -> None:
    (root / ".clinerules").mkdir()
    found = entries(root, {".clinerules": newest("rules")})[".clinerules"]
    assert found.state == "deleted"
    assert (found.why or "").startswith("a folder is in its place")


def test_a_file_that_is_not_tracked_any_more(root: Path) -> None:
    (root / "docs").mkdir()
    (root / "docs" / "style.md").write_text("be kind")
    found = entries(root, {"docs/style.md": newest("be kind")})["docs/style.md"]
    assert (found.state, found.why) == ("not_tracked", "no instruction file imports it; its history is kept")
    (root / ".atlas.toml").write_text("[track]\nexclude = ['CLAUDE.md']\n")
    found = of_claude(root, newest("another"))
    assert (found.state, found.at_risk) == ("not_tracked", False)
    assert found.why == "no preset, glob or import of .atlas.toml names it; its history is kept"
    assert found.since is not None
    assert abs(found.since.timestamp() - (root / ".atlas.toml").stat().st_mtime) < 0.001
    inner = root / "docs"
    (inner / ".git").mkdir()
    found = entries(root, {"docs/style.md": newest("be kind")})["docs/style.md"]
    assert found.why == f"it is in a git repository of its own, {inner}; its history is kept"


def test_the_page_explains_every_state() -> None:
    page = (Path(__file__).parents[2] / "docs" / "status.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (0|6) \|", page, re.MULTILINE)
    assert {name: (words.strip(), code == "6") for name, words, code in rows} == STATES
