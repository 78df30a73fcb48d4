"""The messages to systemd: sd_notify, the watchdog, and the times of a start, a reload and an end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from attrs import evolve
from rig import Rig

from atlas_sdk import DatabaseUnreachable
from watcher.debounce import Timing
from watcher.maintenance import MaintenanceRunner, RetentionPolicy
from watcher.notify import HANGS_S, Notifier, described
from watcher.status import DatabaseStatus, ProjectStatus, Status

_USEC = 1_000_000


class Life:
    """The life of a worker, which a test ends."""

    def __init__(self) -> None:
        self.lives = True

    def __call__(self) -> bool:
        return self.lives


class Systemd:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, socket_: socket.socket, address: str) -> None:
        self._socket = socket_
        self.address = address

    @property
    def messages(self) -> list[list[str]]:
        """The messages since the last look, each as its lines."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """Yield a socket of each kind that systemd may use."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.setblocking(False)
        name = f"atlas-test-{uuid4().hex}"
        address = str(tmp_path / "notify") if request.param == "path" else f"@{name}"
        receiver.bind(address if request.param == "path" else f"\0{name}")
        yield Systemd(receiver, address)


@pytest.fixture
def life() -> Life:
    return Life()


def notifier_of(systemd: Systemd, life: Life, *, watchdog_s: float | None = 30.0, **more: str) -> Notifier:
    """Return a notifier for a service with this watchdog."""
    environment = {"NOTIFY_SOCKET": systemd.address, **more}
    if watchdog_s is not None:
        environment["WATCHDOG_USEC"] = str(int(watchdog_s * _USEC))
    return Notifier(life, environment=environment, pid=7)


def a_status(*, ready: bool = True, problem: str | None = None, pending: int = 0, lost: int = 0) -> Status:
    projects = tuple(
        ProjectStatus(id=str(number), path=f"/srv/{number}", lost=number < lost, problem=None, files=())
        for number in range(3)
    )
    now = datetime(2026, 2, 3, tzinfo=UTC)
    database = DatabaseStatus(ok=problem is None, problem=problem)
    return Status(pid=1, started_at=now, ready=ready, projects=projects, pending=pending, database=database)


def test_ready_is_told_once_with_the_first_ready_status(systemd: Systemd, life: Life) -> None:
    notifier = notifier_of(systemd, life)
    notifier.report(a_status(ready=False))
    assert systemd.messages == [["STATUS=3 projects; starting"]]
    notifier.report(a_status())
    assert systemd.messages == [["STATUS=3 projects", "READY=1"]]
    notifier.report(a_status())
    assert systemd.messages == []
    notifier.report(a_status(pending=2, lost=1))
    assert systemd.messages == [["STATUS=3 projects; 2 waiting; 1 lost"]]


def test_a_daemon_that_knows_no_project_and_waits_for_its_database_has_started(systemd: Systemd, life: Life) -> None:
    """Otherwise systemd would end it after TimeoutStartSec, and start it again, for as long as the outage lasts."""
    notifier = notifier_of(systemd, life)
    waiting = a_status(ready=False, problem="cannot reach PostgreSQL")
    notifier.report(waiting)
    assert systemd.messages == [["STATUS=3 projects; database: cannot reach PostgreSQL"]], "it can scan these"
    notifier.report(evolve(waiting, projects=()))
    assert systemd.messages == [["STATUS=0 projects; database: cannot reach PostgreSQL", "READY=1"]]


def test_a_status_is_one_short_line_whatever_it_quotes() -> None:
    text = described(a_status(problem="a\nREADY=1\x1b[2J\u202e" + "x" * 1000))
    assert "\\nREADY=1\\x1b[2J\\u202e" in text
    assert "\n" not in text
    assert len(text) <= 200


def test_the_watchdog_is_fed_while_the_worker_lives_and_starves_when_it_hangs(systemd: Systemd, life: Life) -> None:
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": str(30 * _USEC), "WATCHDOG_PID": "7"}
    notifier = Notifier(life, environment=environment, pid=7)
    notifier.report(a_status())
    systemd.messages  # noqa: B018 - empties the socket
    assert notifier.interval_s == 5.0
    notifier.tick()
    notifier.tick()
    assert systemd.messages == [["WATCHDOG=1"]] * 2
    life.lives = False
    notifier.tick()
    assert systemd.messages == []
    life.lives = True
    notifier.tick()
    assert systemd.messages == [["WATCHDOG=1"]]


