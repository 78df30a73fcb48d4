"""Clients behind PgBouncer notice it, and everything works in transaction mode."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from client_adapter import Adapter, Open
from patience import PATIENCE_S
from tls_servers import until

from atlas_sdk import Atlas, DatabaseUnreachable, InvalidInput, QuotaExceeded

pytestmark = pytest.mark.parametrize("server", ["system"], indirect=True)


def uses_prepared(client: Any) -> bool:
    """Return whether a client's connections use prepared statements."""
    pool = client._view._pool
    kinds = {each.prepare_threshold for each in pool._pool._pool}
    assert len(kinds) == 1, kinds
    return kinds != {None}


@pytest.mark.parametrize("mode", ["none", "transaction", "session"])
def test_a_pooler_is_noticed(open_client: Open, dsn: str, pgbouncer: Callable[..., str], mode: str) -> None:
    client = open_client(dsn if mode == "none" else pgbouncer(mode))
    health = client.health()
    assert health.ok
    assert health.pooler == mode
    assert uses_prepared(client) is (mode == "none")


def test_a_pooler_is_noticed_however_few_connections_it_has(open_client: Open, pgbouncer: Callable[..., str]) -> None:
    assert open_client(pgbouncer("transaction", pool_size=1)).health().pooler == "transaction"


def test_session_mode_with_one_connection_is_told_from_transaction_mode(
    open_client: Open, pgbouncer: Callable[..., str]
) -> None:
    client = open_client(pgbouncer("session", pool_size=1), connect_timeout_s=1, pool_max=1)
    assert client.health().pooler == "session"


def test_statement_mode_is_refused(open_client: Open, pgbouncer: Callable[..., str]) -> None:
    with pytest.raises(InvalidInput, match="pool_mode = transaction"):
        open_client(pgbouncer("statement"))


def test_prepared_statements_can_be_turned_off(open_client: Open, dsn: str) -> None:
    assert not uses_prepared(open_client(dsn, prepare_statements=False))


@pytest.mark.parametrize("option", ["statement_timeout_s", "lock_timeout_s", "idle_in_transaction_timeout_s"])
def test_time_limits_are_refused_where_they_would_stay_for_others(
    open_client: Open, pgbouncer: Callable[..., str], option: str
) -> None:
    with pytest.raises(InvalidInput, match="ALTER ROLE"):
        open_client(pgbouncer("transaction"), **{option: 5.0})


def test_time_limits_work_in_session_mode(open_client: Open, pgbouncer: Callable[..., str]) -> None:
    assert open_client(pgbouncer("session"), statement_timeout_s=5.0).health().ok


def test_listening_is_refused_and_notifying_works(open_client: Open, pgbouncer: Callable[..., str], dsn: str) -> None:
    client = open_client(pgbouncer("transaction"))
    with pytest.raises(InvalidInput, match="transaction mode"), client.listen("builds"):
        raise AssertionError("nothing would ever be heard")
    with Atlas.open(dsn) as direct, direct.listen("builds") as notifications:
        client.notify("builds", "7")
        assert notifications.get(timeout_s=PATIENCE_S).payload == "7"


def test_waiting_calls_poll(open_client: Open, pgbouncer: Callable[..., str], dsn: str) -> None:
    client = open_client(pgbouncer("transaction"))
    adapter = client._adapter if hasattr(client, "_adapter") else Adapter("blocking")
    with Atlas.open(dsn) as direct, ThreadPoolExecutor(1) as threads:
        user = direct.users.create("ada@example.com")
        direct.quotas.set_limits(user, tokens=100)
        held = direct.quotas.reserve(user, tokens=100)

        def release() -> None:
            until(lambda: direct.quotas.usage(user).waiting == 1, what="the call")
            direct.quotas.release(user, held.id)

        done = threads.submit(release)
        with adapter.entered(client.quotas.guard(user, tokens=100, wait=timedelta(seconds=PATIENCE_S))):
            assert client._view.wakeups._connection is None, "nothing would ever be heard"
        done.result()


def test_listening_works_in_session_mode(open_client: Open, pgbouncer: Callable[..., str]) -> None:
    client = open_client(pgbouncer("session", pool_size=5))
    with client.listen("builds") as notifications:
        client.notify("builds", "7")
        assert notifications.get(timeout_s=PATIENCE_S).payload == "7"


