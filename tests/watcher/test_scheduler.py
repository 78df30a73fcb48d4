"""The times at which the worker's tasks are due, without a clock and without doing the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from watcher.debounce import Timing
from watcher.scheduler import Scheduler

TIMING = Timing()
A, B, C = (UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
def scheduler() -> Scheduler:
    """Return a scheduler that knows the projects and has written the status at 1000 s."""
    scheduler = Scheduler(TIMING)
    scheduler.started(1000.0)
    scheduler.reported(1000.0, cpu_s=0.0)
    return scheduler


def test_a_new_scheduler_reports_before_anything_else() -> None:
    scheduler = Scheduler(TIMING)
    assert scheduler.next_at(1000.0) == 0.0
    assert scheduler.is_status_due(0.0)
    scheduler.begin_sweep(1000.0, [A])
    assert not scheduler.has_backlog


def test_an_idle_daemon_only_reports_and_sweeps(scheduler: Scheduler) -> None:
    assert scheduler.next_at(1000.0) == 1000.0 + TIMING.heartbeat_s
    scheduler.reported(1055.0, cpu_s=0.0)
    assert scheduler.next_at(1055.0) == 1000.0 + TIMING.sweep_s


def test_one_project_is_scanned_at_a_time_and_each_once(scheduler: Scheduler) -> None:
    scheduler.request_scan(A, B, A)
    assert scheduler.next_at(1000.0) == 1000.0
    assert [list(scheduler.scans()) for _ in range(3)] == [[A], [B], []]
    assert not scheduler.has_backlog


@pytest.mark.parametrize("kind", ["scan", "sweep"])
def test_an_item_whose_work_failed_is_the_first_of_the_next_batch(scheduler: Scheduler, kind: str) -> None:
    scheduler.begin_sweep(1060.0, [A] if kind == "sweep" else [])
    if kind == "scan":
        scheduler.request_scan(A, B)
    batches: dict[str, Callable[[], Iterator[UUID]]] = {
        "scan": scheduler.scans,
        "sweep": lambda: scheduler.sweep(1060.0),
    }
    batch = batches[kind]
    for item in batch():
        assert item == A
        break
    assert scheduler.has_backlog
    assert next(batch()) == A
    assert list(batch()) == [A]
    assert A not in list(batch())


def test_the_sweep_goes_over_every_project_in_batches(scheduler: Scheduler) -> None:
    projects = [UUID(int=number) for number in range(50)]
    scheduler.started(1050.0)
    scheduler.begin_sweep(1059.9, projects)
    assert list(scheduler.sweep(1059.9)) == []
    scheduler.begin_sweep(1060.0, projects)
    batches = [list(scheduler.sweep(1060.0)) for _ in range(4)]
    assert [len(batch) for batch in batches] == [20, 20, 10, 0]
    assert [project for batch in batches for project in batch] == projects
    assert not scheduler.has_backlog


def test_a_project_with_an_unwatched_folder_is_polled_before_the_others(scheduler: Scheduler) -> None:
    list(scheduler.sweep(1000.0))
    scheduler.found(B, unwatched=True)
    assert scheduler.next_at(1001.0) == 1002.0
    assert list(scheduler.sweep(1001.9)) == []
    assert list(scheduler.sweep(1002.0)) == [B]
    scheduler.begin_sweep(1060.0, [A, C])
    assert list(scheduler.sweep(1060.0)) == [B, A, C]
    scheduler.found(B, unwatched=False)
    assert list(scheduler.sweep(1070.0)) == []


def test_a_lost_project_is_looked_for_and_not_polled(scheduler: Scheduler) -> None:
    scheduler.found(A, unwatched=True)
    scheduler.lost(A)
    assert list(scheduler.sweep(1000.0)) == []
    assert scheduler.lost_projects(1000.0) == (A,)
    assert scheduler.lost_projects(1000.4) == ()
    assert scheduler.next_at(1000.4) == 1000.5
    assert scheduler.lost_projects(1000.5) == (A,)
    scheduler.found(A, unwatched=False)
    assert scheduler.lost_projects(1001.0) == ()
    assert scheduler.next_at(1001.0) == 1010.0


def test_a_forgotten_project_leaves_nothing(scheduler: Scheduler) -> None:
    scheduler.request_scan(A)
    scheduler.lost(A)
    scheduler.begin_sweep(1060.0, [A])
    list(scheduler.sweep(1060.0))
    scheduler.forget(A)
    assert not scheduler.has_backlog
    assert scheduler.lost_projects(1060.0) == ()
    scheduler.found(A, unwatched=True)
    scheduler.forget(A)
    assert list(scheduler.sweep(1070.0)) == []


def test_news_is_written_soon_and_a_heartbeat_without(scheduler: Scheduler) -> None:
    assert not scheduler.is_status_due(1009.9)
    assert scheduler.is_status_due(1010.0)
    scheduler.news = True
    assert not scheduler.is_status_due(1000.9)
    assert scheduler.is_status_due(1001.0)
    assert scheduler.next_at(1000.0) == 1001.0
    scheduler.report_now()
    assert scheduler.is_status_due(1000.0)


def test_a_big_status_is_written_less_often_but_never_too_late(scheduler: Scheduler) -> None:
    scheduler.reported(1000.0, cpu_s=0.1)
    scheduler.news = True
    assert not scheduler.is_status_due(1004.9)
    assert scheduler.is_status_due(1005.0)
    scheduler.reported(1000.0, cpu_s=10.0)
    assert not scheduler.is_status_due(1019.9)
    assert scheduler.is_status_due(1020.0)
