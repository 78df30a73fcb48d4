"""Start the workers; kill, pause and replace them; and crash the server."""

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psycopg
from attrs import define, field, frozen

from atlas_sdk import Atlas, DatabaseUnreachable, User
from benchmarks.race_quotas.limits import ROOM, filled_up, new_user
from benchmarks.race_quotas.naive import TABLE, naive
from benchmarks.race_quotas.sabotage import sabotage
from benchmarks.race_quotas.server import CRASHES, CrashingServer, crashing_server
from benchmarks.race_quotas.verdict import Evidence, judge
from benchmarks.race_quotas.watch import Watch
from benchmarks.race_quotas.worker import work

USERS = 5
_TICK_S = 0.02
#: The largest share of the run's time that verifications may take.
_VERIFY_SHARE = 0.05
#: Seconds in which workers must stop. They finish a job, give blocks back, and may wait for the server.
_STOP_S = 60.0
#: Blocks of `guard(lease=True)` last for more than a minute. A shorter race ages them instead of waiting.
_WAITS_FROM_S = 120
_LEFT_S = "SELECT extract(epoch FROM max(expires_at) - clock_timestamp()) FROM quota_reservations"
_AGE = "UPDATE quota_reservations SET expires_at = expires_at - %s"


@frozen(kw_only=True)
class Settings:
    """The settings of a race."""

    seconds: float
    processes: int
    naive_processes: int
    seed: int
    kills: int
    pauses: int
    crashes: int
    broken: str | None = None


@define(kw_only=True)
class Report:
    """The result of a race."""

    problems: list[str] = field(factory=list)
    #: Sums for each user, by title.
    sums: list[dict[str, object]] = field(factory=list)
    done: Counter[str] = field(factory=Counter)
    evidence: Evidence = field(factory=Evidence)
    watch: Watch | None = None
    verified: int = 0
    took_s: float = 0.0
    server: str = ""


