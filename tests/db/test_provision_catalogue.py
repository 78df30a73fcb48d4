"""What the files of the migrations say they make is what a server has after them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from atlas_sdk._sql import statements
from atlas_sdk.provision.grants import tenant_privileges
from atlas_sdk.provision.script import Thing, expected

pytestmark = pytest.mark.every_server


def test_files_and_server_agree_on_every_object(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute(statements("provision")["objects"].text.encode(), {"schema": "public"}).fetchall()
    found = {Thing(kind, name, on_table) for kind, name, on_table, _ in rows}
    found |= {Thing("row security", name) for kind, name, _, is_fit in rows if kind == "table" and is_fit}
    said = expected().things
    assert sorted(map(repr, found - said)) == []
    assert sorted(map(repr, said - found)) == []
    assert all(is_fit for kind, _, _, is_fit in rows if kind != "table")
    assert {"user_usage_summary", "project_health"} <= set(expected().names("view"))


def test_file_and_server_agree_on_what_a_tenant_may(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute("""
        SELECT c.relname, a.privilege_type FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE a.grantee = 'atlas_app'::regrole
        UNION
        SELECT c.relname, a.privilege_type
        FROM pg_attribute AS t JOIN pg_class AS c ON c.oid = t.attrelid, aclexplode(t.attacl) AS a
        WHERE a.grantee = 'atlas_app'::regrole
    """).fetchall()
    assert tenant_privileges() == set(rows)
    assert ("users", "UPDATE") in tenant_privileges()
