import importlib
import itertools
import os
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve

from watcher import status as watcher_status
from watcher.status import DatabaseStatus, FileStatus, PolledFolder, ProjectStatus, Status

ROOT = Path(__file__).parents[2]


def states(ran):
    return {file["path"]: file["state"] for file in ran.record["projects"][0]["files"]}


def test_without_a_watcher_everything_is_saved_and_nothing_is_watched(app, cli):
    ran = cli("status", "--json")
    assert ran.code == 6
    assert ran.record["protected"] is False
    assert ran.record["watcher"] == {"running": False}
    assert ran.record["projects"][0]["watched"] is False
    assert states(ran) == {"CLAUDE.md": "saved_not_watched", "notes.md": "saved_not_watched"}
    shown = cli("status")
    assert shown.code == 6
    assert shown.out.splitlines()[0] == "watcher   not running"
    assert re.search(r"^  CLAUDE.md  saved, not watched  18 B", shown.out, re.MULTILINE)
    started = "2 files saved, not watched: the next change is not captured; to start the watcher: "
    started += "atlasctl service install, or atlasctl watch"
    assert started in shown.err


def test_with_a_watcher_everything_is_protected(app, cli, watched, known):
    watched(known)
    ran = cli("status", "--json")
    assert ran.code == 0
    assert ran.record["protected"] is True
    assert ran.record["projects"][0]["watched"] is True
    assert states(ran) == {"CLAUDE.md": "saved", "notes.md": "saved"}
    assert cli("status").err == ""


def test_what_nobody_captures_is_not_protected(app, cli):
    (app / "CLAUDE.md").write_text("changed")
    (app / "TODO.md").write_text("new")
    (app / "notes.md").unlink()
    (app / "AGENTS.md").symlink_to("/etc/hostname")
    ran = cli("status", "--json")
    assert ran.code == 6
    assert ran.record["protected"] is False
    assert states(ran) == {"AGENTS.md": "unreadable", "CLAUDE.md": "changed", "TODO.md": "new", "notes.md": "deleted"}
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
    assert states(ran)["notes.md"] == "too_large"
    assert "warning: notes.md: it is over the size limit of 4 bytes, so only its hash is saved" in cli("status").err


def test_folder_that_is_gone_is_lost_and_not_deleted(app, cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    app.rename(tmp_path / "elsewhere")
    ran = cli("status", "--project", app, "--json")
    assert ran.code == 6
    assert states(ran) == {".": "lost", "CLAUDE.md": "lost", "notes.md": "lost"}
    advice = "2 files lost, with all saved versions kept; if the folder was moved: atlasctl projects move OLD NEW"
    assert advice in cli("status", "--project", app).err


@pytest.fixture
def watched(monkeypatch):
    """Return a function that sets the status of the watcher."""

    def say(*projects, ok=True, silent_s=0.0):
        def read(_home):
            now = datetime.now(UTC)
            return Status(
                pid=1,
                started_at=now,
                written_at=now - timedelta(seconds=silent_s),
                ready=True,
                database=DatabaseStatus(ok=ok, problem=None if ok else "no connection"),
                projects=projects,
            )

        monkeypatch.setattr(watcher_status, "read_status", read)

    return say


@pytest.fixture
def known(app, cli):
    """Return the status of the project from a watcher without problems."""
    project = cli("init", "--json").record["project"]["id"]
    return ProjectStatus(id=project, path=str(app), lost=False, problem=None, files=())


@pytest.fixture
def write(monkeypatch):
    """Return a function that writes a file and stops the clock, so that the change stays young on a slow machine."""

    def write_and_stop(file, text):
        file.write_text(text)
        changed_ns = file.stat().st_mtime_ns
        monkeypatch.setattr(time, "time_ns", lambda: changed_ns)
        return changed_ns

    return write_and_stop


def test_a_running_watcher_is_about_to_capture(app, cli, watched, known, write):
    watched(known)
    write(app / "CLAUDE.md", "changed")
    ran = cli("status", "--json")
    assert ran.code == 0
    assert states(ran)["CLAUDE.md"] == "pending"
    assert ran.record["watcher"]["running"] is True
    assert "process 1" in cli("status").out


def test_a_watcher_that_is_stopped_protects_nothing(app, cli, watched, known):
    watched(known, silent_s=31.0)
    (app / "CLAUDE.md").write_text("changed")
    ran = cli("status", "--json")
    assert ran.code == 6
    assert states(ran)["CLAUDE.md"] == "changed"
    assert ran.record["watcher"]["responding"] is False
    began = time.monotonic()
    told = re.search(
        r"warning: the watcher has said nothing for (\d+) s: it is stopped, or it hangs", cli("status").err
    )
    assert told is not None
    assert 31 <= int(told[1]) <= 31.5 + time.monotonic() - began


def test_a_watcher_is_judged_at_the_moment_it_was_asked(app, cli, watched, known, write, monkeypatch):
    """The database takes a minute to answer, which must not make the watcher look silent."""
    watched(known)
    write(app / "CLAUDE.md", "changed")
    moments = itertools.count(0, 60)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=next(moments))

    monkeypatch.setattr(importlib.import_module("atlas_sdk.cli.status"), "datetime", Clock)
    ran = cli("status", "--json")
    assert ran.code == 0
    assert states(ran)["CLAUDE.md"] == "pending"
    assert ran.record["watcher"]["responding"] is True


