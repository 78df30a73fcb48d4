"""The SQL API of quotas, called as any client may call it, with a clock that a test can set."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atlas_sdk._sql import statements

BALANCE = statements("quota_accounting")["verify"].text
USAGE = statements("quota_accounting")["usage"].text
#: Puts a clock that a test can set in front of the real clock of a database.
CLOCK = """
CREATE SCHEMA IF NOT EXISTS test_clock;
CREATE TABLE IF NOT EXISTS test_clock.stopped (at timestamptz NOT NULL);
CREATE OR REPLACE FUNCTION test_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT coalesce((SELECT at FROM test_clock.stopped), pg_catalog.clock_timestamp())
$$;
DO $$ DECLARE api text; BEGIN
    FOR api IN SELECT oid::regprocedure FROM pg_proc WHERE starts_with(proname, 'quota_') AND prokind = 'f'
        AND proconfig::text LIKE '%search_path%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = test_clock, public, pg_catalog', api);
    END LOOP;
END $$;
"""
#: The lifetime of a reservation, long enough for any test.
TTL = timedelta(hours=1)


class QuotaSql:
    """The functions, called on a connection of their own."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def row(self, text: str, *parameters: object) -> Any:
        found = self.connection.execute(text, parameters).fetchone()
        return None if found is None else SimpleNamespace(**found)

    def value(self, text: str, *parameters: object) -> Any:
        (found,) = self.connection.execute(text, parameters).fetchone().values()
        return found

    def user(self, **columns: object) -> uuid.UUID:
        """Make a user with these columns of `user_quotas`; a limit that is not given is no limit."""
        user_id = uuid.uuid4()
        self.connection.execute("INSERT INTO users (id, email) VALUES (%s, %s)", (user_id, f"{user_id}@example.com"))
        limits = dict.fromkeys(("tokens_limit", "cost_limit", "containers_limit", "requests_limit", "builds_limit"))
        self.change(user_id, **{**limits, **columns})
        return user_id

    def change(self, user_id: uuid.UUID, **columns: object) -> None:
        changes = ", ".join(f"{name} = %({name})s" for name in columns)
        self.connection.execute(f"UPDATE user_quotas SET {changes} WHERE user_id = %(u)s", {**columns, "u": user_id})

    def reserve(
        self, user_id: uuid.UUID, tokens: Any = 0, *, key: Any = "new", ttl: Any = TTL, meta: Any = None, **more: Any
    ) -> Any:
        asked = {"min_tokens": None, "cost": 0, "slots": 0, "requests": 0, "builds": 0, "holder": "", **more}
        asked |= {"u": user_id, "id": uuid.uuid4() if key == "new" else key, "tokens": tokens, "ttl": ttl}
        return self.row_of(
            """SELECT *, %(id)s::uuid AS id FROM quota_reserve(%(u)s, %(id)s, %(tokens)s::bigint,
                   %(min_tokens)s::bigint, %(cost)s::numeric, %(slots)s::integer, %(requests)s::integer,
                   %(builds)s::integer, %(ttl)s::interval, %(holder)s, %(meta)s)""",
            {**asked, "meta": None if meta is None else Jsonb(meta)},
        )

    def wait(self, user_id: uuid.UUID, tokens: Any = 0, *, key: Any = "new", wait: timedelta = TTL, **more: Any) -> Any:
        """Ask as a call does that waits for its turn."""
        asked = {"min_tokens": None, "cost": 0, "slots": 0, "requests": 0, "builds": 0, **more, "wait": wait}
        asked |= {"u": user_id, "id": uuid.uuid4() if key == "new" else key, "tokens": tokens, "ttl": TTL}
        return self.row_of(
            """SELECT *, %(id)s::uuid AS id FROM quota_wait(%(u)s, %(id)s, %(tokens)s::bigint,
                   %(min_tokens)s::bigint, %(cost)s::numeric, %(slots)s::integer, %(requests)s::integer,
                   %(builds)s::integer, %(ttl)s::interval, '', NULL, %(wait)s)""",
            asked,
        )

    def leave(self, user_id: uuid.UUID, key: uuid.UUID) -> Any:
        return self.value("SELECT quota_leave(%s, %s)", user_id, key)

    def waiters(self, user_id: uuid.UUID) -> list[uuid.UUID]:
        """Return the ids of the waiting calls in their order, also of dead ones."""
        found = self.connection.execute("SELECT id FROM quota_waiters WHERE user_id = %s ORDER BY number", (user_id,))
        return [row["id"] for row in found]

    def dies(self, key: uuid.UUID, *, after: timedelta = timedelta(seconds=-1)) -> None:
        """Let a waiting call look as if its process had been killed."""
        self.connection.execute(
            "UPDATE quota_waiters SET alive_until = clock_timestamp() + %s WHERE id = %s", (after, key)
        )

    def lease(self, user_id: uuid.UUID, tokens: Any = 0, *, key: Any = "new", ttl: Any = TTL, **more: Any) -> Any:
        """Ask for a block. A minimum that is not given is 0."""
        asked = {"min_tokens": 0, "cost": 0, "min_cost": 0, "requests": 0, "min_requests": 0, "holder": "", **more}
        asked |= {"u": user_id, "id": uuid.uuid4() if key == "new" else key, "tokens": tokens, "ttl": ttl}
        return self.row_of(
            """SELECT *, %(id)s::uuid AS id FROM quota_lease(%(u)s, %(id)s, %(tokens)s::bigint,
                   %(min_tokens)s::bigint, %(cost)s::numeric, %(min_cost)s::numeric, %(requests)s::integer,
                   %(min_requests)s::integer, %(ttl)s::interval, %(holder)s, NULL)""",
            asked,
        )

    def row_of(self, text: str, parameters: dict[str, object]) -> Any:
        found = self.connection.execute(text, parameters).fetchone()
        assert found is not None
        return SimpleNamespace(**found)

    def hit(self, user_id: uuid.UUID, requests: Any = 1) -> Any:
        return self.row("SELECT * FROM quota_hit(%s, %s::integer)", user_id, requests)

    def settle(
        self,
        user_id: uuid.UUID,
        key: uuid.UUID,
        tokens: Any = None,
        cost: Any = None,
        meta: Any = None,
        *,
        requests: Any = None,
    ) -> Any:
        return self.row(
            "SELECT * FROM quota_settle(%s, %s, %s::bigint, %s::numeric, %s::integer, %s)",
            *(user_id, key, tokens, cost, requests, None if meta is None else Jsonb(meta)),
        )

    def release(self, user_id: uuid.UUID, key: uuid.UUID) -> Any:
        return self.row("SELECT * FROM quota_release(%s, %s)", user_id, key)

    def extend(self, user_id: uuid.UUID, key: uuid.UUID, tokens: Any = 0, cost: Any = 0, ttl: Any = None) -> Any:
        return self.row(
            "SELECT * FROM quota_extend(%s, %s, %s::bigint, %s::numeric, %s::interval)",
            *(user_id, key, tokens, cost, ttl),
        )

    def progress(self, user_id: uuid.UUID, key: uuid.UUID, tokens: Any) -> Any:
        return self.value("SELECT quota_progress(%s, %s, %s::bigint, 0::numeric)", user_id, key, tokens)

    def apply_plan(self, user_id: uuid.UUID) -> None:
        self.connection.execute("SELECT quota_apply_plan(%s)", (user_id,))

    def add(self, user_id: uuid.UUID, tokens: Any, cost: Any = 0, key: Any = None) -> Any:
        return self.row(
            "SELECT * FROM quota_add(%s, %s, %s::bigint, %s::numeric, NULL)", user_id, key or uuid.uuid4(), tokens, cost
        )

    def refund(
        self, user_id: uuid.UUID, charge: uuid.UUID, tokens: Any = None, cost: Any = None, *, key: Any = "new"
    ) -> Any:
        return self.row(
            "SELECT * FROM quota_refund(%s, %s, %s, %s::bigint, %s::numeric, 'a test')",
            *(user_id, uuid.uuid4() if key == "new" else key, charge, tokens, cost),
        )

    def grant(
        self, user_id: uuid.UUID, tokens: Any = 0, cost: Any = 0, *, days: int | None = None, key: Any = "new"
    ) -> uuid.UUID:
        """Grant a top-up for so many days, by default for ever; return its id."""
        grant_id: uuid.UUID = uuid.uuid4() if key == "new" else key
        self.value(
            "SELECT quota_grant(%s, %s, %s::bigint, %s::numeric, clock_timestamp() + %s::interval, 'a test')",
            *(user_id, grant_id, tokens, cost, None if days is None else timedelta(days=days)),
        )
        return grant_id

    def expire_grant(self, user_id: uuid.UUID, grant_id: uuid.UUID) -> None:
        """Set the expiry of a top-up to a second ago. No function has noticed it yet."""
        moved = {"u": user_id, "id": grant_id}
        self.connection.execute(
            "UPDATE quota_grants SET expires_at = clock_timestamp() - interval '1 s'"
            " WHERE user_id = %(u)s AND id = %(id)s",
            moved,
        )
        self.connection.execute(
            "UPDATE user_quotas SET grants_expire_at = (SELECT min(expires_at) FROM quota_grants"
            " WHERE user_id = %(u)s AND closed_at IS NULL) WHERE user_id = %(u)s",
            moved,
        )

    def grants(self, user_id: uuid.UUID) -> dict[uuid.UUID, Any]:
        found = self.connection.execute("SELECT * FROM quota_grants WHERE user_id = %s", (user_id,))
        return {row["id"]: SimpleNamespace(**row) for row in found}

    def usage(self, user_id: uuid.UUID) -> Any:
        """Return the usage, by a statement that changes nothing."""
        return self.row_of(USAGE, {"user_id": user_id})

    @contextmanager
    def own_clock(self) -> Iterator[None]:
        """Let the functions of this database use a clock that can be set."""
        self.connection.execute(CLOCK)
        try:
            yield
        finally:
            self.set_clock(None)

    def set_clock(self, at: datetime | None) -> None:
        """Stop the clock at a moment; None returns to the real clock."""
        self.connection.execute("DELETE FROM test_clock.stopped")
        if at is not None:
            self.connection.execute("INSERT INTO test_clock.stopped (at) VALUES (%s)", (at,))

    def expire(self, key: uuid.UUID) -> None:
        self.connection.execute(
            "UPDATE quota_reservations SET expires_at = now() - interval '1 s' WHERE id = %s", (key,)
        )

    def end_period(self, user_id: uuid.UUID, days: int = 40) -> None:
        """Move everything of this user so many days into the past. With 40 days, the period is over."""
        moved = {"days": timedelta(days=days), "u": user_id}
        for text in (
            """UPDATE user_quotas SET period_anchor = period_anchor - %(days)s, period_start = period_start - %(days)s,
               period_end = period_end - %(days)s WHERE user_id = %(u)s""",
            "UPDATE quota_reservations SET period_start = period_start - %(days)s WHERE user_id = %(u)s",
            "UPDATE usage_ledger SET period_start = period_start - %(days)s WHERE user_id = %(u)s",
            "UPDATE quota_history SET period_start = period_start - %(days)s WHERE user_id = %(u)s",
        ):
            self.connection.execute(text, moved)

    def quota(self, user_id: uuid.UUID) -> Any:
        return self.row("SELECT * FROM user_quotas WHERE user_id = %s", user_id)

    def ledger(self, user_id: uuid.UUID) -> list[tuple[str, int, Decimal]]:
        found = self.connection.execute(
            "SELECT kind, amount, cost FROM usage_ledger WHERE user_id = %s ORDER BY created_at", (user_id,)
        )
        return [(row["kind"], int(row["amount"]), row["cost"]) for row in found]

    def thresholds(self, user_id: uuid.UUID) -> list[tuple[str, int]]:
        found = self.connection.execute(
            "SELECT meta FROM events WHERE user_id = %s AND type = 'quota.threshold' ORDER BY created_at, meta",
            (user_id,),
        )
        return [(row["meta"]["dimension"], row["meta"]["percent"]) for row in found]

    def balance(self, user_id: uuid.UUID) -> None:
        """Check that the used amounts are the sums of the ledger, and the held amounts those of the reservations."""
        (row,) = self.connection.execute(BALANCE, {"user_id": user_id}).fetchall()
        assert row["user_id"] is None, row
        assert row["periods"] >= 1
