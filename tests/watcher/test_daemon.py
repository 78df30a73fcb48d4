"""Faults that a daemon survives, with real processes and real kill -9."""

import os
import signal
import socket
import threading
from pathlib import Path

import daemons
import programs
import pytest
from daemons import Daemon, NewProject, contents, has_no_repeats, newest, until, until_newest
from fakes import FakeBackend
from patience import PATIENCE_S

from atlas_sdk import Atlas
from watcher.__main__ import main
from watcher.backend import Sink
from watcher.daemon import run
from watcher.debounce import Timing
from watcher.status import read_status


def test_changes_made_while_it_was_down_are_captured(daemon: Daemon, atlas: Atlas, new_project: NewProject) -> None:
    project = new_project()
    root = Path(project.path)
    (root / "CLAUDE.md").write_bytes(b"one")
    (root / "notes.md").write_bytes(b"to be deleted")
    daemon.start()
    assert daemon.stop() == 0
    assert newest(atlas, project) == b"one"
    (root / "CLAUDE.md").write_bytes(b"two")
    (root / "notes.md").unlink()
    daemon.start()
    until_newest(atlas, project, b"two")
    assert contents(atlas, project) == [b"one", b"two"]
    until(lambda: newest(atlas, project, "notes.md") == "deleted", "the deletion is recorded")


def test_a_write_right_before_sigterm_is_stored(daemon: Daemon, atlas: Atlas, new_project: NewProject) -> None:
    project = new_project()
    daemon.start(closed_s=60, changed_s=60, longest_s=60)
    (Path(project.path) / "CLAUDE.md").write_bytes(b"just in time")
    assert daemon.stop() == 0
    assert newest(atlas, project) == b"just in time"
    assert read_status(daemon.home) is None


#: Try a version that was refused again after 0.1 s instead of a minute.
_IMPATIENT = """
from datetime import timedelta
from atlas_sdk.ops import delivery
delivery._AGAIN = timedelta(seconds=0.1)
"""


def test_it_survives_a_hard_limit_and_says_what_is_not_protected(
    daemon: Daemon, atlas: Atlas, new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons._PROGRAM", _IMPATIENT + daemons._PROGRAM)
    project = new_project()
    root = Path(project.path)
    user = atlas.users.get(project.user_id)
    atlas.quotas.set_limits(user, memory_bytes=100, memory_hard=True)
    daemon.start(sweep_s=0.2)
    (root / "CLAUDE.md").write_bytes(os.urandom(1000))

    def problem() -> str | None:
        (known,) = daemon.status().projects
        return next((file.problem for file in known.files if file.path == "CLAUDE.md"), None)

    told = until(problem, "the refusal shows")
    assert told.startswith("CLAUDE.md: the memory limit of 100 bytes leaves 100 bytes, and 1001 were asked for")
    assert daemon.status().database.ok
    (root / "notes.md").write_bytes(os.urandom(84))
    until(lambda: newest(atlas, project, "notes.md"), "another file is captured")
    assert newest(atlas, project) is None

    def events() -> list[object]:
        return [event.meta["percent"] for event in atlas.events.recent(user) if event.type == "quota.memory"]

    until(events, "the sweep tells of it")
    assert events() == [80]
    atlas.quotas.set_limits(user, memory_hard=False)
    (root / "CLAUDE.md").write_bytes(b"another try")
    until(lambda: newest(atlas, project) == b"another try", "the next change is captured")
    until(lambda: problem() is None, "the problem is gone")
    assert daemon.stop() == 0


def test_a_lost_root_keeps_its_files_and_is_watched_when_it_is_back(
    daemon: Daemon, atlas: Atlas, new_project: NewProject, tmp_path: Path
) -> None:
    project, other = new_project(), new_project("other")
    root = Path(project.path)
    (root / "CLAUDE.md").write_bytes(b"one")
    daemon.start(vanished_s=0.05)
    root.rename(tmp_path / "away")

    def lost() -> dict[str, bool]:
        return {one.path: one.lost for one in daemon.status().projects}

    until(lambda: lost() == {str(root): True, other.path: False}, "the project is lost")
    (tmp_path / "away" / "CLAUDE.md").write_bytes(b"written elsewhere")
    (Path(other.path) / "CLAUDE.md").write_bytes(b"other")
    until(lambda: newest(atlas, other) == b"other", "the other project goes on")
    assert contents(atlas, project) == [b"one"]
    (tmp_path / "away").rename(root)
    until(lambda: newest(atlas, project) == b"written elsewhere", "it is compared when it is back")
    (root / "CLAUDE.md").write_bytes(b"two")
    until(lambda: newest(atlas, project) == b"two", "and watched")
    assert not lost()[str(root)]


def test_kill_9_loses_nothing_and_repeats_nothing(daemon: Daemon, atlas: Atlas, new_project: NewProject) -> None:
    project = new_project()
    files = [Path(project.path) / f"scratch{number}.md" for number in range(5)]
    stop = threading.Event()
    turn = 0

    def write() -> None:
        nonlocal turn
        while not stop.wait(0.005):
            turn += 1
            for file in files:
                fresh = file.with_name(f"{file.name}.tmp.1.1")
                fresh.write_text(f"{file.name} {turn}")
                fresh.replace(file)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2):
            daemon.start(closed_s=0.01)
            daemon.until_snapshots(daemon.status().counters["snapshots"] + 1)
            daemon.kill()
            assert read_status(daemon.home) is None
    finally:
        stop.set()
        writer.join()
    daemon.start()
    for file in files:
        until_newest(atlas, project, file.read_bytes(), file.name)
        assert has_no_repeats(atlas, project, file.name)