def test_a_watcher_of_another_database_protects_nothing(app, cli, watched, known):
    watched(evolve(known, id="another"))
    (app / "CLAUDE.md").write_text("changed")
    ran = cli("status")
    assert ran.code == 6
    assert f"warning: the watcher does not know {app}" in ran.err
    assert states(cli("status", "--json"))["CLAUDE.md"] == "changed"


@pytest.mark.parametrize("trouble", [{"lost": True}, {"problem": "it is too busy"}], ids=["lost", "problem"])
def test_a_watcher_with_a_problem_protects_nothing(app, cli, watched, known, trouble):
    watched(evolve(known, **trouble))
    ran = cli("status")
    assert ran.code == 6
    assert f"warning: the watcher: {trouble.get('problem', 'the folder is lost')}" in ran.err
    (app / "CLAUDE.md").write_text("changed")
    assert states(cli("status", "--json")) == {
        ".": "lost" if "lost" in trouble else "problem",
        "CLAUDE.md": "changed",
        "notes.md": "saved_not_watched",
    }


def test_an_old_change_is_not_pending_any_more(app, cli, watched, known, write, monkeypatch):
    watched(known)
    changed_ns = write(app / "CLAUDE.md", "changed")
    monkeypatch.setattr(time, "time_ns", lambda: changed_ns + 8_000_000_000)
    assert states(cli("status", "--json"))["CLAUDE.md"] == "pending"
    monkeypatch.setattr(time, "time_ns", lambda: changed_ns + 11_000_000_000)
    ran = cli("status", "--json")
    assert ran.code == 6
    assert states(ran)["CLAUDE.md"] == "changed"


def test_what_was_over_the_limit_of_its_day_is_not_protected(app, cli):
    (app / ".atlas.toml").write_text("[track]\nlimit_bytes = 4\n")
    (app / "notes.md").write_text("over the limit of its day")
    cli("snapshot")
    (app / ".atlas.toml").unlink()
    ran = cli("status", "--json")
    assert ran.code == 6
    assert states(ran)["notes.md"] == "too_large"


def test_init_does_not_count_what_was_not_kept(home, folder, cli):
    (folder / ".atlas.toml").write_text("[track]\nlimit_bytes = 4\n")
    # No other test may store the same contents, because a stored content counts as kept.
    (folder / "CLAUDE.md").write_text("never kept, one")
    (folder / "notes.md").write_text("never kept, two")
    shown = cli("init", folder).out.splitlines()
    assert shown[0] == f"{folder} is registered; no memory files kept"
    assert shown[1] == "2 files over the size limit: only their hashes are kept"
    (folder / "CLAUDE.md").write_text("1234")
    shown = cli("init", folder).out.splitlines()
    assert shown[0] == f"{folder} is already saved, not watched: 1 memory file"
    assert shown[1] == "1 file over the size limit: only its hash is kept"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed: apt-get install make")
