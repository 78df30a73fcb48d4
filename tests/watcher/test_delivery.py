"""The delivery thread, with a real journal and a database that a test stops, slows down and lets go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest
from attrs import frozen
from daemons import until
from patience import PATIENCE_S

from atlas_sdk import Atlas, AtlasError, Attribution, DatabaseUnreachable, Project, Snapshot
from atlas_sdk.actor import new_id
from atlas_sdk.journal import Journal, Record
from watcher.database import Database
from watcher.database_schedule import DatabaseSchedule
from watcher.debounce import Timing
from watcher.delivery import DeliveryThread

USER, PROJECT = UUID(int=1), UUID(int=2)


@frozen(kw_only=True)
class Done:
    """The result of a delivery."""

    delivered: int
    remaining: int
    problems: tuple[str, ...] = ()


class Store:
    """The operations that the delivery calls. While `gate` is closed, a delivery hangs."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.gate = threading.Event()
        self.gate.set()
        self.hangs = threading.Event()
        self.problem: AtlasError | None = None
        self.taken: list[bytes | None] = []
        self.closed = False
        self.memory = self.projects = self

    def list(self) -> tuple[Project, ...]:
        if self.problem is not None:
            raise self.problem
        return ()

    def heads(self, projects: object) -> tuple[Snapshot, ...]:
        raise AssertionError("no project is known")

    def deliver(self, *, limit: int) -> Done:
        if self.problem is not None:
            raise self.problem
        if not self.gate.is_set():
            self.hangs.set()
            self.gate.wait()
        records = self.journal.pending(limit=min(limit, 2))
        self.taken += [record.content for record in records]
        self.journal.delivered([record.id for record in records])
        return Done(delivered=len(records), remaining=self.journal.status().records)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "home") as journal:
        yield journal


@pytest.fixture
def store(journal: Journal) -> Iterator[Store]:
    store = Store(journal)
    yield store
    store.gate.set()


def put(journal: Journal, content: bytes) -> None:
    """Append a version, as the worker or another process does it."""
    record = Record(
        id=new_id(),
        user_id=USER,
        project_id=PROJECT,
        op="version",
        path="CLAUDE.md",
        content=content,
        sha256=content,
        size=len(content),
        kind="auto",
        attribution=Attribution(source="watcher"),
        captured_at=datetime.now(UTC),
    )
    journal.append([record])


Start = Callable[..., DeliveryThread]


@pytest.fixture
def start(journal: Journal, store: Store) -> Iterator[Start]:
    """Yield a function that starts the delivery thread. By default it looks at the journal once an hour."""
    started: list[tuple[DeliveryThread, threading.Thread]] = []

    def begin(**timing: float) -> DeliveryThread:
        delivery = DeliveryThread(
            database=Database(lambda: cast("Atlas", store)),
            journal=journal,
            schedule=DatabaseSchedule(Timing(**{"journal_s": 3600.0, "projects_s": 3600.0, **timing})),
            clock=time.monotonic,
            post=lambda message: None,
        )
        thread = threading.Thread(target=delivery.run, daemon=True)
        thread.start()
        started.append((delivery, thread))
        return delivery

    yield begin
    store.gate.set()
    for delivery, thread in started:
        delivery.stop(time.monotonic())
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_append_wakes_the_delivery(start: Start, store: Store, journal: Journal) -> None:
    delivery = start()
    until(lambda: delivery._is_listed, "the projects are listed")
    put(journal, b"one")
    delivery.appended([])
    until(lambda: store.taken == [b"one"], "the version is delivered")
    assert delivery.delivered == 1


def test_records_of_other_processes_are_delivered_without_a_wake_up(
    start: Start, store: Store, journal: Journal
) -> None:
    delivery = start(journal_s=0.01)
    until(lambda: delivery._is_listed, "the projects are listed")
    put(journal, b"of a hook")
    until(lambda: store.taken == [b"of a hook"], "the version is delivered")


def test_everything_is_delivered_in_order_in_several_calls(start: Start, store: Store, journal: Journal) -> None:
    for number in range(7):
        put(journal, b"%d" % number)
    start()
    until(lambda: len(store.taken) == 7, "the versions are delivered")
    assert store.taken == [b"%d" % number for number in range(7)]


def test_appends_do_not_shorten_the_pause_while_the_database_is_away(
    start: Start, store: Store, journal: Journal
) -> None:
    store.problem = DatabaseUnreachable("no connection")
    delivery = start(retry_s=3600.0)
    until(lambda: delivery.errors, "the first attempt failed")
    for _ in range(20):
        put(journal, b"one")
        delivery.appended([])
    time.sleep(0.05)
    assert delivery.errors == 1


def test_database_that_hangs_delays_no_append_and_no_end(start: Start, store: Store, journal: Journal) -> None:
    store.gate.clear()
    put(journal, b"one")
    delivery = start()
    assert store.hangs.wait(PATIENCE_S)
    put(journal, b"two")
    delivery.appended([USER])
    delivery.compare_soon(PROJECT)
    delivery.compare_all()
    delivery.tidy(PROJECT)
    delivery.list_soon()
    delivery.stop(time.monotonic())
    assert journal.status().records == 2


def test_the_end_delivers_what_is_left_until_its_time(start: Start, store: Store, journal: Journal) -> None:
    delivery = start()
    until(lambda: delivery._is_listed, "the projects are listed")
    for number in range(5):
        put(journal, b"%d" % number)
    delivery.stop(time.monotonic() + PATIENCE_S)
    until(lambda: len(store.taken) == 5, "everything is delivered")


def test_the_end_without_time_leaves_the_rest_in_the_journal(
    journal: Journal, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    delivery = DeliveryThread(
        database=Database(lambda: cast("Atlas", store)),
        journal=journal,
        schedule=DatabaseSchedule(Timing()),
        clock=lambda: now,
        post=lambda message: None,
    )
    delivery.step()
    put(journal, b"one")
    delivery.finish(now)
    assert store.taken == []
    assert "1 versions are in the journal" in caplog.text


def test_unexpected_error_is_told_and_does_not_end_the_thread(
    start: Start, store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(store, "list", lambda: 1 // 0)
        delivery = start(retry_s=0.01, retry_most_s=0.01)
        until(lambda: "the delivery failed and goes on" in caplog.text, "the error is told")
        time.sleep(0.05)
        assert caplog.text.count("Traceback") == 1
    put(journal, b"one")
    delivery.appended([])
    until(lambda: store.taken == [b"one"], "the version is delivered")
