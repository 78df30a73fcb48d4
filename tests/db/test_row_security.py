"""Row-level security and views: a tenant sees its own rows only."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from schema_rows import NOW, TABLES, insert, minimal, new_file, new_project, new_user, query

pytestmark = pytest.mark.every_server


@contextmanager
def application_role(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Act as a role that owns nothing, like an application. Policies do not apply to the owner of the tables."""
    role = sql.Identifier(f"atlas_test_{uuid.uuid4().hex}")
    conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
    try:
        conn.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}").format(role))
        conn.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(role))
        conn.execute(sql.SQL("SET ROLE {}").format(role))
        yield
    finally:
        conn.execute("RESET ROLE")
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


@contextmanager
def tenant(conn: psycopg.Connection[Any], user_id: uuid.UUID) -> Iterator[None]:
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL atlas.user_id = {}").format(sql.Literal(str(user_id))))
        yield


# Row-level security.


def test_without_the_setting_nothing_is_visible(migrated):
    new_project(migrated, new_user(migrated))
    with application_role(migrated):
        seen = {t: query(migrated, f"SELECT count(*) FROM {t}")[0][0] for t in [*TABLES, "project_health"]}
        assert not any(seen.values())
        with pytest.raises(errors.InsufficientPrivilege):
            new_user(migrated)


def test_tenant_sees_own_rows_only_and_only_in_the_transaction(migrated):
    one, other = new_user(migrated), new_user(migrated)
    own = new_project(migrated, one)
    new_project(migrated, other)
    with application_role(migrated):
        with tenant(migrated, one):
            assert query(migrated, "SELECT id FROM users") == [(one,)]
            assert query(migrated, "SELECT id FROM projects") == [(own,)]
            assert query(migrated, "SELECT user_id FROM user_quotas") == [(one,)]
            assert query(migrated, "SELECT user_id FROM user_usage_summary") == [(one,)]
            assert query(migrated, "SELECT project_id FROM project_health") == [(own,)]
        assert query(migrated, "SELECT id FROM projects") == []


@pytest.mark.parametrize("table", ["sessions", "events", "projects", "builds", "previews", "usage_ledger"])
def test_tenant_cannot_insert_for_another(migrated, table):
    row, one = minimal(migrated, table), new_user(migrated)
    with application_role(migrated), pytest.raises(errors.InsufficientPrivilege), tenant(migrated, one):
        insert(migrated, table, **row)


def test_tenant_cannot_change_or_delete_rows_of_another(migrated):
    one, other = new_user(migrated), new_user(migrated)
    with application_role(migrated), tenant(migrated, one):
        query(migrated, "UPDATE users SET name = 'x' WHERE id = %(u)s", u=other)
        query(migrated, "DELETE FROM users WHERE id = %(u)s", u=other)
    assert query(migrated, "SELECT name FROM users WHERE id = %(u)s", u=other) == [("",)]


def test_sign_up_works_behind_row_security(migrated):
    user_id = uuid.uuid4()
    with application_role(migrated), tenant(migrated, user_id):
        new_user(migrated, id=user_id, plan="pro")
        query(migrated, "UPDATE users SET plan = 'free' WHERE id = %(u)s", u=user_id)
        assert query(migrated, "SELECT tokens_limit FROM user_quotas") == [(1_000_000,)]


def test_claim_of_another_tenant_is_felt_but_not_seen(migrated):
    one, other, value = uuid.uuid4(), uuid.uuid4(), f"{uuid.uuid4().hex}.example.com"
    claim = """INSERT INTO claims (kind, value, user_id) VALUES ('preview_host', %(v)s, %(u)s)
               ON CONFLICT (value, kind) DO NOTHING RETURNING user_id"""
    with application_role(migrated):
        with tenant(migrated, one):
            assert query(migrated, claim, v=value, u=one) == [(one,)]
        with tenant(migrated, other):
            assert query(migrated, claim, v=value, u=other) == []
            assert query(migrated, "SELECT user_id FROM claims") == []


# Views.


