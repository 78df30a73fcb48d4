"""A tenant's SQL ran on the platform's own connection and left temporary objects with our names on it."""

from __future__ import annotations

import asyncio
import re
from itertools import product
from typing import Any

import psycopg
import pytest
from attacks import Attack
from psycopg.sql import SQL, Identifier
from test_sdk import DEFAULTS

from atlas_sdk import AsyncAtlas, Atlas, AtlasError
from atlas_sdk._plan import execute
from atlas_sdk._sql import Statement, read_statements, topics

pytestmark = pytest.mark.every_server

#: The SQLSTATE that the attacker's function raises, so that every call of it is noticed.
CALLED = "EV001"
EVIL = """
CREATE FUNCTION pg_temp.evil() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'called as %', current_user USING ERRCODE = 'EV001';
END
$$;
CREATE FUNCTION pg_temp.evil_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.evil();
    RETURN NEW;
END
$$
"""
#: Catalogues that our statements read.
CATALOGUES = (
    "pg_class",
    "pg_namespace",
    "pg_proc",
    "pg_roles",
    "pg_database",
    "pg_settings",
    "pg_attribute",
    "pg_type",
)
#: Operators and casts of a temporary type: PostgreSQL finds an operator by the search_path, a cast by its types.
OPERATORS = """
CREATE DOMAIN pg_temp.dollars AS numeric CHECK (pg_temp.evil());
CREATE DOMAIN pg_temp.whole AS integer CHECK (pg_temp.evil());
CREATE DOMAIN pg_temp.json_map AS jsonb CHECK (pg_temp.evil());
CREATE TYPE pg_temp.quota_ring AS (cells pg_temp.whole);
CREATE TYPE pg_temp.disguise AS ENUM ('a');
CREATE FUNCTION pg_temp.same(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT pg_temp.evil()';
CREATE FUNCTION pg_temp.less(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT pg_temp.evil()';
CREATE FUNCTION pg_temp.cast_it(pg_temp.disguise) RETURNS text LANGUAGE sql AS 'SELECT pg_temp.evil()::text';
CREATE OPERATOR pg_temp.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = pg_temp.same);
CREATE OPERATOR pg_temp.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = pg_temp.less);
CREATE CAST (pg_temp.disguise AS text) WITH FUNCTION pg_temp.cast_it(pg_temp.disguise) AS IMPLICIT
"""


def disguise(attack: Attack, connection: psycopg.Connection[Any]) -> int:
    """Make a temporary view for each of our tables and views, and a function for each of our functions.

    Return the number of objects. Reading or writing such a view calls the attacker's function. A trigger on a table
    would not see reads.
    """
    relations = attack.owner.execute(
        "SELECT c.relname, array_agg(format('NULL::%%s AS %%I', format_type(a.atttypid, a.atttypmod), a.attname)"
        " ORDER BY a.attnum)"
        " FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " AND a.atttypid <> 'anyarray'::regtype"
        " WHERE (c.relnamespace = 'public'::regnamespace OR c.oid = ANY (%s::regclass[]))"
        " AND c.relkind IN ('r', 'p', 'v') GROUP BY c.oid, c.relname",
        (list(CATALOGUES),),
    ).fetchall()
    functions = attack.owner.execute(
        "SELECT DISTINCT ON (p.proname) p.proname, pg_get_function_identity_arguments(p.oid) FROM pg_proc AS p"
        " WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f'"
        " AND pg_get_function_identity_arguments(p.oid) !~ 'OUT|TABLE'"
    ).fetchall()
    connection.execute("SET LOCAL ROLE atlas_app")
    connection.execute(EVIL)
    for name, columns in relations:
        view = SQL("pg_temp.{}").format(Identifier(name))
        connection.execute(
            SQL("CREATE TEMP VIEW {} AS SELECT {} WHERE pg_temp.evil()").format(
                Identifier(name), SQL(", ").join(SQL(column) for column in columns)
            )
        )
        connection.execute(
            SQL(
                "CREATE TRIGGER t INSTEAD OF INSERT OR UPDATE OR DELETE ON {}"
                " FOR EACH ROW EXECUTE FUNCTION pg_temp.evil_trigger()"
            ).format(view)
        )
    for name, arguments in functions:
        connection.execute(
            SQL("CREATE FUNCTION pg_temp.{} ({}) RETURNS boolean LANGUAGE plpgsql AS {}").format(
                Identifier(name), SQL(arguments), "BEGIN RETURN pg_temp.evil(); END"
            )
        )
    connection.execute(OPERATORS)
    connection.commit()
    return len(relations) + len(functions)


