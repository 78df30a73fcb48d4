"""Things that the tenants of a database share besides its tables: large objects, locks, channels, temporary tables."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from attacks import Attack
from psycopg.sql import SQL, Identifier

from atlas_sdk import Atlas
from atlas_sdk._sql import statements

pytestmark = pytest.mark.every_server

DENIED = "42501"

LARGE_OBJECTS = [
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_get(4711)",
    "SELECT lo_get(4711, 0, 9)",
    "SELECT lo_put(4711, 0, 'x')",
    "SELECT lo_open(4711, 131072)",
    "SELECT loread(0, 9)",
    "SELECT lowrite(0, 'x')",
    "SELECT lo_truncate(0, 0)",
    "SELECT lo_lseek(0, 0, 0)",
    "SELECT lo_unlink(4711)",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(4711, '/tmp/x')",
]


def test_has_no_large_objects(attack: Attack) -> None:
    """All tenants act as the same role, so each could read the large objects of another."""
    attack.owner.execute("SELECT lo_from_bytea(4711, 'of the platform')")
    try:
        for query in LARGE_OBJECTS:
            assert attack.sql(query) == DENIED, query
        functions = attack.owner.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
            " AND proname ~ '^(lo_|loread$|lowrite$)' AND has_function_privilege('atlas_app', oid, 'EXECUTE')"
        ).fetchall()
        assert functions == []
        assert attack.sql("SELECT data FROM pg_largeobject") == DENIED
    finally:
        attack.owner.execute("SELECT lo_unlink(4711)")


def test_takes_no_advisory_lock(attack: Attack) -> None:
    functions = attack.owner.execute(
        "SELECT p.proname, p.pronargs, p.proargtypes[0] = 'int8'::regtype FROM pg_proc AS p"
        " WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^pg_(try_)?advisory_'"
    ).fetchall()
    assert len(functions) > 15
    for name, arguments, is_long in functions:
        given = ", ".join(["1" if is_long else "1::int4"] * arguments)
        assert attack.sql(f"SELECT {name}({given})") == DENIED, name


def test_no_lock_of_ours_is_advisory(attack: Attack) -> None:
    """On a managed server nobody can revoke the lock functions, so a tenant can take any advisory lock."""
    texts = attack.owner.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosrc ~ 'advisory'"
    ).fetchall()
    assert texts == []
    attack.tried += 1


def test_a_lock_in_the_victims_name_stalls_nothing(attack: Attack) -> None:
    """Everybody may take advisory locks. A put under a hard limit, maintenance and migrations still go on."""
    victim = attack.victim
    attack.atlas.quotas.set_limits(victim.user, memory_bytes=10**9, memory_hard=True)
    for kind in ("pg_advisory_lock(bigint)", "pg_advisory_unlock_all()"):
        attack.owner.execute(SQL("GRANT EXECUTE ON FUNCTION {} TO atlas_app").format(SQL(kind)))
    try:
        keys = [4152413917, f"hashtextextended('{victim.user.id}', 0)", "hashtextextended('atlas.maintenance', 0)"]
        for key in keys:
            attack.app.execute(SQL("SELECT pg_advisory_lock({})").format(SQL(str(key))))
            attack.tried += 1
        # With this limit a wait for a lock fails.
        with Atlas.open(attack.atlas.url, lock_timeout_s=2) as impatient:
            assert impatient.memory.snapshot(victim.project, "CLAUDE.md", b"# another\n") is not None
            impatient.maintenance.purge_sessions()
        with psycopg.connect(attack.atlas.url) as connection:
            connection.execute("SET lock_timeout = '2s'")
            connection.execute(statements("maintenance")["lock"].text)
            connection.execute(statements("schema")["lock_version"].text)
            connection.rollback()
        attack.app.execute("SELECT pg_advisory_unlock_all()")
        attack.app.rollback()
    finally:
        for kind in ("pg_advisory_lock(bigint)", "pg_advisory_unlock_all()"):
            attack.owner.execute(SQL("REVOKE EXECUTE ON FUNCTION {} FROM atlas_app").format(SQL(kind)))
    attack.before = _now(attack)


def _now(attack: Attack) -> str:
    from tenants import everything_of

    return everything_of(attack.owner, attack.victim.user.id)


def test_locks_no_table_of_the_platform(attack: Attack) -> None:
    """A tenant can lock the tables that it may change, as docs/isolation.md says, and no other table."""
    may_lock = {"claims", "sessions", "projects", "builds", "build_logs", "previews", "preview_ports"}
    may_lock |= {"memory_blobs", "memory_files", "restores"}
    tables = attack.owner.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    ).fetchall()
    locked = {
        name
        for (name,) in tables
        for mode in ("SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE")
        if attack.sql(SQL("LOCK TABLE {} IN {} MODE NOWAIT").format(Identifier(name), SQL(mode))) != DENIED
    }
    assert locked == may_lock


def test_reaches_no_channel_of_another(attack: Attack) -> None:
    tenant = attack.atlas.as_user(attack.attacker.user)
    theirs = attack.victim.user.id
    with psycopg.connect(attack.atlas.url, autocommit=True) as connection:
        for channel in ("builds", f"{theirs}:builds"):
            connection.execute(SQL("LISTEN {}").format(Identifier(channel)))
        for channel in ("builds", f"{theirs}"[:26], f"{theirs}:b"[:26], "*", "%", f"../{theirs}"[:26]):
            attack.tried += 1
            tenant.notify(channel, "forged")
            with tenant.transaction() as tx:
                tx.notify(channel, "forged")
        # A notification that was sent before this one would arrive before it.
        attack.atlas.notify("builds", "real")
        heard = [(note.channel, note.payload) for note in connection.notifies(timeout=20, stop_after=1)]
    assert heard == [("builds", "real")]


def test_makes_nothing_temporary_in_a_closed_database(attack: Attack) -> None:
    """`atlasctl db init` and the migrations of the embedded database revoke TEMPORARY in the same way."""
    name = Identifier(attack.owner.info.dbname)
    attack.owner.execute(SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(name))
    try:
        for command in (
            "CREATE TEMP TABLE events (i int)",
            "CREATE TEMP VIEW events AS SELECT 1",
            "CREATE TEMP SEQUENCE events",
            "CREATE TYPE pg_temp.dollars AS (i int)",
            "CREATE DOMAIN pg_temp.dollars AS int",
            "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE OPERATOR pg_temp.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = uuid_eq)",
            'CREATE COLLATION pg_temp.c FROM "C"',
            "SELECT 1 AS i INTO TEMP events",
            "CREATE CAST (uuid AS int4) WITH INOUT",
        ):
            answer = attack.sql(command)
            assert answer == DENIED, (command, answer)
    finally:
        attack.owner.execute(SQL("GRANT TEMPORARY ON DATABASE {} TO PUBLIC").format(name))


def test_a_migrated_database_of_ones_own_is_closed(attack: Attack, empty_dsn: str) -> None:
    with Atlas.open(empty_dsn, migrate=True):
        pass
    attack.tried += 1
    with psycopg.connect(empty_dsn) as connection:
        found: Any = connection.execute(
            "SELECT has_database_privilege('public', current_database(), 'TEMPORARY'), current_setting('search_path'),"
            " has_function_privilege('public', 'lo_create(oid)', 'EXECUTE')"
        ).fetchone()
    assert found == (False, "public, pg_temp", False)
    assert re.fullmatch("public, pg_temp", found[1])
