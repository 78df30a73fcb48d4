import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from watcher import status as watcher_status
from watcher.status import DatabaseStatus, FileStatus, ProjectStatus, Status

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("[0-9]*.py"))


def states(ran):
    return {file["path"]: file["state"] for file in ran.record["projects"][0]["files"]}


def test_everything_on_record_is_protected(app, cli):
    ran = cli("status", "--json")
    assert ran.code == 0
    assert ran.record["protected"] is True
    assert ran.record["watcher"] == {"running": False}
    assert states(ran) == {"CLAUDE.md": "protected", "notes.md": "protected"}
    assert cli("status").out.splitlines()[0] == "watcher  not running; atlasctl watch starts it"


def test_what_nobody_captures_is_not_protected(app, cli):
    (app / "CLAUDE.md").write_text("changed")
    (app / "TODO.md").write_text("new")
    (app / "notes.md").unlink()
    (app / "AGENTS.md").symlink_to("/etc/hostname")
    ran = cli("status", "--json")
    assert ran.code == 6
    assert ran.record["protected"] is False
    assert states(ran) == {"AGENTS.md": "problem", "CLAUDE.md": "changed", "TODO.md": "new", "notes.md": "gone"}
    shown = cli("status")
    assert shown.code == 6
    assert "3 files not protected; atlasctl snapshot captures what can be captured" in shown.err


def test_mode_counts(app, cli):
    (app / "CLAUDE.md").chmod(0o600)
    assert states(cli("status", "--json"))["CLAUDE.md"] == "changed"


def test_over_the_limit_is_not_protected(app, cli):
    (app / ".atlas.toml").write_text("[track]\nlimit_bytes = 4\n")
    (app / "notes.md").write_text("12345")
    taken = cli("snapshot")
    assert "notes.md is over the size limit of 4 bytes: only its hash was kept" in taken.err
    ran = cli("status", "--json")
    assert ran.code == 6
    assert states(ran)["notes.md"] == "unkept"


def test_folder_that_is_gone_is_a_problem_not_a_deletion(app, cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    app.rename(tmp_path / "elsewhere")
    ran = cli("status", "--project", app, "--json")
    assert ran.code == 6
    assert states(ran) == {".": "problem"}


@pytest.fixture
def watched(monkeypatch):
    """A watcher that says what the test wants."""

    def say(*projects, ok=True):
        now = datetime.now(UTC)
        problem = None if ok else "no connection"
        found = Status(
            pid=1, started_at=now, ready=True, database=DatabaseStatus(ok=ok, problem=problem), projects=projects
        )
        monkeypatch.setattr(watcher_status, "read_status", lambda _home: found)

    return say


def test_a_running_watcher_is_about_to_capture(app, cli, watched):
    watched()
    (app / "CLAUDE.md").write_text("changed")
    ran = cli("status", "--json")
    assert ran.code == 0
    assert states(ran)["CLAUDE.md"] == "pending"
    assert ran.record["watcher"]["running"] is True
    assert "process 1" in cli("status").out


def test_what_the_watcher_cannot_capture_is_not_protected(app, cli, watched):
    project = cli("init", "--json").record["project"]["id"]
    file = FileStatus(path="CLAUDE.md", sha256=None, protected_since=None, problem="it is too busy")
    watched(ProjectStatus(id=project, path=str(app), lost=False, problem=None, files=(file,)), ok=False)
    (app / "CLAUDE.md").write_text("changed")
    ran = cli("status")
    assert ran.code == 6
    assert "warning: it is too busy" in ran.err
    assert "warning: no connection" in ran.err


def test_all_projects(app, cli, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    cli("init", other)
    found = {project["path"] for project in cli("status", "--all", "--json").record["projects"]}
    assert {str(app), str(other)} <= found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_examples_leave_no_project_behind(app, cli, example):
    before = cli("status", "--all", "--json").record["projects"]
    subprocess.run([sys.executable, example], capture_output=True, check=True)
    assert cli("status", "--all", "--json").record["projects"] == before