def test_a_trigger_on_a_table_named_like_the_audit_does_not_run(attack: Attack, dsn: str) -> None:
    """The trigger would run in the platform's next operation, with the owner's rights."""
    user = attack.attacker.user
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL ROLE atlas_app")
        connection.execute(EVIL)
        for table in ("events", "claims", "projects", "memory_files", "user_quotas"):
            name = Identifier(table)
            connection.execute(SQL("CREATE TEMP TABLE {} (LIKE public.{} INCLUDING DEFAULTS)").format(name, name))
            made = "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON pg_temp.{} FOR EACH ROW EXECUTE FUNCTION {}"
            connection.execute(SQL(made).format(name, SQL("pg_temp.evil_trigger()")))
        connection.commit()
        joined = attack.atlas.join(connection)
        joined.users.set_plan(user, "enterprise")
        joined.projects.create(user, path="/srv/another")
        joined.memory.snapshot(attack.attacker.project, "CLAUDE.md", b"# another\n")
        for table in ("events", "claims", "projects", "memory_files", "user_quotas"):
            attack.tried += 1
            assert connection.execute(SQL("SELECT FROM pg_temp.{}").format(Identifier(table))).rowcount == 0, table
        connection.commit()
    assert [event.type for event in attack.atlas.events.search(user, event_type="user.plan_changed")]
    assert attack.atlas.users.get(user.id).plan == "enterprise"


def every_statement() -> list[Statement]:
    return [statement for topic in topics() for statement in read_statements(topic).values() if not statement.commits]


def test_no_statement_takes_temporary_objects_for_ours(attack: Attack, dsn: str) -> None:
    """A tenant left temporary objects for all our names on a connection. Every statement of the SDK runs on it."""
    with psycopg.connect(dsn) as connection:
        assert disguise(attack, connection) > 60
        # A statement of another program would use the temporary objects here.
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("SELECT id FROM users")
        assert caught.value.sqlstate == CALLED
        connection.rollback()
        answered = 0
        for statement in every_statement():
            names = set(re.findall(r"%\((\w+)\)s", statement.text))
            parameters = {name: attack.attacker.known.get(name, DEFAULTS.get(name)) for name in names}
            attack.tried += 1
            told = ""
            try:
                attack.atlas.join(connection).users._runner.run(execute(statement, **parameters))
                answered += 1
            except AtlasError as error:
                told = str(error)
            assert CALLED not in told, (statement.name, told)
            connection.rollback()
        assert answered > 150, answered


OWN_PATHS = ['"$user", public', "pg_temp, public", "public, pg_temp, pg_catalog", "pg_catalog, public"]


def test_a_caller_keeps_its_own_search_path(attack: Attack, dsn: str) -> None:
    user = attack.attacker.user
    with psycopg.connect(dsn) as connection:
        disguise(attack, connection)
        for number, (command, path) in enumerate(product(["SET", "SET LOCAL"], OWN_PATHS)):
            connection.execute(SQL(f"{command} search_path = {path}"))
            joined = attack.atlas.join(connection)
            joined.users.update(user, name=f"renamed {number}")
            assert connection.execute("SHOW search_path").fetchone() == (path,)
            with pytest.raises(AtlasError):
                joined.projects.create(user, path=attack.attacker.project.path)
            assert connection.execute("SHOW search_path").fetchone() == (path,)
            connection.commit()
            kept = path if command == "SET" else OWN_PATHS[-1]
            assert connection.execute("SHOW search_path").fetchone() == (kept,)
            assert attack.atlas.users.get(user.id).name == f"renamed {number}"
            attack.tried += 2


def test_an_asyncio_caller_is_shielded_the_same(attack: Attack, dsn: str) -> None:
    user = attack.attacker.user

    async def act() -> None:
        async with AsyncAtlas.open(dsn) as client, await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute("SET LOCAL ROLE atlas_app")
            await connection.execute(EVIL)
            await connection.execute("CREATE TEMP TABLE events (LIKE public.events INCLUDING DEFAULTS)")
            await connection.execute(
                "CREATE TRIGGER t BEFORE INSERT ON pg_temp.events FOR EACH ROW EXECUTE FUNCTION pg_temp.evil_trigger()"
            )
            await connection.commit()
            await client.join(connection).users.set_plan(user, "enterprise")
            found = await (await connection.execute("SHOW search_path")).fetchone()
            assert found == ('"$user", public',)
            await connection.commit()

    asyncio.run(act())
    attack.tried += 1
    assert attack.atlas.events.search(user, event_type="user.plan_changed")


def test_a_disguise_is_not_met_by_the_clients_own_connections(attack: Attack, dsn: str) -> None:
    """Every connection of a pool has our search_path, even if the login or the database has another one."""
    with Atlas.open(dsn + "&options=-csearch_path%3Dpg_temp,public") as client:
        assert client.users.get(attack.attacker.user.id).id == attack.attacker.user.id
        with client._view._pool._pool.connection() as connection:
            assert connection.execute("SHOW search_path").fetchone() == ("public, pg_temp",)
        tenant = client.as_user(attack.attacker.user)
        with tenant.transaction() as tx:
            assert tx.projects.list(attack.attacker.user)
    attack.tried += 1
