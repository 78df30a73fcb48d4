"""The counters of builds against a recount: two connections insert, change, move, delete and cascade in any order.

The sequences are the same in every run. To look for new ones, for longer, and have what fails made shorter:
`ATLAS_MACHINE_EXAMPLES=2000 pytest tests/stateful/test_tally_machine.py`.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from atlas_sdk import Atlas, User

pytestmark = pytest.mark.every_server

EXAMPLES = int(os.environ.get("ATLAS_MACHINE_EXAMPLES", "0"))
#: What the views said before there were counters.
RECOUNTED = """
SELECT p.id, count(b.id), count(*) FILTER (WHERE b.status = 'succeeded'), count(*) FILTER (WHERE b.status = 'failed'),
       max(b.created_at), (array_agg(b.status ORDER BY b.created_at DESC NULLS LAST, b.id DESC))[1]
FROM projects p LEFT JOIN builds b ON b.user_id = p.user_id AND b.project_id = p.id GROUP BY p.id ORDER BY p.id
"""
HEALTH = """
SELECT project_id, builds_total, builds_succeeded, builds_failed, last_build_at, last_build_status
FROM project_health ORDER BY 1
"""
USERS_RECOUNTED = """
SELECT u.id, count(b.id) FILTER (WHERE b.created_at > now() - interval '24 hours'),
       count(b.id) FILTER (WHERE b.created_at > now() - interval '7 days'),
       greatest(u.created_at, (SELECT max(updated_at) FROM projects p WHERE p.user_id = u.id), max(b.created_at))
