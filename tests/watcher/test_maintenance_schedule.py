"""Maintenance by the watcher: when it is idle, once a day, and never delaying a capture or the watcher's end."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from daemons import Daemon, NewProject, newest, until
from patience import PATIENCE_S
from rig import Rig

from atlas_sdk import Atlas, DatabaseUnreachable
from atlas_sdk.config import load_settings
from atlas_sdk.maintenance import JobReport, MaintenanceProgress, MaintenanceRun
from watcher.maintenance import MaintenanceRunner, RetentionPolicy
from watcher.status import MaintenanceStatus

NOW = datetime(2026, 2, 3, tzinfo=UTC)


class FakeMaintenance:
    """A fake maintenance that does one step when a test allows it."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []
        self.due = True
        self.problem: Exception | None = None
        #: The number of times that maintenance asked whether to go on, and the answers.
        self.questions = 0
        self.answers: list[bool] = []
        self.steps = threading.Semaphore(0)
        self.done = threading.Event()

    def run_if_due(
        self, *, progress: Callable[[MaintenanceProgress], bool], **asked: object
    ) -> Sequence[JobReport] | None:
        self.asked.append(asked)
        if self.problem is not None:
            self.done.set()
            raise self.problem
        if not self.due:
            return None
        while self.steps.acquire(timeout=PATIENCE_S):
            self.questions += 1
            self.answers.append(progress(MaintenanceProgress(job="sessions", examined=1, removed=1)))
            if self.answers[-1] is False or len(self.answers) == 3:
                break
        return [JobReport(name="sessions", removed=len(self.answers))]

    def runs(self, *, limit: int) -> Sequence[MaintenanceRun]:
        self.done.set()
        jobs = (JobReport(name="sessions", removed=len(self.answers)), JobReport(name="events", removed=2))
        return [MaintenanceRun(id=UUID(int=1), started_at=NOW, outcome="done", whole=True, jobs=jobs, attribution={})]


@pytest.fixture
def maintenance() -> FakeMaintenance:
    return FakeMaintenance()


@pytest.fixture
def runner() -> MaintenanceRunner:
    return MaintenanceRunner(RetentionPolicy(auto=timedelta(days=90)))


@pytest.fixture
def rig(maintenance: FakeMaintenance, runner: MaintenanceRunner) -> Iterator[Rig]:
    """Yield a worker that also does maintenance."""
    rig = Rig(maintenance=runner, sweep_s=10_000, projects_s=10_000, journal_s=10_000)
    rig.atlas.maintenance = maintenance
    rig.settle()
    yield rig
    runner.stop()
    maintenance.steps.release(10)


def test_it_begins_a_while_after_the_start_and_tells_of_the_last_run(
    rig: Rig, maintenance: FakeMaintenance, runner: MaintenanceRunner
) -> None:
    rig.leap(119)
    assert maintenance.asked == []
    rig.leap(2)
    maintenance.steps.release(3)
    assert maintenance.done.wait(PATIENCE_S)
    assert maintenance.asked == [
        {
            "keep_auto": timedelta(days=90),
            "keep_stopped_previews": timedelta(days=7),
            "keep_events": timedelta(days=365),
            "batch": 1000,
        }
    ]
    assert maintenance.answers == [True, True, True]
    runner.join()
    assert rig.worker.status().maintenance == MaintenanceStatus(at=NOW, outcome="done", removed=5)


def test_it_asks_again_after_a_while(rig: Rig, maintenance: FakeMaintenance, runner: MaintenanceRunner) -> None:
    maintenance.due = False
    rig.leap(121)
    runner.join()
    rig.leap(1)
    rig.leap(899)
    assert len(maintenance.asked) == 1
    rig.leap(2)
    runner.join()
    assert len(maintenance.asked) == 2