@pytest.mark.parametrize(("given", "folder"), [("~/my app", "/home/ada/my app"), ("~", "/home/ada"), ("/~/x", "/~/x")])
def test_make_knows_the_home_folder(given, folder):
    command = ["make", "--dry-run", "quickstart", f"PROJECT={given}", "HOME=/home/ada"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f'atlasctl init "{folder}"' in told
    assert f'atlasctl --project "{folder}" snapshot' in told


def test_what_the_watcher_cannot_capture_is_not_protected(app, cli, watched, known):
    file = FileStatus(path="CLAUDE.md", sha256=None, protected_since=None, problem="it is too busy")
    watched(evolve(known, files=(file,)), ok=False)
    (app / "CLAUDE.md").write_text("changed")
    ran = cli("status")
    assert ran.code == 6
    assert "warning: CLAUDE.md: it is too busy" in ran.err
    assert "warning: no connection" in ran.err


def test_polled_folders_are_shown_with_the_reason(app, cli, watched, known):
    slow = "it is on nfs, where other machines can change files without an event here"
    polled = [PolledFolder(path=path, reason=slow) for path in ("notes", "notes/\x1b[31m")]
    watched(evolve(known, polled=(*polled, PolledFolder(path="", reason="it may not be read"))))
    ran = cli("status")
    assert ran.code == 0
    assert f"  polled: notes and 1 more folder: {slow}\n  polled: .: it may not be read\n" in ran.err
    (project,) = cli("status", "--json").record["projects"]
    assert [one["path"] for one in project["polled"]] == ["notes", "notes/\x1b[31m", "."]
    assert project["polled"][0]["reason"] == slow
    watched(evolve(known, polled=tuple(polled)), silent_s=60)
    assert "polled: notes" not in cli("status").err


def test_a_dangling_link_is_explained(app, cli):
    (app / "notes.md").unlink()
    (app / "notes.md").symlink_to("gone.md")
    assert "  notes.md is a symlink that leads to no file: gone.md does not exist\n" in cli("status").err


@pytest.fixture
def ada(dsn, atlas, folder, cli, monkeypatch):
    """Make a user in a database of her own, with a protected project; return a function that sets her limits."""
    user = atlas.users.create("ada@example.com")
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    monkeypatch.setenv("ATLAS_USER", user.email)
    monkeypatch.chdir(folder)
    assert cli("init").code == 0
    return lambda **limits: atlas.quotas.set_limits(user, **limits)


@pytest.mark.parametrize(
    ("limits", "line", "warning"),
    [
        ({}, "memory    28 B of 100 MiB stored", None),
        ({"memory_bytes": None}, "memory    28 B stored", None),
        ({"memory_bytes": 35}, "memory    28 B of 35 B stored", "80% of the memory limit is stored"),
        (
            {"memory_bytes": 27},
            "memory    28 B of 27 B stored",
            "more is stored than the memory limit of 27 B; nothing is refused for it",
        ),
        ({"memory_bytes": 0}, "memory    28 B of 0 B stored", "more is stored than the memory limit of 0 B"),
        (
            {"memory_bytes": 30, "memory_hard": True},
            "memory    28 B of 30 B stored",
            "2 B of the memory limit are left; new content above it is refused",
        ),
    ],
)
def test_memory_is_told_and_warned_of_near_its_limit(ada, cli, limits, line, warning):
    ada(**limits)
    ran = cli("status")
    assert ran.out.splitlines()[1] == line
    assert (warning or "") in ran.err
    assert ("warning" in ran.err) is (warning is not None)


def test_memory_in_json(ada, cli):
    ada(memory_bytes=27)
    found = cli("status", "--json").record["memory"]
    assert found == {"bytes": 28, "limit": 27, "hard": False, "exceeded": True}


def test_what_a_hard_limit_refuses_is_not_protected(ada, folder, cli):
    ada(memory_bytes=100, memory_hard=True)
    (folder / "CLAUDE.md").write_bytes(os.urandom(1000))
    (folder / "notes.md").write_text("- second\n")
    ran = cli("snapshot", "CLAUDE.md", "notes.md")
    assert ran.code == 1
    assert "not captured: CLAUDE.md: the memory limit of 100 bytes leaves 72 bytes, and 1001 were asked for" in ran.err
    assert "notes.md" in ran.out
    ran = cli("snapshot")
    assert ran.code == 1
    assert "not captured: CLAUDE.md: the memory limit of 100 bytes" in ran.err
    assert states(cli("status", "--json")) == {"CLAUDE.md": "changed", "notes.md": "saved_not_watched"}


@pytest.mark.parametrize("arguments", [["snapshot"], ["snapshot", "CLAUDE.md"], ["checkpoint", "v1"]])
def test_captures_tell_of_memory(ada, atlas, folder, cli, arguments):
    ada(memory_bytes=1000)
    (folder / "CLAUDE.md").write_bytes(os.urandom(1000))
    assert cli(*arguments).code == 0
    events = atlas.events.recent(atlas.users.by_email("ada@example.com"))
    assert [event.meta["percent"] for event in events if event.type == "quota.memory"] == [100, 80]


def test_all_projects(app, cli, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    cli("init", other)
    found = {project["path"] for project in cli("status", "--all", "--json").record["projects"]}
    assert {str(app), str(other)} <= found