FROM users u LEFT JOIN builds b ON b.user_id = u.id GROUP BY u.id ORDER BY u.id
"""
SUMMARY = "SELECT user_id, builds_24h, builds_7d, last_activity_at FROM user_usage_summary ORDER BY 1"
#: Around the ends of the day, of the week and of what is counted by the hour.
AGES = (
    "-2 days",
    "0",
    "0",
    "3 minutes",
    "5 hours",
    "23:30",
    "24:20",
    "6 days 12:00",
    "6 days 23:30",
    "7 days 00:20",
    "8 days 1 hour",
    "1 year",
)
#: Somebody has waited for another: the machine is one thread, so that one would wait for ever.
BLOCKED = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)

sides = st.integers(0, 1)
ages = st.sampled_from(AGES)
statuses = st.sampled_from(["queued", "running", "succeeded", "failed"])
picks = st.integers(0, 2**16)


class TallyMachine(RuleBasedStateMachine):
    dsn: ClassVar[str]
    atlas: ClassVar[Atlas]
    observer: ClassVar[psycopg.Connection[Any]]

    @initialize()
    def begin(self) -> None:
        self.sides = [psycopg.connect(self.dsn, autocommit=True) for _ in range(2)]
        for side in self.sides:
            side.execute("SET lock_timeout = '40ms'")
            # When rows are added up is up to chance.
            side.execute("SELECT setseed(0.5)")
        self.sides[0].execute("DELETE FROM users")
        # Times that do not depend on when the test runs: one time for many rows, too.
        self.users: list[User] = [self.atlas.users.create(f"{uuid4().hex}@example.com") for _ in range(2)]
        self.projects: list[tuple[UUID, UUID]] = []
        for user in (*self.users, self.users[0]):
            self.projects.append((user.id, self.atlas.projects.create(user, path=f"/{uuid4().hex}").id))

    def teardown(self) -> None:
        for side in getattr(self, "sides", []):
            side.close()

    def run(self, side: int, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement on a side; what cannot go on at once ends that side's transaction."""
        try:
            cursor = self.sides[side].execute(text, values)
            return cursor.fetchall() if cursor.description else []
        except (*BLOCKED, psycopg.errors.IntegrityError):
            self.sides[side].execute("ROLLBACK")
            return []

    def some_build(self, side: int, pick: int) -> tuple[Any, ...] | None:
        found = self.run(side, "SELECT user_id, id FROM builds ORDER BY created_at, id")
        return found[pick % len(found)] if found else None

    @rule(side=sides)
    def open(self, side: int) -> None:
        if self.sides[side].info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self.run(side, "BEGIN")

    @rule(side=sides, ending=st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK"]))
    def end(self, side: int, ending: str) -> None:
        if self.sides[side].info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self.run(side, ending)

    @rule(side=sides, pick=picks, age=ages, status=statuses, number=st.sampled_from([1, 1, 1, 4]))
    def insert(self, side: int, pick: int, age: str, status: str, number: int) -> None:
        self.run(
            side,
            """INSERT INTO builds (user_id, project_id, status, started_at, finished_at, created_at)
               SELECT %s, %s, s, CASE WHEN s <> 'queued' THEN now() END,
                      CASE WHEN s IN ('succeeded', 'failed') THEN now() END,
                      now() - %s::interval FROM (SELECT %s AS s FROM generate_series(1, %s)) AS x""",
            *self.projects[pick % len(self.projects)], age, status, number,
        )  # fmt: skip

    @rule(side=sides, pick=picks, status=st.sampled_from(["running", "succeeded", "failed"]))
    def change(self, side: int, pick: int, status: str) -> None:
        if build := self.some_build(side, pick):
            self.run(side, "UPDATE builds SET status = %s WHERE user_id = %s AND id = %s", status, *build)

    @rule(side=sides)
    def fail_all(self, side: int) -> None:
        self.run(side, "UPDATE builds SET status = 'failed' WHERE status IN ('queued', 'running')")

    @rule(side=sides, pick=picks, age=ages)
    def change_the_time(self, side: int, pick: int, age: str) -> None:
        if build := self.some_build(side, pick):
            text = "UPDATE builds SET created_at = now() - %s::interval WHERE user_id = %s AND id = %s"
            self.run(side, text, age, *build)

    @rule(side=sides, pick=picks, other=picks)
    def move(self, side: int, pick: int, other: int) -> None:
        if build := self.some_build(side, pick):
            text = "UPDATE builds SET user_id = %s, project_id = %s WHERE user_id = %s AND id = %s"
            self.run(side, text, *self.projects[other % len(self.projects)], *build)

    @rule(side=sides, pick=picks)
    def log(self, side: int, pick: int) -> None:
        if build := self.some_build(side, pick):
            self.run(side, "UPDATE builds SET log_bytes = log_bytes + 1 WHERE user_id = %s AND id = %s", *build)

    @rule(side=sides, pick=picks)
    def delete(self, side: int, pick: int) -> None:
        if build := self.some_build(side, pick):
            self.run(side, "DELETE FROM builds WHERE user_id = %s AND id = %s", *build)

    @rule(side=sides)
    def delete_the_newest(self, side: int) -> None:
        self.run(side, "DELETE FROM builds WHERE created_at = (SELECT max(created_at) FROM builds)")

    @rule(side=sides, age=ages)
    def clean_up(self, side: int, age: str) -> None:
        self.run(side, "DELETE FROM builds WHERE created_at < now() - %s::interval", age)

    @rule(side=sides, pick=picks)
    def delete_a_project(self, side: int, pick: int) -> None:
        self.run(side, "DELETE FROM projects WHERE user_id = %s AND id = %s", *self.projects[pick % len(self.projects)])

    @rule(side=sides, pick=picks)
    def delete_a_user(self, side: int, pick: int) -> None:
        if pick % 4 == 0:
            self.run(side, "DELETE FROM users WHERE id = %s", self.users[pick % 2].id)

    @rule(side=sides, pick=picks)
    def truncate(self, side: int, pick: int) -> None:
        if pick % 8 == 0:
            self.run(side, "TRUNCATE builds CASCADE")

    @rule(side=sides)
    def fold(self, side: int) -> None:
        # As maintenance does, of as few rows as there are.
        self.run(
            side,
            """SELECT build_tally_fold(user_id, project_id, hour)
               FROM (SELECT DISTINCT user_id, project_id, hour FROM build_tallies) AS k""",
        )

    @invariant()
    def counts_are_a_recount(self) -> None:
        if not hasattr(self, "projects"):
            return
        # What everybody sees, and what a transaction sees that is not over.
        for connection in (self.observer, *self.sides):
            with connection.cursor() as cursor:
                try:
                    seen = [cursor.execute(text).fetchall() for text in (HEALTH, RECOUNTED, SUMMARY, USERS_RECOUNTED)]
                except BLOCKED:
                    # Another transaction has truncated the table.
                    connection.execute("ROLLBACK")
                    return
            assert seen[0] == seen[1]
            assert seen[2] == seen[3]
        for user in self.users:
            assert self.atlas.builds.verify(user) == []


def test_counters_are_always_a_recount(dsn: str) -> None:
    with Atlas.open(dsn) as atlas, psycopg.connect(dsn, autocommit=True) as raw:
        raw.execute("SET lock_timeout = '40ms'")
        # Rows are added up more often than elsewhere.
        (text,) = raw.execute("SELECT pg_get_functiondef('tally_builds'::regproc)").fetchone() or ("",)
        assert "random() < 0.125" in text
        raw.execute(text.replace("random() < 0.125", "random() < 0.5"))
        machine = type("Machine", (TallyMachine,), {"dsn": dsn, "atlas": atlas, "observer": raw})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES or 20,
                stateful_step_count=30,
                deadline=None,
                derandomize=not EXAMPLES,
                database=None,
                report_multiple_bugs=False,
                phases=tuple(Phase) if EXAMPLES else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
        left = raw.execute("SELECT count(*) FROM build_tallies WHERE user_id NOT IN (SELECT id FROM users)").fetchone()
    assert left == (0,)
