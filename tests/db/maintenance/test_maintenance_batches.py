"""Batches of maintenance: removed rows, and rows that a conflict or a failed job leaves for later."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from upkeep import Admin, add_events, add_previews, add_sessions, counts, expire, number, told

from atlas_sdk import Project, User
from atlas_sdk.ops import purges


@pytest.mark.every_server
def test_expired_sessions_of_everybody_go_in_batches(client: Any, user: User, migrated: Admin) -> None:
    for owner in (user, client.users.create("bob@example.com")):
        add_sessions(migrated, owner, expired=5, valid=2)
    seen: list[int] = []
    report = client.maintenance.purge_sessions(batch=4, progress=lambda now: seen.append(now.removed))
    assert counts(report) == (10, 10, 0)
    assert report.complete
    assert report.problem is None
    assert seen == [4, 8, 10]
    assert number(migrated, "sessions") == 4
    assert [meta["removed"] for meta in told(migrated, "sessions")] == [10]
    assert counts(client.maintenance.purge_sessions()) == (0, 0, 0)


def test_previews_that_stopped_long_ago_go(client: Any, project: Project, migrated: Admin) -> None:
    add_previews(migrated, project, "stopped", days=7, times=5)
    add_previews(migrated, project, "stopped", days=6)
    for status in ("creating", "running", "sleeping", "failed"):
        add_previews(migrated, project, status, days=0)
    assert counts(client.maintenance.purge_previews(batch=2)) == (5, 5, 0)
    left = migrated.execute("SELECT status FROM previews ORDER BY status").fetchall()
    assert left == [("creating",), ("failed",), ("running",), ("sleeping",), ("stopped",)]
    assert counts(client.maintenance.purge_previews(keep=timedelta(days=5))) == (1, 1, 0)


@pytest.mark.every_server
def test_previews_that_failed_long_ago_go_too(client: Any, project: Project, migrated: Admin) -> None:
    add_previews(migrated, project, "failed", days=0, times=5)
    add_previews(migrated, project, "stopped", days=8, times=3)
    migrated.execute("ALTER TABLE previews DISABLE TRIGGER update_previews_updated_at")
    migrated.execute("UPDATE previews SET updated_at = now() - interval '8 days' WHERE status = 'failed'")
    migrated.execute("ALTER TABLE previews ENABLE TRIGGER update_previews_updated_at")
    # These previews were made long ago, but failed just now.
    add_previews(migrated, project, "failed", days=0, times=2)
    add_previews(migrated, project, "running", days=0)
    assert counts(client.maintenance.purge_previews(dry_run=True)) == (8, 8, 0)
    seen: list[int] = []
    assert counts(client.maintenance.purge_previews(batch=2, progress=lambda now: seen.append(now.removed))) == (
        8,
        8,
        0,
    )
    assert seen == [2, 3, 5, 7, 8]
    left = migrated.execute("SELECT status, count(*) FROM previews GROUP BY status ORDER BY status").fetchall()
    assert left == [("failed", 2), ("running", 1)]
    assert counts(client.maintenance.purge_previews()) == (0, 0, 0)


def test_the_audit_is_kept_for_a_year(client: Any, user: User, migrated: Admin) -> None:
    add_events(migrated, user, days=365, times=7)
    add_events(migrated, user, days=364, times=2)
    before = number(migrated, "events")
    assert counts(client.maintenance.purge_events(batch=3)) == (7, 7, 0)
    assert number(migrated, "events") == before - 7 + 1
    assert counts(client.maintenance.purge_events(keep=timedelta(days=363))) == (2, 2, 0)


# A batch that conflicts with another transaction.


def conflict_once(admin: Admin, table: str, at: int) -> None:
    """Let the deletion number `at` from a table fail with a serialization failure."""
    admin.execute("CREATE SEQUENCE deletions")
    # A rollback does not undo a sequence, so the sequence counts failed deletions too.
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


def test_what_went_before_a_conflict_is_reported_with_the_rest(client: Any, user: User, migrated: Admin) -> None:
    add_sessions(migrated, user, expired=10, valid=1)
    conflict_once(migrated, "sessions", at=3)
    seen: list[int] = []
    (report,) = client.maintenance.run(["sessions"], batch=4, progress=lambda now: seen.append(now.removed))
    assert (counts(report), report.complete, report.problem) == ((10, 10, 0), True, None)
    assert seen == [4, 8, 10]
    assert [meta["removed"] for meta in told(migrated, "sessions")] == [10]
    (run,) = client.maintenance.runs()
    assert [job.removed for job in run.jobs] == [10]


def test_reservations_before_a_conflict_are_reported_with_the_rest(
    client: Any, user: User, migrated: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Let each transaction handle one user.
    monkeypatch.setattr(purges, "_USERS", 1)
    for owner in (user, *(client.users.create(f"u{n}@example.com") for n in range(2))):
        client.quotas.reserve(owner, tokens=5)
        expire(migrated, owner)
    conflict_once(migrated, "quota_reservations", at=2)
    (report,) = client.maintenance.run(["reservations"])
    assert (report.removed, report.problem) == (3, None)
    assert [meta["removed"] for meta in told(migrated, "reservations")] == [3]
    assert client.quotas.verify().balanced


# Names and ports.


def test_names_and_ports_of_what_is_gone_are_free_again(
    client: Any, user: User, project: Project, migrated: Admin
) -> None:
    bob = client.users.create("bob@example.com")
    gone = client.projects.create(bob, path="/srv/gone", session_id="gone-session")
    for owner in (project, gone):
        preview = client.previews.create(owner, host=f"{owner.name}.example.com")
        client.previews.allocate_port(preview)
    stopped = client.previews.create(project, host="stopped.example.com")
    client.previews.stop(stopped)
    deleted = client.previews.allocate_port(client.previews.create(project, host="deleted.example.com"))
    migrated.execute("DELETE FROM previews WHERE id = %s", [deleted.id])
    migrated.execute("DELETE FROM users WHERE id = %s", [bob.id])
    # The address went with the user.
    assert number(migrated, "claims") == 6
    assert number(migrated, "preview_ports") == 3
    assert counts(client.maintenance.purge_claims(batch=2)) == (9, 5, 0)
    left = migrated.execute("SELECT kind, value FROM claims ORDER BY kind").fetchall()
    assert left == [
        ("email", "ada@example.com"), ("preview_host", "app.example.com"), ("project_session", project.session_id)
    ]  # fmt: skip
    assert number(migrated, "preview_ports") == 1
    # The names can be taken again, and objects that still exist work.
    assert client.users.create("bob@example.com").id != bob.id
    assert client.projects.create(user, path="/srv/new", session_id="gone-session")
    assert client.previews.by_host("app.example.com") is not None
    assert counts(client.maintenance.purge_claims())[1:] == (0, 0)