def test_everything_works_behind_a_pooler_in_transaction_mode(
    open_client: Open, pgbouncer: Callable[..., str], folder: Path
) -> None:
    """Two clients share two connections to the server, so each statement may run on either connection."""
    url = pgbouncer("transaction", pool_size=2)
    client, other = open_client(url), open_client(url)
    user = client.users.create("ada@example.com", plan="pro")
    project = client.projects.create(user, path=folder)
    for number in range(6):
        turn = (client, other)[number % 2]
        assert turn.memory.snapshot(project, "CLAUDE.md", b"version %d" % number).seq == number + 1
    client.memory.checkpoint(project, "before")
    assert other.memory.read(project, "CLAUDE.md", "before") == b"version 5"
    # `reserve` calls a procedure that commits by itself.
    client.quotas.set_limits(user, tokens=1000)
    held = other.quotas.reserve(user, tokens=600)
    with pytest.raises(QuotaExceeded):
        client.quotas.reserve(user, tokens=600)
    client.quotas.settle(user, held.id, tokens=100)
    assert other.quotas.hit(user).limit is not None
    assert other.quotas.usage(user).tokens_used == 100
    build = client.builds.create(project)
    other.builds.start(build)
    other.builds.append_log(build, "compiled\n")
    client.builds.succeed(build)
    assert other.builds.get(user, build.id).status == "succeeded"
    with pytest.raises(RuntimeError), client.transaction() as tx:
        tx.events.log("is.gone", user=user)
        raise RuntimeError
    with client.transaction() as tx:
        tx.events.log("is.there", user=user)
    assert "is.there" in {event.type for event in other.events.recent(user)}
    assert "is.gone" not in {event.type for event in other.events.recent(user)}
    assert [found.id for found in other.projects.list(user)] == [project.id]


def test_migrations_run_through_a_pooler(pgbouncer: Callable[..., str], empty_dsn: str) -> None:
    name = empty_dsn.partition("?")[0].rsplit("/", 1)[1]
    url = f"{pgbouncer('transaction').rsplit('/', 1)[0]}/{name}"
    with Atlas.open(url, migrate=True) as client:
        assert client.schema.status()


def test_a_pooler_without_its_server_is_one_clear_sentence(pgbouncer: Callable[..., str]) -> None:
    url = f"{pgbouncer('transaction').rsplit('/', 1)[0]}/nothing_here"
    with pytest.raises(DatabaseUnreachable):
        Atlas.open(url)


#: Objects that a tenant's SQL leaves on the platform's connection. Reading users or writing events calls its function.
_LEFT = """
SET LOCAL ROLE atlas_app;
CREATE FUNCTION pg_temp.evil() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'called' ; END $$;
CREATE FUNCTION pg_temp.evil_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_temp.evil(); END $$;
CREATE TEMP VIEW users AS SELECT NULL::uuid AS id, NULL::text AS name WHERE pg_temp.evil();
CREATE TEMP VIEW projects AS SELECT NULL::uuid AS id, NULL::uuid AS user_id WHERE pg_temp.evil();
CREATE TEMP TABLE events (LIKE public.events INCLUDING DEFAULTS);
CREATE TRIGGER t BEFORE INSERT ON pg_temp.events FOR EACH ROW EXECUTE FUNCTION pg_temp.evil_trigger();
CREATE TYPE pg_temp.quota_decision AS (granted boolean);
"""


@pytest.mark.parametrize("setting", ["", "public, pg_temp"], ids=["as it was made", "as db init sets it"])
def test_what_is_left_on_a_shared_connection_is_not_taken_for_ours(
    open_client: Open, pgbouncer: Callable[..., str], dsn: str, setting: str
) -> None:
    """All clients share one connection to the server, on which temporary objects have the names of ours."""
    name = psycopg.sql.Identifier(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(dsn, autocommit=True) as owner:
        if setting:
            owner.execute(
                psycopg.sql.SQL("ALTER DATABASE {} SET search_path = " + setting).format(name),
            )
    url = pgbouncer("transaction", pool_size=1)
    # Open the client first. To detect the pooler's mode, it needs a new connection to the server.
    client = open_client(url)
    with psycopg.connect(url, prepare_threshold=None) as connection:
        connection.execute(_LEFT)
        connection.commit()
        with pytest.raises(psycopg.Error, match="called" if not setting else "no_such_column"):
            connection.execute("SELECT id FROM users" if not setting else "SELECT no_such_column FROM users")
    user = client.users.create("ada@example.com")
    assert client.users.get(user.id) == user
    client.users.set_plan(user, "pro")
    project = client.projects.create(user, path="/srv/app")
    tenant = client.as_user(user)
    assert tenant.projects.list(user) == [project]
    assert tenant.memory.snapshot(project, "CLAUDE.md", b"# one") is not None
    client.quotas.settle(user, client.quotas.reserve(user, tokens=5).id, tokens=5)
    client.quotas.hit(user)
    with client.transaction() as tx:
        assert tx.users.get(user.id).plan == "pro"
    with tenant.transaction() as tx:
        tx.events.log("app.noted", user=user)
    assert {event.type for event in client.events.search(user)} >= {"user.plan_changed", "app.noted"}
    # The client used that connection, and left none of its settings on it.
    with psycopg.connect(url, prepare_threshold=None) as connection:
        assert connection.execute("SELECT to_regclass('pg_temp.events') IS NOT NULL").fetchone() == (True,)
        assert connection.execute("SHOW search_path").fetchone() == (setting or '"$user", public',)
