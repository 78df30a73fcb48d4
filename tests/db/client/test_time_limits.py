"""Limits on the time of a statement and of a wait for a lock: set on each connection, with one class of error."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from client_adapter import AwaitedClient, Open

from atlas_sdk import Atlas, DatabaseUnreachable, InvalidInput, TimedOut, User


@pytest.fixture
def locked(dsn: str, atlas: Atlas) -> Any:
    """Yield a user whose row another transaction has locked."""
    user = atlas.users.create("ada@example.com", name="Ada")
    with psycopg.connect(dsn) as other:
        other.execute("SELECT 1 FROM users WHERE id = %s FOR UPDATE", (user.id,))
        yield user
        other.rollback()


@pytest.mark.every_server
@pytest.mark.parametrize(
    ("option", "limit"), [("statement_timeout_s", "statement"), ("lock_timeout_s", "lock")], ids=["statement", "lock"]
)
def test_a_limit_ends_a_statement_and_keeps_nothing(
    open_client: Open, dsn: str, locked: User, option: str, limit: str
) -> None:
    client = open_client(dsn, **{option: 0.05})
    with pytest.raises(TimedOut, match=limit) as failure:
        client.users.update(locked, name="Grace")
    assert failure.value.limit == limit
    assert failure.value.sqlstate == {"statement": "57014", "lock": "55P03"}[limit]
    assert not failure.value.repeatable
    assert client.users.get(locked.id).name == "Ada"


def test_limits_hold_in_transactions(open_client: Open, dsn: str, locked: User) -> None:
    client = open_client(dsn, lock_timeout_s=0.05)
    with client.transaction() as tx:
        with pytest.raises(TimedOut):
            tx.users.update(locked, name="Grace")
        tx.events.log("went.on", user=locked)
    assert [event.type for event in client.events.recent(locked, limit=1)] == ["went.on"]


def test_an_idle_transaction_is_ended(open_client: Open, dsn: str, migrated: psycopg.Connection[Any]) -> None:
    client = open_client(dsn, idle_in_transaction_timeout_s=0.05)
    user = client.users.create("ada@example.com")
    with pytest.raises((TimedOut, DatabaseUnreachable)) as failure, client.transaction() as tx:
        tx.users.update(user, name="Grace")
        # Wait until the server has ended the idle transaction.
        while migrated.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
        ).fetchone() != (0,):
            pass
        tx.users.update(user, name="Joan")
    # If the operating system drops the server's last message, the error is DatabaseUnreachable.
    assert getattr(failure.value, "limit", "idle") == "idle"
    assert client.users.get(user.id).name == ""


def test_every_connection_has_the_limits(open_client: Open, dsn: str, migrated: psycopg.Connection[Any]) -> None:
    client = open_client(dsn, statement_timeout_s=1.5, lock_timeout_s=2, idle_in_transaction_timeout_s=600)
    with client.transaction() as first, client.transaction() as second:
        for each in (first, second):
            connection = each.users._runner.connection
            asked = connection.execute(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), "
                "current_setting('idle_in_transaction_session_timeout')"
            )
            found = client._adapter.do(asked) if isinstance(client, AwaitedClient) else asked
            row = found.fetchone()
            found = client._adapter.do(row) if isinstance(client, AwaitedClient) else row
            assert found == ("1500ms", "2s", "10min")


def test_without_options_the_server_decides(open_client: Open, dsn: str, migrated: psycopg.Connection[Any]) -> None:
    """The settings of `ALTER ROLE` or `ALTER DATABASE` apply, which is also the way behind a pooler."""
    name = migrated.info.dbname
    migrated.execute(f"ALTER DATABASE {name} SET lock_timeout = '50ms'")
    client = open_client(dsn)
    user = client.users.create("ada@example.com", name="Ada")
    with psycopg.connect(dsn) as other:
        other.execute("SELECT 1 FROM users WHERE id = %s FOR UPDATE", (user.id,))
        with pytest.raises(TimedOut) as failure:
            client.users.update(user, name="Grace")
        other.rollback()
    assert failure.value.limit == "lock"


@pytest.mark.parametrize("value", [0, -1, 0.0001, 10**9])
def test_a_limit_that_is_none_is_refused(dsn: str, value: float) -> None:
    with pytest.raises(InvalidInput, match="statement_timeout_s is at least"):
        Atlas.open(dsn, statement_timeout_s=value)
