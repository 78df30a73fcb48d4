"""What maintenance removes and what it keeps, of all users, in batches, on record."""

from __future__ import annotations

import random
import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from atlas_sdk import MAINTENANCE_JOBS, InvalidInput, JobReport, MaintenanceProgress, Project, User
from atlas_sdk.ops import purges

NIL = uuid.UUID(int=0)
#: No delta of anything.
NOISE = random.Random(1).randbytes(3000)
Admin = psycopg.Connection[Any]


@pytest.fixture
def user(face: Any) -> User:
    return face.users.create("ada@example.com")


@pytest.fixture
def project(face: Any, user: User) -> Project:
    return face.projects.create(user, path="/srv/app")


def told(admin: Admin, job: str) -> list[dict[str, Any]]:
    """Return what the events of a job say, in turn."""
    rows = admin.execute(
        "SELECT user_id, meta FROM events WHERE type = %s ORDER BY created_at, id", [f"maintenance.{job}"]
    ).fetchall()
    assert {user_id for user_id, _ in rows} <= {NIL}
    return [meta for _, meta in rows]


def number(admin: Admin, table: str) -> int:
    row = admin.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return row[0]


def counts(report: JobReport) -> tuple[int, int, int]:
    return report.examined, report.removed, report.skipped


# Sessions, previews, events.


def add_sessions(admin: Admin, user: User, expired: int, valid: int) -> None:
    admin.execute(
        """INSERT INTO sessions (user_id, token_hash, created_at, expires_at)
           SELECT %s, sha256((gen_random_uuid())::text::bytea), now() - interval '9 days',
                  now() + CASE WHEN n <= %s THEN -n * interval '1 minute' ELSE interval '1 day' END
           FROM generate_series(1, %s) AS n""",
        [user.id, expired, expired + valid],
    )


@pytest.mark.every_server
def test_expired_sessions_of_everybody_go_in_batches(face: Any, user: User, migrated: Admin) -> None:
    for owner in (user, face.users.create("bob@example.com")):
        add_sessions(migrated, owner, expired=5, valid=2)
    seen: list[int] = []
    report = face.maintenance.purge_sessions(batch=4, progress=lambda now: seen.append(now.removed))
    assert counts(report) == (10, 10, 0)
    assert report.complete
    assert report.problem is None
    assert seen == [4, 8, 10]
    assert number(migrated, "sessions") == 4
    assert [meta["removed"] for meta in told(migrated, "sessions")] == [10]
    assert counts(face.maintenance.purge_sessions()) == (0, 0, 0)


def add_previews(admin: Admin, project: Project, status: str, days: int, times: int = 1) -> None:
    admin.execute(
        """INSERT INTO previews (user_id, project_id, host, status, stopped_at, created_at)
           SELECT %s, %s, gen_random_uuid() || '.example.com', %s::text,
                  CASE WHEN %s::text = 'stopped' THEN now() - make_interval(days => %s, secs => 60 + n) END,
                  now() - interval '1 year'
           FROM generate_series(1, %s) AS n""",
        [project.user_id, project.id, status, status, days, times],
    )


def test_previews_that_stopped_long_ago_go(face: Any, project: Project, migrated: Admin) -> None:
    add_previews(migrated, project, "stopped", days=7, times=5)
    add_previews(migrated, project, "stopped", days=6)
    for status in ("creating", "running", "sleeping", "failed"):
        add_previews(migrated, project, status, days=0)
    assert counts(face.maintenance.purge_previews(batch=2)) == (5, 5, 0)
    left = migrated.execute("SELECT status FROM previews ORDER BY status").fetchall()
    assert left == [("creating",), ("failed",), ("running",), ("sleeping",), ("stopped",)]
    assert counts(face.maintenance.purge_previews(keep=timedelta(days=5))) == (1, 1, 0)