def test_new_user_is_in_the_summary_with_zeros(migrated):
    user_id = new_user(migrated)
    found = query(migrated, "SELECT * FROM user_usage_summary WHERE user_id = %(u)s", u=user_id)
    assert [row[2:11] for row in found] == [("free", 0, 1_000_000, 0, 10, 0, 0, 0, 0)]


def test_summary_counts_each_thing_once(migrated):
    user_id = new_user(migrated)
    live, _ = new_project(migrated, user_id), new_project(migrated, user_id, status="deleted")
    own = {"user_id": user_id, "project_id": live}
    for age in (timedelta(hours=1), timedelta(days=2), timedelta(days=8)):
        insert(migrated, "builds", **own, created_at=NOW - age)
    for status in ("creating", "running", "sleeping", "failed"):
        insert(migrated, "previews", **own, host=f"{status}.example.com", status=status)
    accessed = NOW + timedelta(days=1)
    query(migrated, "UPDATE previews SET last_accessed_at = %(t)s WHERE user_id = %(u)s", t=accessed, u=user_id)
    columns = "project_count, active_previews, builds_24h, builds_7d, last_activity_at"
    found = query(migrated, f"SELECT {columns} FROM user_usage_summary WHERE user_id = %(u)s", u=user_id)
    assert found == [(1, 2, 1, 2, accessed)]


def test_summary_forgets_the_use_of_a_period_that_ended(migrated):
    user_id = new_user(migrated, created_at=NOW - timedelta(days=90))
    query(migrated, "UPDATE user_quotas SET tokens_used = 7, cost_used = 1 WHERE user_id = %(u)s", u=user_id)
    select = "SELECT tokens_used, cost_used FROM user_usage_summary WHERE user_id = %(u)s"
    assert query(migrated, select, u=user_id) == [(0, 0)]
    query(migrated, "UPDATE user_quotas SET period_end = now() + interval '1 day' WHERE user_id = %(u)s", u=user_id)
    assert query(migrated, select, u=user_id) == [(7, 1)]


def test_health_of_a_project_without_builds_has_no_rate(migrated):
    user_id = new_user(migrated)
    new_project(migrated, user_id)
    found = query(migrated, "SELECT * FROM project_health WHERE user_id = %(u)s", u=user_id)
    assert [row[3:] for row in found] == [("active", 0, 0, 0, None, None, None, None, 0, False, 0, 0, None)]


def test_health_sums_builds_previews_and_memory(migrated):
    user_id = new_user(migrated)
    own = {"user_id": user_id, "project_id": new_project(migrated, user_id)}
    for hour, status in enumerate(["succeeded", "succeeded", "failed", "queued"]):
        started = {} if status == "queued" else {"started_at": NOW, "finished_at": NOW}
        insert(migrated, "builds", **own, status=status, created_at=NOW + timedelta(hours=hour), **started)
    insert(migrated, "previews", **own, host=f"{uuid.uuid4().hex}.example.com", status="running")
    new_file(migrated, *own.values(), "CLAUDE.md", 10, 20)
    new_file(migrated, *own.values(), "scratch.md", 300, -1)
    columns = """builds_total, builds_succeeded, builds_failed, success_rate, failure_rate, last_build_at,
                 last_build_status, active_previews, has_memory, memory_files, memory_bytes"""
    found = query(migrated, f"SELECT {columns} FROM project_health WHERE user_id = %(u)s", u=user_id)
    rates = (Decimal("0.6667"), Decimal("0.3333"))
    assert found == [(4, 2, 1, *rates, NOW + timedelta(hours=3), "queued", 1, True, 1, 20)]


@pytest.mark.parametrize("view", ["user_usage_summary", "project_health"])
def test_condition_on_the_user_reaches_every_table_of_a_view(migrated, view):
    user_id = uuid.uuid4()
    with migrated.transaction():
        # Allow only index scans, so that the plan shows the place of the condition in spite of the statistics.
        migrated.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        found = query(migrated, f"EXPLAIN (COSTS OFF) SELECT * FROM {view} WHERE user_id = '{user_id}'")
    scans, conditions = 0, 0
    for (line,) in found:
        scans += "Scan" in line and " on " in line
        conditions += "Index Cond" in line and f"'{user_id}'" in line
    assert (scans, conditions) == (scans or 1, scans), found
