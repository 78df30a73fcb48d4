"""Maintenance: the rows of all users that it removes and keeps, its batches, and its record."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from upkeep import NOISE, Admin, add_events, add_previews, add_sessions, age, expire, number, take, told

from atlas_sdk import InvalidInput, Project, User
from atlas_sdk.maintenance import MAINTENANCE_JOBS, MaintenanceProgress

# All jobs.


def test_a_run_does_every_job_once_and_is_on_record(client: Any, user: User, project: Project, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=3, valid=1)
    add_previews(migrated, project, "stopped", days=8)
    add_events(migrated, user, days=400, times=2)
    take(client, project, "a.md", b"x" * 3000, NOISE)
    age(migrated, project)
    seen: list[MaintenanceProgress] = []
    reports = client.maintenance.run(progress=seen.append)
    assert [report.name for report in reports] == list(MAINTENANCE_JOBS)
    removed = {report.name: report.removed for report in reports if report.removed}
    assert removed == {"sessions": 3, "previews": 1, "snapshots": 1, "contents": 1, "events": 2}
    assert [report.name for report in reports if report.freed_bytes] == ["contents"]
    assert {now.job for now in seen} == set(MAINTENANCE_JOBS)
    for name in MAINTENANCE_JOBS:
        (meta,) = told(migrated, name)
        assert meta["removed"] == removed.get(name, 0)
        assert meta["source"] == "sdk"
    (run,) = client.maintenance.runs()
    assert (run.outcome, run.whole, run.problem) == ("done", True, None)
    assert run.ended_at >= run.started_at
    assert [(job.name, job.removed) for job in run.jobs] == [(one.name, one.removed) for one in reports]
    again = client.maintenance.run()
    assert not any(report.removed for report in again)


def test_a_dry_run_counts_and_changes_nothing(client: Any, user: User, project: Project, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=3, valid=1)
    add_previews(migrated, project, "stopped", days=8)
    add_events(migrated, user, days=400, times=2)
    client.quotas.reserve(user, tokens=5)
    expire(migrated, user)
    migrated.execute("INSERT INTO claims (kind, value, user_id) VALUES ('email', 'x@y', gen_random_uuid())")
    migrated.execute("INSERT INTO preview_ports VALUES ('', 9, gen_random_uuid(), gen_random_uuid())")
    bob = client.users.create("bob@example.com")
    migrated.execute(
        "UPDATE user_quotas SET period_start = now() - interval '40 days', period_end = now() - interval '10 days'"
        " WHERE user_id = %s",
        [bob.id],
    )
    take(client, project, "a.md", b"x" * 3000, NOISE)
    age(migrated, project)
    tables = (
        *("events", "sessions", "previews", "claims", "preview_ports", "quota_reservations", "memory_snapshots"),
        *("memory_blobs", "quota_history", "maintenance_runs"),
    )
    before = [number(migrated, table) for table in tables]
    reports = client.maintenance.run(dry_run=True, batch=2)
    assert {report.name: report.removed for report in reports} == {
        "periods": 1, "reservations": 1, "sessions": 3, "previews": 1, "claims": 2, "snapshots": 1, "contents": 0,
        "events": 2, "usage": 0,
    }  # fmt: skip
    assert all(report.dry_run for report in reports)
    assert [number(migrated, table) for table in tables] == before
    done = client.maintenance.run(batch=2)
    assert {report.name: report.removed for report in done} == {
        **{report.name: report.removed for report in reports},
        "contents": 1,
    }


def test_jobs_can_be_chosen_and_things_kept_for_ever(client: Any, user: User, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=1, valid=0)
    add_events(migrated, user, days=4000, times=1)
    # The jobs run in their own order, not in the given one.
    reports = client.maintenance.run(["events", "sessions"], keep_events=timedelta(days=5000))
    assert [(report.name, report.removed) for report in reports] == [("sessions", 1), ("events", 0)]
    assert [run.whole for run in client.maintenance.runs()] == [False]
    names = [report.name for report in client.maintenance.run(keep_events=None, keep_auto=None)]
    assert names == [name for name in MAINTENANCE_JOBS if name not in {"events", "snapshots"}]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"jobs": ["sweeping"]}, "jobs"),
        ({"jobs": []}, "jobs"),
        ({"batch": 0}, "batch"),
        ({"keep_auto": timedelta(days=-1)}, "keep"),
        ({"keep_events": timedelta(days=99_999)}, "keep"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_removed(client: Any, bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        client.maintenance.run(**bad)
    assert refused.value.field == field


def test_a_run_stops_where_it_is_told_to(client: Any, user: User, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=9, valid=0)
    reports = client.maintenance.run(batch=4, progress=lambda now: now.job != "sessions")
    assert [(report.name, report.complete) for report in reports][-1] == ("sessions", False)
    assert reports[-1].removed == 4
    assert number(migrated, "sessions") == 5
    assert [run.outcome for run in client.maintenance.runs()] == ["stopped"]
    (meta,) = told(migrated, "sessions")
    assert (meta["removed"], meta["complete"]) == (4, False)


def test_a_job_that_fails_keeps_no_other_from_being_done(client: Any, user: User, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=2, valid=0)
    add_events(migrated, user, days=400, times=2)
    migrated.execute(
        """CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'sessions are broken'; END $$"""
    )
    migrated.execute("CREATE TRIGGER broken BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION broken()")
    reports = {report.name: report for report in client.maintenance.run()}
    assert "sessions are broken" in reports["sessions"].problem
    assert not reports["sessions"].complete
    assert reports["events"].removed == 2
    (run,) = client.maintenance.runs()
    assert (run.outcome, run.problem) == ("failed", reports["sessions"].problem)
    (meta,) = told(migrated, "sessions")
    assert "sessions are broken" in meta["problem"]


# Several processes.


def test_one_run_a_day_whoever_asks(client: Any, migrated: Admin) -> None:
    assert client.maintenance.run_if_due() is not None
    assert client.maintenance.run_if_due() is None
    # Only the recorded time counts, not the clock of a client.
    migrated.execute("UPDATE maintenance_runs SET started_at = started_at - interval '23 hours'")
    assert client.maintenance.run_if_due() is None
    migrated.execute("UPDATE maintenance_runs SET started_at = started_at - interval '2 hours'")
    assert client.maintenance.run_if_due() is not None
    assert [run.outcome for run in client.maintenance.runs()] == ["done", "done"]


def test_a_run_by_hand_is_the_days_when_it_was_whole(client: Any) -> None:
    client.maintenance.run(["sessions"])
    client.maintenance.run(dry_run=True)
    assert client.maintenance.run_if_due(progress=lambda _: False) is not None
    # That run was stopped, so the next caller goes on.
    assert client.maintenance.runs()[0].outcome == "stopped"
    client.maintenance.run()
    assert client.maintenance.run_if_due() is None


@pytest.mark.parametrize(
    ("outcome", "hours", "due"),
    [("failed", 0.9, False), ("failed", 1.1, True), ("running", 5.9, False), ("running", 6.1, True)],
)
def test_what_failed_is_tried_later_and_what_was_killed_blocks_nobody_for_long(
    client: Any, migrated: Admin, outcome: str, hours: float, *, due: bool
) -> None:
    migrated.execute(
        """INSERT INTO maintenance_runs (id, whole, outcome, started_at, ended_at)
           SELECT gen_random_uuid(), true, %(o)s, at, CASE WHEN %(o)s = 'running' THEN NULL ELSE at END
           FROM (SELECT now() - make_interval(secs => %(h)s * 3600) AS at) AS t""",
        {"o": outcome, "h": hours},
    )
    assert (client.maintenance.run_if_due() is not None) is due
