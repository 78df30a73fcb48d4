"""The recorded inventory equals the objects of a server after the migrations."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from attrs import astuple
from inventory import recorded, written

from atlas_sdk.provision.inventory import FILE, expected
from atlas_sdk.provision.migration_text import creating


@pytest.mark.every_server
def test_the_file_is_what_the_migrations_make(migrated: psycopg.Connection[Any], server: str) -> None:
    """If this fails, `python tests/inventory.py` records the inventory anew."""
    found = recorded(migrated)
    assert [astuple(thing)[:4] for thing in found] == [astuple(thing)[:4] for thing in expected().things]
    # No two functions have the same name, because the doctor finds missing ones by name.
    assert len({(thing.kind, thing.name, thing.on_table) for thing in found}) == len(found)
    if server == "embedded":
        # Another version of PostgreSQL may write a command in another form.
        assert written(found) == FILE.read_text("utf-8")


def test_the_inventory_says_what_isolation_rests_on() -> None:
    """The rules are written here, because a wrong migration would also be recorded in the inventory."""
    catalogue = expected()
    assert (catalogue.of("function")["quota_settle", None].rule or "").split() == ["definer", "pinned"]
    assert {thing.rule for thing in catalogue.of("view").values()} == {"security_invoker"}
    assert {"user_usage_summary", "project_health"} <= set(catalogue.names("view"))
    assert "password_hash" not in (catalogue.privileges()["users", "SELECT"] or ())
    assert ("user_quotas", "DELETE") not in catalogue.privileges()
    secured = {name for (name, _), table in catalogue.of("table").items() if table.rule == "row_security"}
    assert (
        {table for _, table in catalogue.of("policy")} == secured == set(catalogue.names("table")) - {"schema_version"}
    )


@pytest.mark.every_server
def test_grants_are_taken_back_on_all_our_own_tables_and_views(migrated: psycopg.Connection[Any]) -> None:
    migrated.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO atlas_app")
    assert [astuple(thing)[:4] for thing in recorded(migrated)] != [astuple(thing)[:4] for thing in expected().things]
    migrated.execute("SELECT grant_atlas_roles()")
    assert [astuple(thing)[:4] for thing in recorded(migrated)] == [astuple(thing)[:4] for thing in expected().things]


@pytest.mark.every_server
def test_everything_that_can_be_made_again_has_a_command(migrated: psycopg.Connection[Any]) -> None:
    for kind in ("function", "view"):
        names = set(expected().names(kind))
        assert len(creating(kind, names)) == len(names)
    made = [thing for thing in expected().things if thing.kind in {"index", "trigger", "policy"}]
    for kind in ("index", "trigger", "policy"):
        assert any(thing.kind == kind for thing in made)
    for thing in made:
        assert thing.making is not None
        migrated.execute(f"DROP {thing.kind} {thing.name}" + ("" if thing.kind == "index" else f" ON {thing.on_table}"))
        migrated.execute(thing.making)
    assert recorded(migrated) == list(expected().things)


@pytest.mark.every_server
def test_everybody_executes_all_functions(migrated: psycopg.Connection[Any]) -> None:
    rows = migrated.execute("""
        SELECT p.proname, EXISTS (
            SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0)
        FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
    """).fetchall()
    assert {name for name, is_open in rows if not is_open} == set()