@pytest.mark.parametrize(
    ("usec", "pid", "fed"),
    [("30000000", "7", 1), ("30000000", "", 1), ("30000000", "8", 0), ("0", "7", 0), ("x", "7", 0)],
)
def test_a_watchdog_of_another_process_or_a_wrong_one_is_ignored(
    usec: str, pid: str, fed: int, systemd: Systemd, life: Life
) -> None:
    notifier = notifier_of(systemd, life, watchdog_s=None, WATCHDOG_USEC=usec, WATCHDOG_PID=pid)
    notifier.report(a_status())
    systemd.messages  # noqa: B018 - empties the socket
    notifier.tick()
    assert systemd.messages == [["WATCHDOG=1"]] * fed


def test_a_short_watchdog_is_fed_three_times_in_its_time(systemd: Systemd, life: Life) -> None:
    assert notifier_of(systemd, life, watchdog_s=3).interval_s == 1.0


def test_start_and_end_ask_for_more_time_while_the_worker_lives(systemd: Systemd, life: Life) -> None:
    notifier = notifier_of(systemd, life, watchdog_s=None)
    more = f"EXTEND_TIMEOUT_USEC={20 * _USEC}"
    notifier.tick()
    assert systemd.messages == [[more]]
    notifier.report(a_status())
    notifier.tick()
    assert systemd.messages == [["STATUS=3 projects", "READY=1"]]
    notifier.stopping()
    notifier.stopping()
    notifier.tick()
    assert systemd.messages == [["STOPPING=1", "STATUS=storing what is left"], [more]]
    life.lives = False
    notifier.tick()
    assert systemd.messages == [], "a worker that hangs gets no more time to end"


def test_without_systemd_nothing_is_sent_and_nobody_wakes_up(life: Life) -> None:
    notifier = Notifier(life, environment={"WATCHDOG_USEC": "30000000"}, pid=7)
    assert notifier.interval_s is None
    notifier.report(a_status())
    notifier.tick()
    notifier.stopping()


def test_a_manager_that_is_gone_or_reads_nothing_stops_nobody(systemd: Systemd, life: Life, tmp_path: Path) -> None:
    gone = Notifier(life, environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")}, pid=7)
    gone.report(a_status())
    deaf = notifier_of(systemd, life)
    for _ in range(5_000):
        deaf.tick()
    assert len(systemd.messages) < 5_000


def test_a_reload_is_told_after_the_list_of_projects_was_read_again(rig: Rig, systemd: Systemd) -> None:
    notifier = notifier_of(systemd, Life())
    notifier.report(a_status())
    rig.settle(1.0)
    before = len(rig.worker.status().projects)
    systemd.messages  # noqa: B018 - empties the socket
    rig.atlas.add(Path("/nonexistent"))
    notifier.reloading()
    (told,) = systemd.messages
    assert told[0] == "RELOADING=1"
    assert told[1].startswith("MONOTONIC_USEC=")
    rig.delivery.list_soon(notifier.reloaded)
    assert systemd.messages == []
    rig.delivery.step()
    rig.worker.step()
    assert systemd.messages == [["READY=1"]]
    assert len(rig.worker.status().projects) == before + 1
    rig.leap(0.0)
    assert systemd.messages == []


def test_a_reload_ends_although_the_database_is_away(rig: Rig, systemd: Systemd) -> None:
    notifier = notifier_of(systemd, Life())
    notifier.report(a_status())
    rig.settle(1.0)
    rig.atlas.problem = DatabaseUnreachable("away")
    notifier.reloading()
    rig.delivery.list_soon(notifier.reloaded)
    rig.delivery.step()
    rig.worker.step()
    assert systemd.messages[-1] == ["READY=1"]


def test_the_worker_shows_that_it_lives_in_each_step_and_a_hung_one_does_not(rig: Rig) -> None:
    rig.settle(1.0)
    longest_sleep_s = 0.0
    for _ in range(20):
        at = rig.worker.step()
        longest_sleep_s = max(longest_sleep_s, at - rig.now)
        rig.now = max(at, rig.now)
        rig.worker.step()
        assert rig.worker.alive_at == rig.now
    assert longest_sleep_s < HANGS_S / 2, "a worker that has nothing to do is alive"
    assert Timing().drain_s < HANGS_S / 2


def test_maintenance_that_is_switched_on_later_runs_and_off_skips() -> None:
    runner = MaintenanceRunner(None)
    runner.begin(object())  # type: ignore[arg-type]
    assert runner.take_ended(), "the scheduler plans the next check"
    assert not runner.take_ended()
    runner.retention = RetentionPolicy()
    runner.stop()
    runner.begin(object())  # type: ignore[arg-type]
    assert not runner.take_ended()
