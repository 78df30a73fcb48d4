"""The times at which the tasks that need the database are due, without a clock and without a database."""

from __future__ import annotations

from uuid import UUID

import pytest

from watcher.database_schedule import DatabaseSchedule
from watcher.debounce import Timing

TIMING = Timing()
A, B, C = (UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
def schedule() -> DatabaseSchedule:
    """Return a schedule that has listed the projects at 1000 s."""
    schedule = DatabaseSchedule(TIMING, jitter=lambda: 0.5)
    schedule.listed(1000.0, cpu_s=0.0)
    return schedule


def test_a_new_schedule_lists_the_projects_first() -> None:
    schedule = DatabaseSchedule(TIMING)
    assert schedule.next_at(1000.0) == 0.0
    assert schedule.is_listing_due(0.0)
    schedule.begin_comparison(1000.0, [A])
    assert schedule.to_compare(1000.0) == ()
    assert not schedule.is_maintenance_due(1e9)


def test_an_idle_daemon_looks_at_the_journal_and_lists(schedule: DatabaseSchedule) -> None:
    assert schedule.next_at(1000.0) == 1000.0 + TIMING.journal_s
    assert not schedule.is_listing_due(1001.9)
    assert schedule.is_listing_due(1002.0)
    schedule.listed(1002.0, cpu_s=0.0)
    schedule.list_now()
    assert schedule.is_listing_due(1002.0)


def test_the_list_is_read_rarely_while_changes_are_told(schedule: DatabaseSchedule) -> None:
    schedule.listed(1000.0, cpu_s=0.1, is_told=True)
    assert not schedule.is_listing_due(1029.9)
    assert schedule.is_listing_due(1030.0)
    # A quarter of a core is the most that a storm of changes takes.
    schedule.list_now()
    assert not schedule.is_listing_due(1000.39)
    assert schedule.is_listing_due(1000.41)


def test_listing_many_projects_uses_half_a_percent_of_a_core(schedule: DatabaseSchedule) -> None:
    schedule.listed(1000.0, cpu_s=0.1)
    assert not schedule.is_listing_due(1019.9)
    assert schedule.is_listing_due(1020.0)


def test_only_the_retry_is_due_while_the_database_is_away(schedule: DatabaseSchedule) -> None:
    pauses = []
    for _ in range(7):
        schedule.failed(1000.0)
        assert schedule.next_at(1000.0) == schedule.retry_at
        pauses.append(schedule.retry_at - 1000.0)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    schedule.answered()
    assert schedule.next_at(1000.0) == 1001.0
    schedule.failed(1000.0)
    assert schedule.retry_at == 1000.25


def test_comparison_goes_over_every_project_once(schedule: DatabaseSchedule) -> None:
    projects = [UUID(int=number) for number in range(450)]
    schedule.compare_from(1000.0)
    schedule.begin_comparison(1000.0, projects)
    sizes: list[int] = []
    seen: list[UUID] = []
    while wanted := schedule.to_compare(1000.0):
        assert schedule.next_at(1000.0) == 1000.0
        assert schedule.to_compare(1000.0) == wanted
        sizes.append(len(wanted))
        seen += wanted
        schedule.compared(wanted, 1000.0, cpu_s=0.0)
    assert sizes == [200, 200, 50]
    assert seen == projects
    schedule.begin_comparison(1059.9, projects)
    assert schedule.to_compare(1059.9) == ()
    schedule.begin_comparison(1060.0, projects)
    assert len(schedule.to_compare(1060.0)) == 200


def test_an_expensive_comparison_delays_the_next_one(schedule: DatabaseSchedule) -> None:
    schedule.compare_from(1000.0)
    schedule.begin_comparison(1000.0, [A, B])
    schedule.compared((A, B), 1000.0, cpu_s=0.5)
    due = []
    for at in (1120.0, 1159.0, 1160.0):
        schedule.begin_comparison(at, [A, B])
        due.append(schedule.to_compare(at))
    # After a comparison of 0.5 s, the next one waits for 100 s and the usual 60 s.
    assert due == [(), (), (A, B)]


def test_projects_in_doubt_are_compared_first(schedule: DatabaseSchedule) -> None:
    schedule.compare_from(1000.0)
    schedule.begin_comparison(1000.0, [A, B])
    schedule.doubt([C])
    assert schedule.to_compare(1000.0) == (C,)
    schedule.compared((C,), 1000.0, cpu_s=0.001)
    schedule.doubt([C])
    assert schedule.to_compare(1000.1) == (A, B)
    schedule.compared((A, B), 1000.1, cpu_s=0.001)
    assert schedule.to_compare(1000.15) == ()
    assert schedule.to_compare(1000.4) == (C,)


def test_memory_is_measured_at_intervals_once_a_user(schedule: DatabaseSchedule) -> None:
    schedule.grew([A, A])
    schedule.grew([A])
    assert list(schedule.users_to_measure(1059.9)) == []
    assert list(schedule.users_to_measure(1060.0)) == [A]
    schedule.grew([A])
    assert list(schedule.users_to_measure(1119.9)) == []
    assert list(schedule.users_to_measure(1120.0)) == [A]
    assert list(schedule.users_to_measure(1180.0)) == []


def test_a_user_whose_measurement_failed_is_the_first_of_the_next_batch(schedule: DatabaseSchedule) -> None:
    schedule.grew([A])
    for user in schedule.users_to_measure(1060.0):
        assert user == A
        break
    assert schedule.next_at(1060.0) == 1002.0
    assert list(schedule.users_to_measure(1060.0)) == [A]
    assert list(schedule.users_to_measure(1060.0)) == []


def test_the_last_measurement_is_of_every_user(schedule: DatabaseSchedule) -> None:
    users = {UUID(int=number) for number in range(30)}
    schedule.grew(users)
    assert set(schedule.users_to_measure(1000.0, last=True)) == users


def test_maintenance_is_not_due_again_before_it_ended(schedule: DatabaseSchedule) -> None:
    schedule.plan_maintenance(1000.0, first=True)
    assert not schedule.is_maintenance_due(1119.9)
    assert schedule.is_maintenance_due(1120.0)
    schedule.began_maintenance()
    assert not schedule.is_maintenance_due(1e9)
    schedule.plan_maintenance(2000.0)
    assert not schedule.is_maintenance_due(2899.9)
    assert schedule.is_maintenance_due(2900.0)


def test_many_watchers_ask_for_maintenance_at_different_times() -> None:
    schedules = [DatabaseSchedule(TIMING) for _ in range(50)]
    for schedule in schedules:
        schedule.plan_maintenance(0.0, first=True)
    due = [sum(schedule.is_maintenance_due(at) for schedule in schedules) for at in (59.9, 120.0, 180.0)]
    assert due[0] == 0
    assert 5 < due[1] < 45
    assert due[2] == 50
