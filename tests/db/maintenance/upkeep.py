"""Rows for maintenance to remove, and the events that maintenance writes."""

from __future__ import annotations

import random
import uuid
from typing import Any

import psycopg
import pytest

from atlas_sdk import Project, User
from atlas_sdk.maintenance import JobReport

NIL = uuid.UUID(int=0)
#: Random bytes, for which no delta is smaller.
NOISE = random.Random(1).randbytes(3000)
Admin = psycopg.Connection[Any]


def told(admin: Admin, job: str) -> list[dict[str, Any]]:
    """Check that the events of a job belong to the nil user; return their data, in order."""
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


def add_previews(admin: Admin, project: Project, status: str, days: int, times: int = 1) -> None:
    admin.execute(
        """INSERT INTO previews (user_id, project_id, host, status, stopped_at, created_at)
           SELECT %s, %s, gen_random_uuid() || '.example.com', %s::text,
                  CASE WHEN %s::text = 'stopped' THEN now() - make_interval(days => %s, secs => 60 + n) END,
                  now() - interval '1 year'
           FROM generate_series(1, %s) AS n""",
        [project.user_id, project.id, status, status, days, times],
    )


def add_events(admin: Admin, user: User, days: int, times: int) -> None:
    admin.execute(
        """INSERT INTO events (user_id, type, created_at)
           SELECT %s, 'tick', now() - make_interval(days => %s, secs => 60 + n) FROM generate_series(1, %s) AS n""",
        [user.id, days, times],
    )


def expire(admin: Admin, user: User) -> None:
    admin.execute(
        "UPDATE quota_reservations SET expires_at = now() - interval '1 minute' WHERE user_id = %s", [user.id]
    )


# Memory.


def age(admin: Admin, project: Project, *, path: str = "%", days: int = 31) -> None:
    admin.execute(
        "UPDATE memory_snapshots SET created_at = created_at - make_interval(days => %s)"
        " WHERE project_id = %s AND path LIKE %s",
        [days, project.id, path],
    )


def take(client: Any, project: Project, path: str, *contents: bytes, kind: str = "auto") -> None:
    for content in contents:
        client.memory.snapshot(project, path, content, kind=kind)


# Several at once.


def wait_until_blocked(admin: Admin) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    for _ in range(3000):
        if admin.execute(waiting).fetchone() != (0,):
            return
        admin.execute("SELECT pg_sleep(0.01)")
    pytest.fail("nobody waited")