@pytest.mark.every_server
def test_previews_that_failed_long_ago_go_too(face: Any, project: Project, migrated: Admin) -> None:
    add_previews(migrated, project, "failed", days=0, times=5)
    add_previews(migrated, project, "stopped", days=8, times=3)
    migrated.execute("ALTER TABLE previews DISABLE TRIGGER update_previews_updated_at")
    migrated.execute("UPDATE previews SET updated_at = now() - interval '8 days' WHERE status = 'failed'")
    migrated.execute("ALTER TABLE previews ENABLE TRIGGER update_previews_updated_at")
    # Made long ago, and failed just now.
    add_previews(migrated, project, "failed", days=0, times=2)
    add_previews(migrated, project, "running", days=0)
    assert counts(face.maintenance.purge_previews(dry_run=True)) == (8, 8, 0)
    seen: list[int] = []
    assert counts(face.maintenance.purge_previews(batch=2, progress=lambda now: seen.append(now.removed))) == (8, 8, 0)
    assert seen == [2, 3, 5, 7, 8]
    left = migrated.execute("SELECT status, count(*) FROM previews GROUP BY status ORDER BY status").fetchall()
    assert left == [("failed", 2), ("running", 1)]
    assert counts(face.maintenance.purge_previews()) == (0, 0, 0)


def add_events(admin: Admin, user: User, days: int, times: int) -> None:
    admin.execute(
        """INSERT INTO events (user_id, type, created_at)
           SELECT %s, 'tick', now() - make_interval(days => %s, secs => 60 + n) FROM generate_series(1, %s) AS n""",
        [user.id, days, times],
    )


def test_the_audit_is_kept_for_a_year(face: Any, user: User, migrated: Admin) -> None:
    add_events(migrated, user, days=365, times=7)
    add_events(migrated, user, days=364, times=2)
    before = number(migrated, "events")
    assert counts(face.maintenance.purge_events(batch=3)) == (7, 7, 0)
    assert number(migrated, "events") == before - 7 + 1
    assert counts(face.maintenance.purge_events(keep=timedelta(days=363))) == (2, 2, 0)


# Quotas.


def test_periods_that_ended_are_closed_once(face: Any, user: User, migrated: Admin) -> None:
    users = [user, *(face.users.create(f"u{n}@example.com") for n in range(4))]
    face.quotas.add_tokens(user, tokens=70)
    migrated.execute(
        """UPDATE user_quotas SET period_anchor = now() - interval '40 days', period_start = now() - interval '40 days',
                  period_end = now() - interval '10 days' WHERE user_id <> %s""",
        [users[4].id],
    )
    assert counts(face.maintenance.close_periods(batch=3)) == (4, 4, 0)
    assert [period.tokens_used for period in face.quotas.history(user)] == [70]
    assert face.quotas.usage(user).tokens_used == 0
    assert face.quotas.history(users[4]) == []
    assert counts(face.maintenance.close_periods()) == (0, 0, 0)


def test_the_older_name_for_closing_periods_does_the_same(face: Any, user: User, migrated: Admin) -> None:
    migrated.execute(
        "UPDATE user_quotas SET period_start = now() - interval '40 days', period_end = now() - interval '10 days'"
        " WHERE user_id = %s",
        [user.id],
    )
    assert [face.quotas.reset_monthly() for _ in range(2)] == [1, 0]
    assert [meta["removed"] for meta in told(migrated, "periods")] == [1, 0]


def expire(admin: Admin, user: User) -> None:
    admin.execute(
        "UPDATE quota_reservations SET expires_at = now() - interval '1 minute' WHERE user_id = %s", [user.id]
    )


@pytest.mark.every_server
def test_expired_reservations_are_charged_and_their_slots_are_free(face: Any, user: User, migrated: Admin) -> None:
    bob = face.users.create("bob@example.com")
    for owner in (user, bob):
        face.quotas.reserve(owner, tokens=100, cost="0.5", slots=1)
        face.quotas.lease_block(owner, tokens=7, requests=5, ttl=timedelta(minutes=1))
    live = face.users.create("eve@example.com")
    face.quotas.reserve(live, tokens=1, slots=1)
    expire(migrated, user)
    expire(migrated, bob)
    report = face.maintenance.reclaim_reservations(batch=2)
    assert counts(report) == (5, 4, 0)
    for owner in (user, bob):
        usage = face.quotas.usage(owner)
        assert (usage.tokens_used, usage.tokens_held, usage.slots_held) == (107, 0, 0)
        # The lease's requests may have been made.
        assert (usage.requests_held, usage.requests_last_hour) == (0, 6)
        assert str(usage.cost_used) == "0.500000000"
    assert face.quotas.usage(live).slots_held == 1
    assert face.quotas.verify().balanced
    assert counts(face.maintenance.reclaim_reservations()) == (1, 0, 0)


