"""Dumps for the tests of backups, and functions to look at a loaded database."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psycopg

from atlas_sdk.backups import programs


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "projects")


def vacant(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def functions_and_more(dsn: str) -> list[Any]:
    """Return the functions, triggers, constraints, indexes, policies, views and columns of the schema, to compare."""
    with psycopg.connect(dsn) as connection:
        return connection.execute("""
            SELECT 'function', p.oid::regprocedure::text, prosrc || proconfig::text || prosecdef FROM pg_proc p
            WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT 'constraint', conname,
                             -- A nested AND comes back flat.
                             translate(pg_get_constraintdef(oid), '()', '') FROM pg_constraint
                      WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
            UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT 'policy', tablename || policyname, coalesce(qual, '') || coalesce(with_check, '')
                      FROM pg_policies
            UNION ALL SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = 'public'
            UNION ALL SELECT 'security', relname, relrowsecurity::text || coalesce(reloptions::text, '') FROM pg_class
                      WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
            UNION ALL SELECT 'column', attrelid::regclass || '.' || attname,
                             attstorage::text || format_type(atttypid, atttypmod) || attnotnull FROM pg_attribute
                      WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
                        AND attnum > 0
            ORDER BY 1, 2, 3
        """).fetchall()


def by_hand(dsn: str, program: Path | None = None) -> bytes:
    """Return a dump made by pg_dump alone, without this package."""
    program = program or programs.newest("pg_dump", at_least=18)
    return subprocess.run([program, "--format=custom", "--dbname", dsn], capture_output=True, check=True).stdout
