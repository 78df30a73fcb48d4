"""Properties of the schema for everybody who connects with psql, tested on a real server.

Tests distinguish errors by SQLSTATE classes only, because on a cluster constraint names have the number of a shard.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from schema_rows import TABLES, insert, minimal, new_file, new_project, new_user, query

if TYPE_CHECKING:
    pass


pytestmark = pytest.mark.every_server


INDEXES = [
    *("idx_users_email", "idx_projects_user", "idx_projects_session", "idx_projects_updated", "idx_builds_project"),
    *("idx_builds_status", "idx_previews_project", "idx_previews_host", "idx_events_user_created"),
    "idx_usage_ledger_user_created",
]


@pytest.mark.parametrize("table", TABLES)
def test_table_can_be_read_and_is_behind_row_security(migrated, table):
    query(migrated, f"SELECT count(*) FROM {table}")
    assert query(migrated, "SELECT relrowsecurity FROM pg_class WHERE oid = %(t)s::regclass", t=table) == [(True,)]


def test_no_table_of_a_tenant_is_without_a_policy(migrated):
    open_tables = query(
        migrated,
        """SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
           WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attname = 'user_id'
             AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND c.relrowsecurity)""",
    )
    assert open_tables == []


@pytest.mark.parametrize("name", INDEXES)
def test_index_exists(migrated, name):
    assert query(migrated, "SELECT indisvalid FROM pg_index WHERE indexrelid = %(n)s::regclass", n=name) == [(True,)]


@pytest.mark.parametrize("view", ["user_usage_summary", "project_health"])
def test_view_can_be_read(migrated, view):
    query(migrated, f"SELECT * FROM {view}")


def test_triggers_call_the_two_functions(migrated):
    found = query(
        migrated,
        """SELECT p.proname, t.tgrelid::regclass::text FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
           WHERE NOT t.tgisinternal""",
    )
    touched = {table for name, table in found if name == "update_updated_at_column"}
    assert touched == {"users", "projects", "user_quotas", "previews"}
    assert ("create_default_user_quota", "users") in found


# Triggers.


@pytest.mark.parametrize(
    ("plan", "limits"),
    [
        ("free", (1_000_000, 10, 2, 100, 10)),
        ("pro", (10_000_000, 100, 10, 1_000, 100)),
        ("enterprise", (100_000_000, 1_000, 50, 10_000, 1_000)),
    ],
)
def test_sign_up_makes_the_quota_of_the_plan(migrated, plan, limits):
    user_id = new_user(migrated, plan=plan, created_at=datetime(2024, 1, 31, 12, tzinfo=UTC))
    columns = "tokens_limit, cost_limit, containers_limit, requests_limit, builds_limit, period_start, period_end"
    found = query(migrated, f"SELECT {columns} FROM user_quotas WHERE user_id = %(u)s", u=user_id)
    period = (datetime(2024, 1, 31, 12, tzinfo=UTC), datetime(2024, 2, 29, 12, tzinfo=UTC))
    assert found == [(*limits, *period)]


def test_sign_up_needs_no_search_path(migrated):
    with migrated.transaction():
        migrated.execute("SET LOCAL search_path = ''")
        migrated.execute("INSERT INTO public.users (email) VALUES (%s)", (f"{uuid.uuid4().hex}@example.com",))


def test_change_of_plan_changes_limits_and_keeps_what_is_used(migrated):
    user_id = new_user(migrated)
    query(migrated, "UPDATE user_quotas SET tokens_used = 7 WHERE user_id = %(u)s", u=user_id)
    query(migrated, "UPDATE users SET plan = 'pro' WHERE id = %(u)s", u=user_id)
    columns = "tokens_used, tokens_limit, builds_limit"
    assert query(migrated, f"SELECT {columns} FROM user_quotas WHERE user_id = %(u)s", u=user_id) == [
        (7, 10_000_000, 100)
    ]


def test_own_limits_survive_an_update_that_keeps_the_plan(migrated):
    user_id = new_user(migrated)
    query(migrated, "UPDATE user_quotas SET tokens_limit = 5 WHERE user_id = %(u)s", u=user_id)
    query(migrated, "UPDATE users SET plan = 'free', name = 'Ada' WHERE id = %(u)s", u=user_id)
    assert query(migrated, "SELECT tokens_limit FROM user_quotas WHERE user_id = %(u)s", u=user_id) == [(5,)]


@pytest.mark.parametrize("table", ["users", "projects", "user_quotas", "previews"])
def test_update_moves_updated_at(migrated, table):
    if table == "user_quotas":
        user_id, key = new_user(migrated), "user_id"
    else:
        row = minimal(migrated, table)
        row_id = insert(migrated, table, **row)
        user_id, key = (row_id, "id") if table == "users" else (row["user_id"], "user_id")
    select = f"SELECT updated_at FROM {table} WHERE {key} = %(u)s"
    before = query(migrated, select, u=user_id)
    query(migrated, f"UPDATE {table} SET created_at = created_at WHERE {key} = %(u)s", u=user_id)
    assert query(migrated, select, u=user_id) > before


def test_deleting_a_user_leaves_only_the_audit(migrated):
    user_id = new_user(migrated)
    project_id = new_project(migrated, user_id)
    for table in ("sessions", "builds", "previews", "usage_ledger", "events"):
        row = {**minimal(migrated, table), "user_id": user_id}
        insert(migrated, table, **{**row, "project_id": project_id} if "project_id" in row else row)
    new_file(migrated, user_id, project_id, "CLAUDE.md", 10, 20)
    query(migrated, "DELETE FROM users WHERE id = %(u)s", u=user_id)
    left = {
        t: query(migrated, f"SELECT count(*) FROM {t} WHERE user_id = %(u)s", u=user_id)[0][0]
        for t in [*TABLES[1:], "memory_files", "memory_blobs"]
    }
    assert {table for table, rows in left.items() if rows} == {"events"}


def test_ledger_outlives_the_project(migrated):
    user_id = new_user(migrated)
    project_id = new_project(migrated, user_id)
    insert(migrated, "usage_ledger", user_id=user_id, project_id=project_id, kind="minutes", amount=5)
    query(migrated, "DELETE FROM projects WHERE user_id = %(u)s AND id = %(p)s", u=user_id, p=project_id)
    assert query(migrated, "SELECT amount FROM usage_ledger WHERE user_id = %(u)s", u=user_id) == [(5,)]
