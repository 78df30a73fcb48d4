"""Migrations: forward only, safe to run at the same time, and with clear errors for a database that is not ours."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from databases import OfServer

from atlas_sdk import Atlas, SchemaMismatch
from atlas_sdk._sql import migrations

pytestmark = pytest.mark.every_server


def test_an_empty_database_is_migrated_when_asked(empty_dsn: str) -> None:
    with pytest.raises(SchemaMismatch, match="no AtlasEngine schema.*migrate=True"):
        Atlas.open(empty_dsn)
    with Atlas.open(empty_dsn, migrate=True) as atlas:
        assert [row.version for row in atlas.schema.status()] == list(range(1, len(migrations()) + 1))
        assert atlas.schema.migrate() == []
    Atlas.open(empty_dsn).close()


def test_schema_version_has_the_promised_columns(migrated: psycopg.Connection) -> None:
    rows = migrated.execute(
        "SELECT version, name, checksum, applied_at FROM schema_version ORDER BY version"
    ).fetchall()
    assert [(row[0], row[1]) for row in rows] == [(m.version, m.name) for m in migrations()]
    assert all(len(row[2]) == 64 and row[3] is not None for row in rows)


def test_many_clients_may_migrate_at_once(empty_dsn: str) -> None:
    def migrate(_: int) -> None:
        Atlas.open(empty_dsn, migrate=True).close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(migrate, range(6)))
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM schema_version").fetchone() == (len(migrations()),)


def test_a_newer_schema_is_left_alone(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO schema_version (version, name, checksum) VALUES (99, 'future', 'x')")
    for migrate in (True, False):
        with pytest.raises(SchemaMismatch, match="upgrade AtlasEngine") as failure:
            Atlas.open(dsn, migrate=migrate)
        assert failure.value.found == len(migrations()) + 1


def test_a_changed_migration_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE schema_version SET checksum = 'other' WHERE version = 2")
    with pytest.raises(SchemaMismatch, match="migration 2"):
        Atlas.open(dsn, migrate=True)


def test_database_of_an_unreleased_version_is_refused_with_what_to_do(dsn: str) -> None:
    """An unreleased version may have had more migrations than this release. That does not make it a newer version."""
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE schema_version SET checksum = 'other'")
        connection.execute("INSERT INTO schema_version SELECT n, 'old', 'x' FROM generate_series(50, 59) AS n")
    for migrate in (True, False):
        with pytest.raises(SchemaMismatch, match="use that version for it, or set up another database"):
            Atlas.open(dsn, migrate=migrate)


def test_a_failing_migration_leaves_nothing_half_done(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("CREATE TABLE previews (in_the_way int)")
    with pytest.raises(Exception, match="already exists"):
        Atlas.open(empty_dsn, migrate=True)
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT max(version) FROM schema_version").fetchone() == (1,)
        assert connection.execute("SELECT to_regclass('projects')").fetchone() == (None,)


def test_database_with_tables_of_another_role_is_not_closed_by_a_migration(databases: OfServer, server: str) -> None:
    """Another application may need temporary tables and advisory locks, so only `db init` revokes them there."""
    with databases(server).made(template="template1") as dsn, role_of_test(dsn) as shop:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA shop AUTHORIZATION {shop}")
            connection.execute(f"SET ROLE {shop}")
            connection.execute("CREATE TABLE shop.orders (id integer)")
        Atlas.open(dsn, migrate=True).close()
        assert may(dsn, shop) == (True, True)


def test_database_of_its_own_is_closed_by_the_migrations(empty_dsn: str) -> None:
    with role_of_test(empty_dsn) as other:
        assert may(empty_dsn, other) == (True, True)
        Atlas.open(empty_dsn, migrate=True).close()
        assert may(empty_dsn, other) == (False, False)


@contextmanager
def role_of_test(dsn: str) -> Iterator[str]:
    """Make a role without rights of its own; drop it and its objects at the end."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name}")
        yield name
        connection.execute(f"DROP OWNED BY {name} CASCADE")
        connection.execute(f"DROP ROLE {name}")


def may(dsn: str, role: str) -> tuple[bool, bool]:
    """Return whether a role may make temporary tables, and whether it may take advisory locks."""
    question = """
        SELECT has_database_privilege(%(role)s, current_database(), 'TEMPORARY'),
               has_function_privilege(%(role)s, 'pg_advisory_lock(bigint)', 'EXECUTE')
    """
    with psycopg.connect(dsn) as connection:
        found = connection.execute(question, {"role": role}).fetchone()
    assert found is not None
    return found
