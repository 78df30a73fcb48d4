"""The times at which the worker's tasks are due, without a clock and without doing the tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from watcher.debounce import Timing
from watcher.scheduler import Scheduler

TIMING = Timing()
A, B, C = (UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
def scheduler() -> Scheduler:
    """Return a scheduler that has listed the projects and written the status at 1000 s."""
    scheduler = Scheduler(TIMING, jitter=lambda: 0.5)
    scheduler.listed(1000.0, cpu_s=0.0)
    scheduler.reported(1000.0, cpu_s=0.0)
    return scheduler


def test_a_new_scheduler_lists_the_projects_and_reports_before_anything_else() -> None:
    scheduler = Scheduler(TIMING)
    assert scheduler.next_at(1000.0) == 0.0
    assert scheduler.is_listing_due(0.0)
    assert scheduler.is_status_due(0.0)
    scheduler.begin_sweep(1000.0, [A])
    assert not scheduler.has_backlog
    assert not scheduler.take_maintenance(1e9)


def test_an_idle_daemon_only_lists_and_reports(scheduler: Scheduler) -> None:
    assert scheduler.next_at(1000.0) == 1000.0 + TIMING.projects_s
    assert not scheduler.is_listing_due(1001.9)
    assert scheduler.is_listing_due(1002.0)


def test_listing_many_projects_uses_half_a_percent_of_a_core(scheduler: Scheduler) -> None:
    scheduler.listed(1000.0, cpu_s=0.1)
    assert not scheduler.is_listing_due(1019.9)
    assert scheduler.is_listing_due(1020.0)


def test_only_the_retry_and_the_status_are_due_while_the_database_is_away(scheduler: Scheduler) -> None:
    pauses = []
    for _ in range(7):
        scheduler.database_failed(1000.0)
        assert scheduler.next_at(1000.0) == min(scheduler.retry_at, 1000.0 + TIMING.heartbeat_s)
        pauses.append(scheduler.retry_at - 1000.0)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    scheduler.database_answered()
    assert scheduler.next_at(1000.0) == 1002.0
    scheduler.database_failed(1000.0)
    assert scheduler.retry_at == 1000.25


def test_one_project_is_scanned_at_a_time_and_each_once(scheduler: Scheduler) -> None:
    scheduler.request_scan(A, B, A)
    assert [list(scheduler.scans()) for _ in range(3)] == [[A], [B], []]
    assert not scheduler.has_backlog


@pytest.mark.parametrize("kind", ["scan", "sweep", "measurement"])
def test_an_item_whose_work_failed_is_the_first_of_the_next_batch(scheduler: Scheduler, kind: str) -> None:
    scheduler.grew(A)
    scheduler.begin_sweep(1060.0, [A] if kind == "sweep" else [])
    if kind == "scan":
        scheduler.request_scan(A, B)
    batches: dict[str, Callable[[], Iterator[UUID]]] = {
        "scan": scheduler.scans,
        "sweep": lambda: scheduler.sweep(1060.0),
        "measurement": scheduler.users_to_measure,
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
    scheduler.listed(1050.0, cpu_s=0.0)
    scheduler.begin_sweep(1059.9, projects)
    assert list(scheduler.sweep(1059.9)) == []
    scheduler.begin_sweep(1060.0, projects)
    batches = [list(scheduler.sweep(1060.0)) for _ in range(4)]
    assert [len(batch) for batch in batches] == [20, 20, 10, 0]
    assert [project for batch in batches for project in batch] == projects
    assert not scheduler.has_backlog


def test_an_expensive_comparison_delays_the_next_one_but_no_sweep(scheduler: Scheduler) -> None:
    scheduler.begin_sweep(1060.0, [A, B])
    for project in scheduler.sweep(1060.0):
        assert scheduler.is_comparison_due(project)
        scheduler.compared(project, 1060.0, cpu_s=0.25)
        assert not scheduler.is_comparison_due(project)
    compared = []
    for at in (1120.0, 1159.0, 1180.0):
        scheduler.begin_sweep(at, [A, B])
        compared.append([scheduler.is_comparison_due(project) for project in scheduler.sweep(at)])
    # After two comparisons of 0.25 s each, the next ones wait for 100 s. At 1159 no sweep is due.
    assert compared == [[False, False], [], [True, True]]


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
    assert scheduler.next_at(1001.0) == 1002.0


def test_a_forgotten_project_leaves_nothing(scheduler: Scheduler) -> None:
    scheduler.request_scan(A)
    scheduler.lost(A)
    scheduler.begin_sweep(1060.0, [A])
    list(scheduler.sweep(1060.0))
    scheduler.forget(A)
    assert not scheduler.has_backlog
    assert not scheduler.is_comparison_due(A)
    assert scheduler.lost_projects(1060.0) == ()
    scheduler.found(A, unwatched=True)
    scheduler.forget(A)
    assert list(scheduler.sweep(1070.0)) == []


def test_memory_is_measured_by_the_sweep_once_a_user(scheduler: Scheduler) -> None:
    for _ in range(3):
        scheduler.grew(A)
    assert list(scheduler.users_to_measure()) == []
    for at in (1060.0, 1120.0):
        scheduler.begin_sweep(at, [])
        scheduler.grew(A)
    assert list(scheduler.users_to_measure()) == [A]
    measured = []
    for at in (1180.0, 1240.0):
        scheduler.begin_sweep(at, [])
        measured.append(list(scheduler.users_to_measure()))
    assert measured == [[A], []]


def test_the_last_measurement_is_of_every_user(scheduler: Scheduler) -> None:
    users = {UUID(int=number) for number in range(30)}
    for user in users:
        scheduler.grew(user)
    assert set(scheduler.users_to_measure(last=True)) == users


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


def test_maintenance_is_not_due_again_before_it_ended(scheduler: Scheduler) -> None:
    scheduler.plan_maintenance(1000.0, first=True)
    assert not scheduler.take_maintenance(1119.9)
    assert scheduler.take_maintenance(1120.0)
    assert not scheduler.take_maintenance(1e9)
    assert scheduler.next_at(1e9) < math.inf
    scheduler.plan_maintenance(2000.0)
    assert not scheduler.take_maintenance(2899.9)
    assert scheduler.take_maintenance(2900.0)


def test_many_watchers_ask_for_maintenance_at_different_times() -> None:
    times = set()
    for _ in range(50):
        scheduler = Scheduler(TIMING)
        scheduler.listed(1e6, cpu_s=0.0)
        scheduler.reported(1e6, cpu_s=0.0)
        scheduler.plan_maintenance(0.0, first=True)
        times.add(scheduler.next_at(0.0))
    assert len(times) > 40
    assert all(60 <= at <= 180 for at in times)
