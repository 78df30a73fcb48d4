"""Rows that the schema refuses, and unique columns."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from psycopg import errors
from schema_rows import NOW, insert, minimal, new_file, new_project, new_user, query

pytestmark = pytest.mark.every_server
NIL = uuid.UUID(int=0)


# Bad rows.

ACCEPTED_BUILDS = [
    {"status": "queued"},
    {"status": "running", "started_at": NOW},
    {"status": "succeeded", "started_at": NOW, "finished_at": NOW},
    {"status": "failed", "started_at": NOW, "finished_at": NOW},
    {"status": "failed", "finished_at": NOW},
]
REFUSED = [
    *(("users", {"email": e}) for e in ["a", "a@b@c", "A@example.com", "a b@example.com", "@", "a@" + "b" * 319, ""]),
    # A second form of an address that the SDK stores in one.
    *(
        ("users", {"email": e})
        for e in ["É@example.com", "e\u0301@example.com", "\N{KELVIN SIGN}@example.com", "a@é.example"]
    ),
    ("users", {"id": NIL}),
    ("users", {"password_hash": ""}),
    ("sessions", {"token_hash": b"short"}),
    ("sessions", {"expires_at": NOW - timedelta(days=1)}),
    ("events", {"type": ""}),
    ("events", {"meta": []}),
    ("projects", {"path": "relative/path"}),
    ("projects", {"path": "/" + "x" * 2048}),
    ("projects", {"status": "gone"}),
    ("projects", {"root_inode": 7}),
    ("projects", {"memory_size": -1}),
    ("builds", {"status": "done"}),
    ("builds", {"status": "queued", "started_at": NOW}),
    ("builds", {"status": "running"}),
    ("builds", {"status": "running", "started_at": NOW, "finished_at": NOW}),
    ("builds", {"status": "succeeded", "finished_at": NOW}),
    ("builds", {"status": "failed", "started_at": NOW}),
    ("builds", {"status": "failed", "started_at": NOW, "finished_at": NOW - timedelta(seconds=1)}),
    ("previews", {"host_port": 0}),
    ("previews", {"container_port": 65536}),
    ("previews", {"host": "Upper.example.com"}),
    ("previews", {"health_status": "well"}),
    ("previews", {"status": "stopped"}),
    ("previews", {"status": "running", "stopped_at": NOW}),
    ("previews", {"sleep_after_seconds": 0}),
    ("usage_ledger", {"kind": "Tokens"}),
    ("usage_ledger", {"amount": Decimal("1.5")}),
    ("usage_ledger", {"amount": Decimal("NaN")}),
    ("usage_ledger", {"cost": Decimal("NaN")}),
]


@pytest.mark.parametrize("table", ["users", "sessions", "events", "projects", "builds", "previews", "usage_ledger"])
def test_minimal_row_is_accepted(migrated, table):
    insert(migrated, table, **minimal(migrated, table))


@pytest.mark.parametrize(("table", "bad"), REFUSED)
def test_bad_row_is_refused(migrated, table, bad):
    row = minimal(migrated, table)
    with pytest.raises(errors.CheckViolation):
        insert(migrated, table, **{**row, **bad})


@pytest.mark.parametrize("times", ACCEPTED_BUILDS)
def test_every_stage_of_a_build_is_accepted(migrated, times):
    insert(migrated, "builds", **minimal(migrated, "builds"), **times)


@pytest.mark.parametrize("path", ["/", "/srv/app", r"C:\work", "d:/work", r"\\server\share"])
def test_absolute_paths_of_every_system_are_accepted(migrated, path):
    new_project(migrated, new_user(migrated), path=path)


def test_build_computes_its_duration(migrated):
    row = minimal(migrated, "builds")
    insert(migrated, "builds", **row, status="failed", started_at=NOW, finished_at=NOW + timedelta(milliseconds=2500))
    found = query(migrated, "SELECT duration_seconds FROM builds WHERE user_id = %(u)s", u=row["user_id"])
    assert found == [(Decimal("2.500"),)]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("tokens_used = -1", errors.CheckViolation),
        ("cost_used = 'NaN'", errors.CheckViolation),
        ("cost_limit = 'NaN'", errors.CheckViolation),
        ("builds_limit = -1", errors.CheckViolation),
        ("period_end = period_start", errors.CheckViolation),
        ("time_zone = 'Mars/Olympus'", errors.InvalidParameterValue),
        ("time_zone = 'UTC+2'", errors.CheckViolation),
        ("time_zone = '<x>2'", errors.CheckViolation),
        ("time_zone = '+02'", errors.CheckViolation),
    ],
)
def test_bad_quota_is_refused(migrated, change, error):
    user_id = new_user(migrated)
    with pytest.raises(error):
        query(migrated, f"UPDATE user_quotas SET {change} WHERE user_id = %(u)s", u=user_id)


def test_quota_may_be_unlimited_or_below_what_is_used(migrated):
    user_id = new_user(migrated)
    change = "tokens_limit = NULL, cost_limit = 1, cost_used = 2, time_zone = 'EST5EDT'"
    query(migrated, f"UPDATE user_quotas SET {change} WHERE user_id = %(u)s", u=user_id)


# Unique values, and the time for which they stay taken.


def test_folder_is_one_project_until_that_is_deleted(migrated):
    user_id = new_user(migrated)
    first = new_project(migrated, user_id, path="/srv/app")
    new_project(migrated, new_user(migrated), path="/srv/app")
    with pytest.raises(errors.UniqueViolation):
        new_project(migrated, user_id, path="/srv/app")
    query(migrated, "UPDATE projects SET status = 'deleted' WHERE user_id = %(u)s AND id = %(p)s", u=user_id, p=first)
    new_project(migrated, user_id, path="/srv/app")


def test_host_is_one_live_preview(migrated):
    row = minimal(migrated, "previews")
    insert(migrated, "previews", **row, status="stopped", stopped_at=NOW)
    insert(migrated, "previews", **row, status="failed")
    insert(migrated, "previews", **row, status="sleeping")
    with pytest.raises(errors.UniqueViolation):
        insert(migrated, "previews", **row)


@pytest.mark.parametrize("table", ["builds", "previews"])
def test_row_cannot_point_at_a_project_of_another_tenant(migrated, table):
    row = {**minimal(migrated, table), "project_id": new_project(migrated, new_user(migrated))}
    with pytest.raises(errors.ForeignKeyViolation):
        insert(migrated, table, **row)


def test_file_cannot_point_at_a_project_of_another_tenant(migrated):
    one, foreign = new_user(migrated), new_project(migrated, new_user(migrated))
    with pytest.raises(errors.ForeignKeyViolation):
        new_file(migrated, one, foreign, "CLAUDE.md", 1)
