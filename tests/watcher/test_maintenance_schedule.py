"""The watcher looks after its database: when it is idle, once a day, never in the way of a capture or of the end."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from daemons import newest, until
from fakes import FakeAtlas
from patience import PATIENCE_S
from test_worker import Rig

from atlas_sdk import DatabaseUnreachable, JobReport, MaintenanceProgress, MaintenanceRun
from atlas_sdk.config import load_settings
from watcher.debounce import Timing
from watcher.maintenance import MaintenanceScheduler, RetentionPolicy
from watcher.status import MaintenanceStatus
from watcher.worker import Worker

NOW = datetime(2026, 2, 3, tzinfo=UTC)


class FakeMaintenance:
    """A maintenance that a test steps."""

    def __init__(self):
        self.asked = []
        self.due = True
        self.problem = None
        #: How often it asked whether to go on, and the answers.
        self.questions = 0
        self.answers = []
        self.steps = threading.Semaphore(0)
        self.done = threading.Event()

    def run_if_due(self, *, progress, **asked):
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

    def runs(self, *, limit):
        self.done.set()
        jobs = (JobReport(name="sessions", removed=len(self.answers)), JobReport(name="events", removed=2))
        return [MaintenanceRun(id="x", started_at=NOW, outcome="done", whole=True, jobs=jobs, attribution={})]


@pytest.fixture
def maintenance():
    return FakeMaintenance()


class UpkeepRig(Rig):
    """A worker that does maintenance, too; time passes when the test says so."""

    def __init__(self, maintenance):
        atlas = FakeAtlas()
        atlas.maintenance = maintenance
        super().__init__(atlas, sweep_s=10_000, projects_s=10_000)
        self.maintenance = MaintenanceScheduler(
            RetentionPolicy(auto=timedelta(days=90)), timing=self.timing, clock=lambda: self.now, jitter=lambda: 0.5
        )
        self.worker = Worker(
            database=self.database, backend=self.backend, queue=self.queue, timing=self.timing,
            clock=lambda: self.now, started=self.worker.status(), report=self.reports.append,
            maintenance=self.maintenance,
        )  # fmt: skip

    def leap(self, seconds):
        self.now += seconds
        while self.worker.step() <= self.now:
            pass


@pytest.fixture
def rig(maintenance):
    rig = UpkeepRig(maintenance)
    rig.settle()
    yield rig
    rig.maintenance.stop()
    maintenance.steps.release(10)


def test_it_begins_a_while_after_the_start_and_tells_of_the_last_run(rig, maintenance):
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
    rig.maintenance.join()
    assert rig.worker.status().maintenance == MaintenanceStatus(at=NOW, outcome="done", removed=5)


def test_it_asks_again_after_a_while(rig, maintenance):
    maintenance.due = False
    rig.leap(121)
    rig.maintenance.join()
    rig.leap(1)
    rig.leap(899)
    assert len(maintenance.asked) == 1
    rig.leap(2)
    rig.maintenance.join()
    assert len(maintenance.asked) == 2


def test_watchers_do_not_come_at_the_same_time():
    times = [MaintenanceScheduler(RetentionPolicy(), timing=Timing(), clock=lambda: 0.0).next_at for _ in range(50)]
    assert len(set(times)) > 40
    assert all(60 <= at <= 180 for at in times)


def test_it_waits_while_there_is_something_to_capture(rig, maintenance, monkeypatch):
    monkeypatch.setattr("watcher.maintenance._PATIENCE_S", PATIENCE_S)
    rig.leap(121)
    maintenance.steps.release()
    until(lambda: maintenance.answers == [True], "the first step")
    rig.maintenance.step(rig.now, lambda: rig.atlas, quiet=False)
    maintenance.steps.release()
    until(lambda: maintenance.questions == 2, "the second step")
    assert maintenance.answers == [True]
    rig.leap(1)
    until(lambda: maintenance.answers == [True, True], "quiet again")


def test_it_does_not_begin_while_there_is_something_to_do(rig, maintenance):
    rig.now += 121
    rig.maintenance.step(rig.now, lambda: rig.atlas, quiet=False)
    assert maintenance.asked == []


def test_the_end_stops_it_at_the_next_step(rig, maintenance):
    rig.leap(121)
    maintenance.steps.release()
    until(lambda: maintenance.answers == [True], "the first step")
    rig.worker.drain()
    maintenance.steps.release()
    rig.maintenance.join()
    assert maintenance.answers == [True, False]
    # And nothing is begun any more.
    rig.leap(10_000)
    assert len(maintenance.asked) == 1


def test_a_step_that_hangs_does_not_delay_the_end(rig, maintenance, monkeypatch):
    monkeypatch.setattr("watcher.maintenance._GRACE_S", 0.05)
    rig.leap(121)
    rig.worker.drain()
    rig.maintenance.join()
    assert maintenance.answers == []


def test_a_failure_is_logged_and_captures_go_on(rig, maintenance, caplog, tmp_path):
    maintenance.problem = DatabaseUnreachable("it is away")
    root = tmp_path / "app"
    root.mkdir()
    rig.leap(121)
    rig.maintenance.join()
    assert "maintenance failed and is tried again later: it is away" in caplog.text
    status = rig.worker.status().maintenance
    assert (status.outcome, status.problem) == ("failed", "it is away")
    maintenance.problem = None
    rig.leap(1)
    rig.leap(901)
    maintenance.steps.release(3)
    assert maintenance.done.wait(PATIENCE_S)
    rig.maintenance.join()
    assert rig.worker.status().maintenance.outcome == "done"


def test_settings_turn_it_off_and_say_what_is_kept(monkeypatch):
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


def test_one_of_two_watchers_does_it_and_both_tell(tmp_path, dsn, atlas, new_project, monkeypatch):
    from daemons import Daemon

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
            told = until(lambda d=daemon: _done(d), "both tell of the run")
            assert told.removed == 3000
        (Path(project.path) / "CLAUDE.md").write_bytes(b"captured all the same")
        until(lambda: newest(atlas, project) == b"captured all the same", "the capture")
        assert [daemon.stop() for daemon in daemons] == [0, 0]
    finally:
        for daemon in daemons:
            daemon.end()
    (run,) = atlas.maintenance.runs()
    assert (run.outcome, run.attribution.source) == ("done", "watcher")


def _done(daemon):
    told = daemon.status().maintenance
    return told if told is not None and told.outcome == "done" else None


def test_a_lock_that_does_not_end_delays_neither_capture_nor_end(tmp_path, dsn, atlas, new_project, monkeypatch):
    from daemons import Daemon

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