@define(kw_only=True)
class _Race:
    settings: Settings
    server: CrashingServer
    atlas: Atlas
    users: list[User]
    watch: Watch
    folder: Path
    report: Report
    dice: random.Random
    #: A fork server that has imported everything, so that a new worker starts in milliseconds.
    context: Any = field(factory=lambda: multiprocessing.get_context("forkserver"))
    workers: list[BaseProcess] = field(factory=list)
    naive: list[BaseProcess] = field(factory=list)
    #: The times to wake paused workers.
    paused: dict[int, float] = field(factory=dict)
    started: int = 0
    down: bool = False

    def start_worker(self) -> None:
        seed = f"{self.settings.seed}-{self.started}"
        self.started += 1
        process = self.context.Process(target=work, args=(self.server.dsn, self.users, seed, self.folder), name=seed)
        process.start()
        self.workers.append(process)

    def start_naive(self, number: int) -> None:
        seed = f"{self.settings.seed}-naive-{number}"
        process = self.context.Process(target=naive, args=(self.server.dsn, self.users[0].id, seed), name=seed)
        process.start()
        self.naive.append(process)

    def kill(self) -> None:
        """Kill a worker during its work, and start another one."""
        victim = self.workers.pop(self.dice.randrange(len(self.workers)))
        self.paused.pop(victim.pid or 0, None)
        victim.kill()
        victim.join()
        self.start_worker()

    def pause(self) -> None:
        """Pause a worker for longer than its reservations last, like a machine that sleeps or swaps."""
        awake = [worker.pid for worker in self.workers if worker.pid and worker.pid not in self.paused]
        if awake:
            pid = self.dice.choice(awake)
            os.kill(pid, signal.SIGSTOP)
            self.paused[pid] = time.monotonic() + self.dice.uniform(1, 6)

    def wake(self, now: float) -> None:
        for pid in [pid for pid, until in self.paused.items() if until <= now]:
            os.kill(pid, signal.SIGCONT)
            del self.paused[pid]

    def crash(self) -> None:
        """Crash the server, and start it again after a moment."""
        self.server.crash(self.dice.choice(tuple(CRASHES)))
        time.sleep(self.dice.uniform(0, 1.5))
        self.server.start()

    def schedule(self) -> Iterator[tuple[float, str]]:
        """Yield times (in seconds from the start) and actions, in order."""
        names = ["kill"] * self.settings.kills + ["pause"] * self.settings.pauses + ["crash"] * self.settings.crashes
        yield from sorted((self.dice.uniform(0.1, 0.9) * self.settings.seconds, name) for name in names)

    def run(self) -> None:
        for _ in range(self.settings.processes):
            self.start_worker()
        for number in range(self.settings.naive_processes):
            self.start_naive(number)
        events: dict[str, Callable[[], None]] = {"kill": self.kill, "pause": self.pause, "crash": self.crash}
        coming = list(self.schedule())
        began = time.monotonic()
        verify_at = 0.0
        while not self.report.problems and ((now := time.monotonic() - began) < self.settings.seconds or coming):
            while coming and coming[0][0] <= now:
                name = coming.pop(0)[1]
                events[name]()
                self.report.done[name] += 1
            self.wake(time.monotonic())
            if self.watch.look() and now >= verify_at:
                verify_at = now + self.verify() / _VERIFY_SHARE
            self.report.problems += self.watch.problems
            self.replace_ended()
            time.sleep(_TICK_S)
        self.report.took_s = time.monotonic() - began

    def verify(self) -> float:
        """Compare the counters with ledger and reservations during the race, in one statement and so at one moment."""
        began = time.monotonic()
        try:
            audit = self.atlas.quotas.verify()
        except DatabaseUnreachable:
            # The client's connections have not noticed the crash yet.
            return 0.0
        self.report.verified += 1
        self.report.problems += [f"the counters do not match the ledger: {row}" for row in audit.unbalanced]
        return time.monotonic() - began

    def replace_ended(self) -> None:
        for worker in [worker for worker in self.workers if not worker.is_alive()]:
            self.workers.remove(worker)
            self.complain(worker)
            self.start_worker()

    def complain(self, worker: BaseProcess) -> None:
        path = self.folder / f"{worker.name}.err"
        text = path.read_text(encoding="utf-8").strip() if path.exists() else "it has not even begun"
        self.report.problems.append(f"worker {worker.name} ended by itself, code {worker.exitcode}:\n{text[-3000:]}")

    def stop(self) -> None:
        """Tell all workers to stop, and wait for them."""
        self.wake(float("inf"))
        for process in self.workers + self.naive:
            process.terminate()
        deadline = time.monotonic() + _STOP_S
        for process in self.workers + self.naive:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                self.report.problems.append(f"worker {process.name} did not stop within {_STOP_S:.0f} s")
                process.kill()
                process.join()
            elif process.exitcode not in {0, -signal.SIGTERM} and process in self.workers:
                # SIGTERM has ended workers that had not yet installed their handler.
                self.complain(process)

    def expire(self) -> None:
        """Wait until every open reservation has expired, and run the daily maintenance that ends them."""
        with psycopg.connect(self.server.dsn, autocommit=True) as connection:
            (left_s,) = connection.execute(_LEFT_S).fetchone() or (None,)
            if left_s is not None and self.settings.seconds < _WAITS_FROM_S:
                connection.execute(_AGE, (timedelta(seconds=float(left_s)),))
                left_s = 0
        time.sleep(max(0.0, float(left_s or 0) + 0.1))
        self.atlas.maintenance.reclaim_reservations()


def race(settings: Settings) -> Report:
    """Run a race, and judge the result."""
    report = Report()
    # Children inherit the import path, but no open file of this process.
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["benchmarks.race_quotas.worker", "benchmarks.race_quotas.naive", "psycopg_pool", "atlas_sdk.client"]
    )
    with crashing_server() as server, _journals() as folder, Atlas.open(server.dsn, pool_max=4) as atlas:
        report.server = f"PostgreSQL {atlas.schema.server().server_version}"
        users = [new_user(atlas, number) for number in range(USERS)]
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(TABLE)
            insert = "INSERT INTO naive_quotas (user_id, tokens_limit) VALUES (%s, %s)"
            connection.execute(insert, (users[0].id, ROOM["tokens"]))
        if settings.broken is not None:
            sabotage(server.dsn, settings.broken)
        watch = report.watch = Watch(server.dsn, [user.id for user in users])
        running = _Race(
            settings=settings,
            server=server,
            atlas=atlas,
            users=users,
            watch=watch,
            folder=folder,
            report=report,
            dice=random.Random(settings.seed),
        )
        with filled_up(atlas, server.dsn, users, watch, report.problems):
            try:
                running.run()
            finally:
                running.stop()
        running.expire()
        if not watch.look():
            report.problems.append("the server is gone at the end")
            return report
        report.evidence = Evidence.read(folder)
        wrong, report.sums = judge(atlas, server.dsn, users, watch, report.evidence, report.took_s)
        report.problems += wrong
        watch.close()
    if settings.naive_processes and report.watch.naive_over <= 0 and not report.problems:
        report.problems.append("the naive pair did not oversell: nobody raced, so this run proves nothing")
    return report


@contextmanager
def _journals() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="atlas-race-journals-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