def test_a_late_settlement_corrects_what_maintenance_charged(face: Any, user: User, migrated: Admin) -> None:
    hold = face.quotas.reserve(user, tokens=100)
    expire(migrated, user)
    assert face.maintenance.reclaim_reservations().removed == 1
    assert face.quotas.settle(user, hold.id, tokens=30).outcome == "corrected"
    assert face.quotas.usage(user).tokens_used == 30
    assert face.quotas.verify().balanced


def test_one_user_with_many_expired_holds_is_done_bit_by_bit(face: Any, user: User, migrated: Admin) -> None:
    for n in range(7):
        face.quotas.reserve(user, tokens=1)
        migrated.execute(
            "UPDATE quota_reservations SET expires_at = now() - make_interval(secs => %s) WHERE expires_at > now()",
            [60 - n],
        )
    batches: list[int] = []
    report = face.maintenance.reclaim_reservations(batch=3, progress=lambda now: batches.append(now.removed))
    assert report.removed == 7
    assert batches == [3, 6, 7]
    assert face.quotas.usage(user).tokens_used == 7
    assert face.quotas.verify().balanced


def test_a_user_who_is_busy_is_waited_for(face: Any, user: User, migrated: Admin, dsn: str) -> None:
    face.quotas.reserve(user, tokens=5)
    expire(migrated, user)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM user_quotas WHERE user_id = %s FOR UPDATE", [user.id])
        # The same function, without waiting, tells who was busy.
        row = migrated.execute("SELECT ended, busy FROM maintenance_reclaim(%s, 10, false)", [[user.id]]).fetchone()
        assert row == (0, [user.id])
    assert face.maintenance.reclaim_reservations().removed == 1


# A batch that another transaction was in the way of.


def conflict_once(admin: Admin, table: str, at: int) -> None:
    """Let one deletion from a table fail as it does at SERIALIZABLE: the one with this number."""
    admin.execute("CREATE SEQUENCE deletions")
    # Numbers are not taken back with what fails.
    admin.execute(
        f"""CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('deletions') = {at} THEN
                    RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure';
                END IF;
                RETURN NULL;
            END $$"""
    )
    admin.execute(f"CREATE TRIGGER fail_once AFTER DELETE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fail_once()")


def test_what_went_before_a_conflict_is_reported_with_the_rest(face: Any, user: User, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=10, valid=1)
    conflict_once(migrated, "sessions", at=3)
    seen: list[int] = []
    (report,) = face.maintenance.run(["sessions"], batch=4, progress=lambda now: seen.append(now.removed))
    assert (counts(report), report.complete, report.problem) == ((10, 10, 0), True, None)
    assert seen == [4, 8, 10]
    assert [meta["removed"] for meta in told(migrated, "sessions")] == [10]
    (run,) = face.maintenance.runs()
    assert [job.removed for job in run.jobs] == [10]