def test_a_second_daemon_is_refused_by_name(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    second = programs.run(daemon.command(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert second.returncode == 1
    assert f"process {daemon.process.pid}" in second.stderr
    assert daemon.stop() == 0


def test_systemd_is_told(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        seen: list[str] = []

        def until_told(wanted: str) -> list[str]:
            before = len(seen)
            while wanted not in seen[before:]:
                seen.extend(systemd.recv(4096).decode().split("\n"))
            return seen[before:]

        daemon.spawn(daemon.command())
        assert not {"RELOADING=1", "STOPPING=1"} & set(until_told("READY=1"))
        assert "READY=1" not in until_told("WATCHDOG=1")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        assert "READY=1" not in until_told("RELOADING=1")
        until_told("READY=1")
        assert daemon.stop() == 0
        until_told("STOPPING=1")


def test_a_closed_terminal_ends_a_daemon_that_has_no_settings_to_read_again(
    daemon: Daemon, atlas: Atlas, new_project: NewProject
) -> None:
    project = new_project()
    daemon.start(closed_s=60, changed_s=60, longest_s=60)
    (Path(project.path) / "CLAUDE.md").write_bytes(b"just in time")
    assert daemon.signal(signal.SIGHUP) == 0
    assert newest(atlas, project) == b"just in time"


def test_it_runs_inside_a_program_until_its_event(
    tmp_path: Path, dsn: str, atlas: Atlas, new_project: NewProject
) -> None:
    project = new_project()
    (Path(project.path) / "CLAUDE.md").write_bytes(b"one")
    stop, ready, codes = threading.Event(), threading.Event(), []

    def serve() -> None:
        codes.append(run(dsn=dsn, home=tmp_path / "home", stop=stop, ready=ready.set, timing=Timing()))

    threads = threading.active_count()
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    assert codes == [0]
    assert newest(atlas, project) == b"one"
    until(lambda: threading.active_count() <= threads, "its threads end with it")


class Exhausted(FakeBackend):
    """A backend that cannot start, because the system has no inotify instance left."""

    def start(self, sink: Sink) -> None:
        raise OSError(24, "inotify instance limit reached")


def test_without_inotify_everything_is_looked_at(
    tmp_path: Path, dsn: str, atlas: Atlas, new_project: NewProject, caplog: pytest.LogCaptureFixture
) -> None:
    project = new_project()
    stop, ready = threading.Event(), threading.Event()
    options = {"dsn": dsn, "home": tmp_path / "home", "stop": stop, "ready": ready.set, "backend": Exhausted()}
    thread = threading.Thread(target=run, kwargs={**options, "timing": Timing(poll_s=0.05, status_s=0.02)})
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        (Path(project.path) / "CLAUDE.md").write_bytes(b"one")
        until(lambda: newest(atlas, project) == b"one", "it is captured without events")
        status = read_status(tmp_path / "home")
        assert status is not None
        assert status.backend == "poll"
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    assert "fs.inotify.max_user_instances" in caplog.text


def test_help_names_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "ATLAS_DATABASE_URL" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--log-level", "loud"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2


SERVER, OTHER = "postgresql://ada@db.example/atlas", "postgresql://bob@db.example/atlas"


@pytest.mark.parametrize(
    ("arguments", "variables", "used"),
    [
        ([], {}, (SERVER, "kept")),
        ([], {"ATLAS_DATABASE_URL": OTHER}, (OTHER, "kept")),
        ([], {"ATLAS_HOME": "mine"}, (SERVER, "mine")),
        (["--dsn", OTHER], {}, (OTHER, "kept")),
        (["--home", "mine"], {}, (None, "mine")),
        (["--home", "mine"], {"ATLAS_DATABASE_URL": OTHER}, (OTHER, "mine")),
        (["--home", "mine", "--dsn", OTHER], {}, (OTHER, "mine")),
    ],
)
def test_the_settings_choose_the_database(
    arguments: list[str],
    variables: dict[str, str],
    used: tuple[str | None, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ATLAS_DATABASE_URL", "ATLAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("atlas_sdk.config.user_file", lambda: tmp_path / "config.toml")
    (tmp_path / "config.toml").write_text(f'[atlas]\ndatabase_url = "{SERVER}"\nhome = "{tmp_path / "kept"}"\n')
    found: list[tuple[str | None, Path]] = []

    def run_nothing(*, dsn: str | None, home: Path, **_: object) -> int:
        found.append((dsn, home))
        return 0

    monkeypatch.setattr("watcher.daemon.run", run_nothing)
    assert main(arguments) == 0
    assert found == [(used[0], tmp_path / used[1])]


#: Settings of one project that once stopped the daemon for all projects, by a recursion error.
HOSTILE = ".atlas.toml", b"x=" + b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize("rounds", [5])
def test_last_change_before_the_end_is_stored_beside_a_hostile_project(
    daemon: Daemon, atlas: Atlas, new_project: NewProject, tmp_path: Path, rounds: int
) -> None:
    evil, good = new_project("evil"), new_project("good")
    name, content = HOSTILE
    (tmp_path / "evil" / name).write_bytes(content)
    (tmp_path / "evil" / "CLAUDE.md").write_text("of the other project")
    for number in range(rounds):
        daemon.start()
        last = b"last change of round %d" % number
        (tmp_path / "good" / "CLAUDE.md").write_bytes(last)
        assert daemon.stop() == 0
        assert newest(atlas, good) == last, daemon.log.read_text()
    assert newest(atlas, evil) == b"of the other project"