def test_it_waits_while_there_is_something_to_capture(
    rig: Rig, maintenance: FakeMaintenance, runner: MaintenanceRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.maintenance._PATIENCE_S", PATIENCE_S)
    rig.leap(121)
    maintenance.steps.release()
    until(lambda: maintenance.answers == [True], "the first step")
    runner.allow(idle=False)
    maintenance.steps.release()
    until(lambda: maintenance.questions == 2, "the second step")
    assert maintenance.answers == [True]
    rig.leap(1)
    until(lambda: maintenance.answers == [True, True], "quiet again")


def test_it_does_not_begin_while_there_is_something_to_do(
    rig: Rig, maintenance: FakeMaintenance, runner: MaintenanceRunner
) -> None:
    maintenance.due = False
    rig.now += 121
    runner.allow(idle=False)
    rig.delivery.step()
    assert maintenance.asked == []
    runner.allow(idle=True)
    rig.delivery.step()
    runner.join()
    assert len(maintenance.asked) == 1


def test_the_end_stops_it_at_the_next_step(rig: Rig, maintenance: FakeMaintenance, runner: MaintenanceRunner) -> None:
    rig.leap(121)
    maintenance.steps.release()
    until(lambda: maintenance.answers == [True], "the first step")
    rig.drain()
    maintenance.steps.release()
    runner.join()
    assert maintenance.answers == [True, False]
    # After the end no new maintenance begins.
    rig.leap(10_000)
    assert len(maintenance.asked) == 1


def test_a_step_that_hangs_does_not_delay_the_end(
    rig: Rig, maintenance: FakeMaintenance, runner: MaintenanceRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.maintenance._GRACE_S", 0.05)
    rig.leap(121)
    rig.drain()
    runner.join()
    assert maintenance.answers == []


def test_a_failure_is_logged_and_captures_go_on(
    rig: Rig, maintenance: FakeMaintenance, runner: MaintenanceRunner, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    maintenance.problem = DatabaseUnreachable("it is away")
    root = tmp_path / "app"
    root.mkdir()
    rig.leap(121)
    runner.join()
    assert "maintenance failed and is tried again later: it is away" in caplog.text
    status = rig.worker.status().maintenance
    assert status is not None
    assert (status.outcome, status.problem) == ("failed", "it is away")
    maintenance.problem = None
    rig.leap(1)
    rig.leap(901)
    maintenance.steps.release(3)
    assert maintenance.done.wait(PATIENCE_S)
    runner.join()
    status = rig.worker.status().maintenance
    assert status is not None
    assert status.outcome == "done"


def test_settings_turn_it_off_and_say_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAINTENANCE", "KEEP_AUTO_DAYS"):
        monkeypatch.delenv(f"ATLAS_{name}", raising=False)
    assert RetentionPolicy.of(load_settings()) == RetentionPolicy()
    monkeypatch.setenv("ATLAS_KEEP_AUTO_DAYS", "90")
    assert RetentionPolicy.of(load_settings()) == RetentionPolicy(auto=timedelta(days=90))
    monkeypatch.setenv("ATLAS_MAINTENANCE", "false")
    assert RetentionPolicy.of(load_settings()) is None


# Real daemons.

_PROGRAM = """
import json, logging, sys
from pathlib import Path
from watcher.daemon import run
from watcher.debounce import Timing
from watcher.maintenance import RetentionPolicy
logging.basicConfig(level="INFO")
dsn, home, timing = json.loads(sys.argv[1])
sys.exit(run(dsn=dsn, home=Path(home), timing=Timing(**timing), retention=RetentionPolicy()))
"""


def test_one_of_two_watchers_does_it_and_both_tell(
    tmp_path: Path, dsn: str, atlas: Atlas, new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons._PROGRAM", _PROGRAM)
    project = new_project()
    with psycopg.connect(dsn) as admin:
        admin.execute(
            """INSERT INTO sessions (user_id, token_hash, created_at, expires_at)
               SELECT %s, sha256(n::text::bytea), now() - interval '9 days', now() - interval '1 day'
               FROM generate_series(1, 3000) AS n""",
            [project.user_id],
        )
    daemons = [
        Daemon(tmp_path / name, dsn, maintenance_first_s=0.1, maintenance_s=0.1, heartbeat_s=0.1) for name in ("a", "b")
    ]
    try:
        for daemon in daemons:
            daemon.start()
        for daemon in daemons:
            assert _run_of(daemon).removed == 3000
        (Path(project.path) / "CLAUDE.md").write_bytes(b"captured all the same")
        until(lambda: newest(atlas, project) == b"captured all the same", "the capture")
        assert [daemon.stop() for daemon in daemons] == [0, 0]
    finally:
        for daemon in daemons:
            daemon.end()
    (run,) = atlas.maintenance.runs()
    assert (run.outcome, run.attribution.source) == ("done", "watcher")


def _run_of(daemon: Daemon) -> MaintenanceStatus:
    def done() -> MaintenanceStatus | None:
        told = daemon.status().maintenance
        return told if told is not None and told.outcome == "done" else None

    return until(done, "the status tells of the run")


def test_a_lock_that_does_not_end_delays_neither_capture_nor_end(
    tmp_path: Path, dsn: str, atlas: Atlas, new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons._PROGRAM", _PROGRAM)
    project = new_project()
    daemon = Daemon(tmp_path / "a", dsn, maintenance_first_s=0.1, maintenance_s=0.1)
    with psycopg.connect(dsn) as other, psycopg.connect(dsn, autocommit=True) as admin:
        other.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        try:
            daemon.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'sessions'::regclass"
            until(lambda: admin.execute(waiting).fetchone() != (0,), "maintenance waits")
            (Path(project.path) / "CLAUDE.md").write_bytes(b"captured all the same")
            until(lambda: newest(atlas, project) == b"captured all the same", "the capture")
            assert daemon.stop() == 0
        finally:
            daemon.end()
    assert [run.outcome for run in atlas.maintenance.runs()] == ["running"]