def test_reservations_before_a_conflict_are_reported_with_the_rest(
    face: Any, user: User, migrated: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Users of one page take turns.
    monkeypatch.setattr(purges, "_USERS", 1)
    for owner in (user, *(face.users.create(f"u{n}@example.com") for n in range(2))):
        face.quotas.reserve(owner, tokens=5)
        expire(migrated, owner)
    conflict_once(migrated, "quota_reservations", at=2)
    (report,) = face.maintenance.run(["reservations"])
    assert (report.removed, report.problem) == (3, None)
    assert [meta["removed"] for meta in told(migrated, "reservations")] == [3]
    assert face.quotas.verify().balanced


# Names and ports.


def test_names_and_ports_of_what_is_gone_are_free_again(
    face: Any, user: User, project: Project, migrated: Admin
) -> None:
    bob = face.users.create("bob@example.com")
    gone = face.projects.create(bob, path="/srv/gone", session_id="gone-session")
    for owner in (project, gone):
        preview = face.previews.create(owner, host=f"{owner.name}.example.com")
        face.previews.allocate_port(preview)
    stopped = face.previews.create(project, host="stopped.example.com")
    face.previews.stop(stopped)
    deleted = face.previews.allocate_port(face.previews.create(project, host="deleted.example.com"))
    migrated.execute("DELETE FROM previews WHERE id = %s", [deleted.id])
    migrated.execute("DELETE FROM users WHERE id = %s", [bob.id])
    assert number(migrated, "claims") == 7
    assert number(migrated, "preview_ports") == 3
    assert counts(face.maintenance.purge_claims(batch=2)) == (10, 6, 0)
    left = migrated.execute("SELECT kind, value FROM claims ORDER BY kind").fetchall()
    assert left == [
        ("email", "ada@example.com"), ("preview_host", "app.example.com"), ("project_session", project.session_id)
    ]  # fmt: skip
    assert number(migrated, "preview_ports") == 1
    # They can be taken again, and what lives still works.
    assert face.users.create("bob@example.com").id != bob.id
    assert face.projects.create(user, path="/srv/new", session_id="gone-session")
    assert face.previews.by_host("app.example.com") is not None
    assert counts(face.maintenance.purge_claims())[1:] == (0, 0)


# Memory.


def age(admin: Admin, project: Project, *, path: str = "%", days: int = 31) -> None:
    admin.execute(
        "UPDATE memory_snapshots SET created_at = created_at - make_interval(days => %s)"
        " WHERE project_id = %s AND path LIKE %s",
        [days, project.id, path],
    )


def take(face: Any, project: Project, path: str, *contents: bytes, kind: str = "auto") -> None:
    for content in contents:
        face.memory.snapshot(project, path, content, kind=kind)


def seqs(face: Any, project: Project, path: str) -> list[int]:
    return sorted({version.seq for version in face.memory.history(project, path, limit=1000)})


@pytest.mark.every_server
def test_old_automatic_versions_go_and_everything_else_stays(
    face: Any, user: User, project: Project, migrated: Admin
) -> None:
    take(face, project, "a.md", b"1", b"2", b"3")
    take(face, project, "a.md", b"asked for", kind="claude_md")
    face.memory.checkpoint(project, "kept")
    take(face, project, "a.md", b"5", b"6")
    take(face, project, "still.md", b"1", b"2")
    take(face, project, "gone.md", b"1", b"last content")
    face.memory.delete(project, "gone.md")
    age(migrated, project)
    take(face, project, "a.md", b"young", b"newest")
    report = face.maintenance.prune_snapshots(batch=3)
    assert counts(report) == (10, 7, 0)
    # Of a.md the one that was asked for (a checkpoint names it, too) and the young; of the others the newest.
    assert seqs(face, project, "a.md") == [4, 7, 8]
    assert seqs(face, project, "still.md") == [2]
    assert seqs(face, project, "gone.md") == [2, 3]
    assert face.memory.read(project, "a.md", "kept") == b"asked for"
    assert face.memory.verify(user).ok
    assert counts(face.maintenance.prune_snapshots()) == (3, 0, 0)


def test_a_longer_time_keeps_more(face: Any, project: Project, migrated: Admin) -> None:
    take(face, project, "a.md", b"1", b"2")
    age(migrated, project, days=40)
    assert face.maintenance.prune_snapshots(keep=timedelta(days=41)).removed == 0
    assert face.maintenance.prune_snapshots(keep=timedelta(days=39)).removed == 1


def body(n: int) -> bytes:
    """Return contents that are small deltas of each other."""
    return b"".join(b"line %d of the rules\n" % line for line in range(60)) + b"%d\n" % n


@pytest.mark.every_server
def test_contents_that_nothing_needs_go_with_what_they_were_made_from(
    face: Any, user: User, project: Project, migrated: Admin
) -> None:
    bob = face.users.create("bob@example.com")
    other = face.projects.create(bob, path="/srv/app")
    for owner in (project, other):
        take(face, owner, "a.md", *(body(n) for n in range(6)))
        # Now a keyframe of something else: nothing is made from those before any more.
        take(face, owner, "a.md", NOISE)
    age(migrated, project)
    blobs, taken = number(migrated, "memory_blobs"), stored(migrated)
    assert counts(face.maintenance.collect_contents()) == (blobs, 0, 0)
    assert face.maintenance.prune_snapshots().removed == 6
    report = face.maintenance.collect_contents(batch=2)
    # Nobody else's, though Bob has the same.
    assert (report.examined, report.removed, report.skipped) == (blobs, 6, 0)
    assert number(migrated, "memory_blobs") == blobs - 6
    assert report.freed_bytes == taken - stored(migrated) > 0
    assert face.memory.verify(user).ok
    assert face.memory.verify(bob).ok
    assert face.memory.content(face.memory.history(other, "a.md", limit=3)[2]) == body(4)
    # What was collected can be stored anew.
    take(face, project, "a.md", body(3))
    assert face.memory.read(project, "a.md") == body(3)


def stored(admin: Admin) -> int:
    row = admin.execute("SELECT sum(octet_length(data)) FROM memory_blobs").fetchone()
    assert row is not None
    return row[0]


def test_bases_of_deltas_stay(face: Any, user: User, project: Project, migrated: Admin) -> None:
    take(face, project, "a.md", *(body(n) for n in range(9)))
    age(migrated, project)
    assert face.maintenance.prune_snapshots().removed == 8
    assert migrated.execute("SELECT max(depth) FROM memory_blobs").fetchone() == (8,)
    assert face.maintenance.collect_contents().removed == 0
    assert face.memory.read(project, "a.md") == body(8)
    assert face.memory.verify(user).ok


# All of them.


def test_a_run_does_every_job_once_and_is_on_record(face: Any, user: User, project: Project, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=3, valid=1)
    add_previews(migrated, project, "stopped", days=8)
    add_events(migrated, user, days=400, times=2)
    take(face, project, "a.md", b"x" * 3000, NOISE)
    age(migrated, project)
    seen: list[MaintenanceProgress] = []
    reports = face.maintenance.run(progress=seen.append)
    assert [report.name for report in reports] == list(MAINTENANCE_JOBS)
    removed = {report.name: report.removed for report in reports if report.removed}
    assert removed == {"sessions": 3, "previews": 1, "snapshots": 1, "contents": 1, "events": 2}
    assert [report.name for report in reports if report.freed_bytes] == ["contents"]
    assert {now.job for now in seen} == set(MAINTENANCE_JOBS)
    for name in MAINTENANCE_JOBS:
        (meta,) = told(migrated, name)
        assert meta["removed"] == removed.get(name, 0)
        assert meta["source"] == "sdk"
    (run,) = face.maintenance.runs()
    assert (run.outcome, run.whole, run.problem) == ("done", True, None)
    assert run.ended_at >= run.started_at
    assert [(job.name, job.removed) for job in run.jobs] == [(one.name, one.removed) for one in reports]
    again = face.maintenance.run()
    assert not any(report.removed for report in again)


def test_a_dry_run_counts_and_changes_nothing(face: Any, user: User, project: Project, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=3, valid=1)
    add_previews(migrated, project, "stopped", days=8)
    add_events(migrated, user, days=400, times=2)
    face.quotas.reserve(user, tokens=5)
    expire(migrated, user)
    migrated.execute("INSERT INTO claims (kind, value, user_id) VALUES ('email', 'x@y', gen_random_uuid())")
    migrated.execute("INSERT INTO preview_ports VALUES ('', 9, gen_random_uuid(), gen_random_uuid())")
    bob = face.users.create("bob@example.com")
    migrated.execute(
        "UPDATE user_quotas SET period_start = now() - interval '40 days', period_end = now() - interval '10 days'"
        " WHERE user_id = %s",
        [bob.id],
    )
    take(face, project, "a.md", b"x" * 3000, NOISE)
    age(migrated, project)
    tables = (
        *("events", "sessions", "previews", "claims", "preview_ports", "quota_reservations", "memory_snapshots"),
        *("memory_blobs", "quota_history", "maintenance_runs"),
    )
    before = [number(migrated, table) for table in tables]
    reports = face.maintenance.run(dry_run=True, batch=2)
    assert {report.name: report.removed for report in reports} == {
        "periods": 1, "reservations": 1, "sessions": 3, "previews": 1, "claims": 2, "snapshots": 1, "contents": 0,
        "events": 2,
    }  # fmt: skip
    assert all(report.dry_run for report in reports)
    assert [number(migrated, table) for table in tables] == before
    done = face.maintenance.run(batch=2)
    assert {report.name: report.removed for report in done} == {
        **{report.name: report.removed for report in reports},
        "contents": 1,
    }


def test_jobs_can_be_chosen_and_things_kept_for_ever(face: Any, user: User, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=1, valid=0)
    add_events(migrated, user, days=4000, times=1)
    # In their own order, whatever the given one.
    reports = face.maintenance.run(["events", "sessions"], keep_events=timedelta(days=5000))
    assert [(report.name, report.removed) for report in reports] == [("sessions", 1), ("events", 0)]
    assert [run.whole for run in face.maintenance.runs()] == [False]
    names = [report.name for report in face.maintenance.run(keep_events=None, keep_auto=None)]
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
def test_wrong_arguments_are_named_and_nothing_is_removed(face: Any, bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        face.maintenance.run(**bad)
    assert refused.value.field == field


def test_a_run_stops_where_it_is_told_to(face: Any, user: User, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=9, valid=0)
    reports = face.maintenance.run(batch=4, progress=lambda now: now.job != "sessions")
    assert [(report.name, report.complete) for report in reports][-1] == ("sessions", False)
    assert reports[-1].removed == 4
    assert number(migrated, "sessions") == 5
    assert [run.outcome for run in face.maintenance.runs()] == ["stopped"]
    (meta,) = told(migrated, "sessions")
    assert (meta["removed"], meta["complete"]) == (4, False)


def test_a_job_that_fails_keeps_no_other_from_being_done(face: Any, user: User, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=2, valid=0)
    add_events(migrated, user, days=400, times=2)
    migrated.execute(
        """CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'sessions are broken'; END $$"""
    )
    migrated.execute("CREATE TRIGGER broken BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION broken()")
    reports = {report.name: report for report in face.maintenance.run()}
    assert "sessions are broken" in reports["sessions"].problem
    assert not reports["sessions"].complete
    assert reports["events"].removed == 2
    (run,) = face.maintenance.runs()
    assert (run.outcome, run.problem) == ("failed", reports["sessions"].problem)
    (meta,) = told(migrated, "sessions")
    assert "sessions are broken" in meta["problem"]


# Whose turn it is.


def test_one_run_a_day_whoever_asks(face: Any, migrated: Admin) -> None:
    assert face.maintenance.run_if_due() is not None
    assert face.maintenance.run_if_due() is None
    # Somebody else's clock does not matter, only the record.
    migrated.execute("UPDATE maintenance_runs SET started_at = started_at - interval '23 hours'")
    assert face.maintenance.run_if_due() is None
    migrated.execute("UPDATE maintenance_runs SET started_at = started_at - interval '2 hours'")
    assert face.maintenance.run_if_due() is not None
    assert [run.outcome for run in face.maintenance.runs()] == ["done", "done"]


def test_a_run_by_hand_is_the_days_when_it_was_whole(face: Any) -> None:
    face.maintenance.run(["sessions"])
    face.maintenance.run(dry_run=True)
    assert face.maintenance.run_if_due(progress=lambda _: False) is not None
    # That one was stopped: it goes on at the next occasion.
    assert face.maintenance.runs()[0].outcome == "stopped"
    face.maintenance.run()
    assert face.maintenance.run_if_due() is None


@pytest.mark.parametrize(
    ("outcome", "hours", "due"),
    [("failed", 0.9, False), ("failed", 1.1, True), ("running", 5.9, False), ("running", 6.1, True)],
)
def test_what_failed_is_tried_later_and_what_was_killed_blocks_nobody_for_long(
    face: Any, migrated: Admin, outcome: str, hours: float, *, due: bool
) -> None:
    migrated.execute(
        """INSERT INTO maintenance_runs (id, whole, outcome, started_at, ended_at)
           SELECT gen_random_uuid(), true, %(o)s, at, CASE WHEN %(o)s = 'running' THEN NULL ELSE at END
           FROM (SELECT now() - make_interval(secs => %(h)s * 3600) AS at) AS t""",
        {"o": outcome, "h": hours},
    )
    assert (face.maintenance.run_if_due() is not None) is due
