"""What the files of the migrations say they make is what a server has after them."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from atlas_sdk._sql import statements
from atlas_sdk.provision.definitions import PolicyRule, function_rights, invoker_views, policy_rules, same_rule
from atlas_sdk.provision.grants import tenant_privileges, tenant_rights
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


def test_file_and_server_agree_on_the_columns_a_tenant_may_use(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute("""
        SELECT c.relname, a.privilege_type, t.attname
        FROM pg_attribute AS t JOIN pg_class AS c ON c.oid = t.attrelid, aclexplode(t.attacl) AS a
        WHERE a.grantee = 'atlas_app'::regrole
    """).fetchall()
    listed = {key: columns for key, columns in tenant_rights().items() if columns is not None}
    assert {(*key, column) for key, columns in listed.items() for column in columns} == set(rows)


def test_grants_are_taken_back_on_all_our_own_tables_and_views(migrated: psycopg.Connection[Any]) -> None:
    """A new one belongs into that list."""
    (text,) = (thing.text for thing in expected().things if thing.name == "grant_atlas_roles")
    listed = re.search(r"ours constant text\[\] := ARRAY\[(.*?)\]", text, re.DOTALL)
    assert listed is not None
    assert sorted(re.findall(r"'(\w+)'", listed[1])) == expected().names("table", "view")


def test_file_and_server_agree_on_functions(migrated: psycopg.Connection[Any]) -> None:
    sql, names = statements("doctor"), expected().names("function")
    rows = migrated.execute(sql["functions"].text.encode(), {"schema": "public", "names": names}).fetchall()
    found = {name: (is_definer, is_pinned) for name, is_definer, is_pinned, *_ in rows}
    said = {name: (one.is_definer, one.is_pinned) for name, one in function_rights().items()}
    assert found == said
    assert said["quota_settle"] == (True, True)
    # One of a name: what is missing is found by it.
    assert len(rows) == len(found)


def test_file_and_server_agree_on_policies_and_views(migrated: psycopg.Connection[Any]) -> None:
    sql, tables = statements("doctor"), expected().names("table")
    given = {"schema": "public", "names": tables, "role": "atlas_app"}
    rows = migrated.execute(sql["policies"].text.encode(), given).fetchall()
    rules = policy_rules()
    assert {(name, table) for name, table, *_ in rows} == rules.keys()
    for name, table, command, using, check, _ in rows:
        assert same_rule(rules[name, table], PolicyRule(command, using, check)), (name, table)
    assert not same_rule(rules["tenant", "users"], rules["tenant", "builds"])
    views = {"schema": "public", "names": expected().names("view")}
    of_their_owner = migrated.execute(sql["views_of_their_owner"].text.encode(), views).fetchall()
    assert {name for name, _ in of_their_owner} == set(expected().names("view")) - invoker_views()


def test_everybody_executes_all_functions(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute("""
        SELECT p.proname, EXISTS (
            SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0)
        FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
    """).fetchall()
    assert {name for name, is_open in rows if not is_open} == set()
