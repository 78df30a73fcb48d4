"""The database is away, killed or shared, and the daemon is killed meanwhile: real processes."""

import os
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path

from daemons import Daemon, NewProject, contents, newest, until, until_newest
from patience import PATIENCE_S

from atlas_sdk import Atlas


def test_the_database_may_be_killed_while_files_change(tmp_path: Path) -> None:
    home = tmp_path / "home"
    daemon = Daemon(home, None)
    try:
        # The server is recovering. On a busy machine this takes longer than a client waits by default.
        with Atlas.open(home=home, connect_timeout_s=PATIENCE_S) as atlas:
            root = tmp_path / "app"
            root.mkdir()
            project = atlas.projects.create(atlas.users.create("ada@example.com"), path=root)
            daemon.start()
            data = (home / "postgres").resolve()
            for turn in range(3):
                for number in range(10):
                    (root / f"scratch{number}.md").write_text(f"{number}: {turn}")
                    if (turn, number) == (1, 5):
                        os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            until(lambda: daemon.status().counters["errors"] or newest(atlas, project, "scratch9.md"), "it noticed")
            for number in range(10):
                until_newest(atlas, project, f"{number}: 2".encode(), f"scratch{number}.md")
            until(lambda: daemon.status().database.ok, "the status says so")
            assert daemon.stop() == 0
    finally:
        daemon.end()
        remove(home)


def remove(home: Path) -> None:
    data = (home / "postgres").resolve()
    until(lambda: not (data / "postmaster.pid").exists(), "the embedded server stops after its last user")
    shutil.rmtree(data)


def test_it_starts_while_the_database_is_away(tmp_path: Path, new_project: NewProject, dsn: str, atlas: Atlas) -> None:
    project = new_project()
    (Path(project.path) / "CLAUDE.md").write_bytes(b"one")
    nowhere = Daemon(tmp_path / "home", "postgresql:///atlas?host=/nonexistent")
    try:
        nowhere.spawn(nowhere.command())
        problem = until(lambda: nowhere.status().database.problem, "the status names the problem")
        assert "cannot reach PostgreSQL" in problem
        assert not nowhere.status().ready
        assert nowhere.stop() == 0
    finally:
        nowhere.end()


def until_records(daemon: Daemon, number: int) -> None:
    until(lambda: daemon.status().journal.records >= number, f"the journal has {number} records")


def test_nothing_is_lost_while_the_database_is_away_and_the_daemon_is_killed(
    daemon: Daemon, atlas: Atlas, new_project: NewProject
) -> None:
    project = new_project()
    file = Path(project.path) / "CLAUDE.md"
    file.write_bytes(b"0")
    daemon.start()
    assert daemon.stop() == 0
    reachable, daemon.dsn = daemon.dsn, "postgresql:///atlas?host=/nonexistent"
    written = [b"0"]
    for _ in range(2):
        # A cold start: the projects and the files come from the journal.
        daemon.start()
        for _ in range(5):
            records = daemon.status().journal.records
            written.append(b"%d" % len(written))
            file.write_bytes(written[-1])
            until_records(daemon, records + 1)
        daemon.kill()
    written.append(b"written while no daemon runs")
    file.write_bytes(written[-1])
    assert contents(atlas, project) == [b"0"]
    back_at = datetime.now(UTC)
    daemon.dsn = reachable
    daemon.start()
    until_newest(atlas, project, written[-1])
    assert contents(atlas, project) == written
    versions = atlas.memory.history(project, "CLAUDE.md", limit=100)[1:]
    times = [version.created_at for version in versions]
    assert times == sorted(set(times), reverse=True)
    assert times[0] < back_at
    assert daemon.stop() == 0


def until_delivered(daemon: Daemon, number: int) -> None:
    until(lambda: daemon.status().counters["delivered"] >= number, f"{number} records are delivered")


def test_two_daemons_on_two_homes_store_each_version_once(
    daemon: Daemon, atlas: Atlas, new_project: NewProject, tmp_path: Path
) -> None:
    project = new_project()
    other = Daemon(tmp_path / "other", daemon.dsn)
    try:
        daemon.start()
        other.start()
        written = []
        for number in range(5):
            written.append(b"%d" % number)
            (Path(project.path) / "CLAUDE.md").write_bytes(written[-1])
            until_newest(atlas, project, written[-1])
            until_delivered(daemon, number + 1)
            until_delivered(other, number + 1)
        assert contents(atlas, project) == written
        assert [one.stop() for one in (daemon, other)] == [0, 0]
    finally:
        other.end()
