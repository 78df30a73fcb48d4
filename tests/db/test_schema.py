"""The schema promises these things to whoever connects with psql, so they are asked of a real server.

Errors are told apart by SQLSTATE classes only: on a cluster, constraint names carry the number of a shard.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.every_server

NIL = uuid.UUID(int=0)
NOW = datetime.now(UTC)


def query(conn: psycopg.Connection[Any], statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def insert(conn: psycopg.Connection[Any], table: str, **columns: object) -> uuid.UUID:
    """Insert one row and return its id; the id is made here when the caller gives none."""
    row = {"id": uuid.uuid4(), **columns}
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(map(sql.Placeholder, row)),
    )
    conn.execute(statement, {name: Jsonb(v) if isinstance(v, dict | list) else v for name, v in row.items()})
    return row["id"]


def new_user(conn: psycopg.Connection[Any], **columns: object) -> uuid.UUID:
    return insert(conn, "users", **{"email": f"{uuid.uuid4().hex}@example.com", **columns})


def new_project(conn: psycopg.Connection[Any], user_id: uuid.UUID, **columns: object) -> uuid.UUID:
    tag = uuid.uuid4().hex
    row = {"user_id": user_id, "session_id": tag, "name": tag, "path": f"/{tag}"}
    return insert(conn, "projects", **{**row, **columns})


def new_file(conn: psycopg.Connection[Any], user_id: uuid.UUID, project_id: uuid.UUID, path: str, *sizes: int) -> None:
    """Write one version for each size; a size of -1 is a deletion."""
    ids = [uuid.uuid4() for _ in sizes]
    contents = [i for i, size in zip(ids, sizes, strict=True) if size >= 0]
    conn.execute(
        "INSERT INTO memory_files (user_id, project_id, path, snapshot_id, content_id, seq) VALUES (%s,%s,%s,%s,%s,%s)",
        (user_id, project_id, path, ids[-1], contents[-1], len(ids)),
    )
    for seq, (snapshot_id, size) in enumerate(zip(ids, sizes, strict=True), start=1):
        digest = uuid.uuid4().bytes * 2 if size >= 0 else None
        if digest:
            conn.execute(
                "INSERT INTO memory_blobs (user_id, sha256, size, data) VALUES (%s, %s, %s, 'x')",
                (user_id, digest, size),
            )
        row = {"project_id": project_id, "path": path, "seq": seq, "sha256": digest, "size": max(size, 0)}
        insert(conn, "memory_snapshots", id=snapshot_id, user_id=user_id, kind="auto", **row)


@contextmanager
def application_role(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Be a role that owns nothing, as the application is, and not the owner whom policies do not bind."""
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


# What people know by name.

TABLES = [
    *("users", "user_quotas", "projects", "builds", "previews"),
    *("memory_snapshots", "usage_ledger", "events", "sessions", "claims"),
]
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


def minimal(conn: psycopg.Connection[Any], table: str) -> dict[str, object]:
    """Return a good row of the table, with its parents stored."""
    if table == "users":
        return {"email": f"{uuid.uuid4().hex}@example.com"}
    user_id = new_user(conn)
    own = {"user_id": user_id}
    if table == "sessions":
        return {**own, "token_hash": uuid.uuid4().bytes * 2, "expires_at": NOW + timedelta(days=1)}
    if table == "events":
        return {**own, "type": "test"}
    if table == "projects":
        return {**own, "session_id": "s", "name": "n", "path": "/p"}
    if table == "usage_ledger":
        return {**own, "kind": "tokens", "amount": 1}
    own["project_id"] = new_project(conn, user_id)
    return own if table == "builds" else {**own, "host": f"{uuid.uuid4().hex}.example.com"}


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
    ],
)
def test_bad_quota_is_refused(migrated, change, error):
    user_id = new_user(migrated)
    with pytest.raises(error):
        query(migrated, f"UPDATE user_quotas SET {change} WHERE user_id = %(u)s", u=user_id)


def test_quota_may_be_unlimited_or_below_what_is_used(migrated):
    user_id = new_user(migrated)
    change = "tokens_limit = NULL, cost_limit = 1, cost_used = 2, time_zone = 'Europe/Berlin'"
    query(migrated, f"UPDATE user_quotas SET {change} WHERE user_id = %(u)s", u=user_id)


# What is unique, and for how long.


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
    insert(migrated, "usage_ledger", user_id=user_id, project_id=project_id, kind="tokens", amount=5)
    query(migrated, "DELETE FROM projects WHERE user_id = %(u)s AND id = %(p)s", u=user_id, p=project_id)
    assert query(migrated, "SELECT amount FROM usage_ledger WHERE user_id = %(u)s", u=user_id) == [(5,)]


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
        # Index scans alone show where the condition went, whatever the statistics say.
        migrated.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        found = query(migrated, f"EXPLAIN (COSTS OFF) SELECT * FROM {view} WHERE user_id = '{user_id}'")
    scans, conditions = 0, 0
    for (line,) in found:
        scans += "Scan" in line and " on " in line
        conditions += "Index Cond" in line and f"'{user_id}'" in line
    assert (scans, conditions) == (scans or 1, scans), found
