"""`atlasctl db migrate`, and its plan."""

from __future__ import annotations

from typing import Any

from servers import PASSWORD, PrivateServer

from atlas_sdk._sql import migrations

LATEST = len(migrations())
#: A name that needs every kind of quoting.
AWKWARD = 'my "Atlas" 100%s ü'


def test_a_plan_names_what_others_would_feel(init: Any, cli: Any, server: PrivateServer) -> None:
    server.ask("CREATE DATABASE atlas")
    everything_pending = cli("db", "migrate", "--plan", "--json", "--dsn", server.url("atlas")).record
    assert [row["version"] for row in everything_pending["pending"]] == list(range(1, LATEST + 1))
    # The database has no tables yet, so no client can be blocked.
    assert [row["locks"] for row in everything_pending["pending"]] == [[]] * LATEST
    shown = cli("db", "migrate", "--plan", "--dsn", server.url("atlas"))
    assert f"{LATEST} migrations would be applied, one transaction each; they block nobody" in shown.err
    assert "!" not in shown.out
    assert server.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database="atlas") == [(0,)]
    init()
    server.ask("DELETE FROM schema_version WHERE version > 2", database="atlas")
    plan = cli("db", "migrate", "--plan", "--dsn", server.url("atlas"))
    assert plan.code == 0
    assert "0003_lifecycles" in plan.out
    assert "! builds: blocks writes\n      CREATE TRIGGER builds_stamp BEFORE UPDATE ON builds" in plan.out
    assert "memory_files: " not in plan.out
    assert "nothing was changed" in plan.err
    assert server.ask("SELECT max(version) FROM schema_version", database="atlas") == [(2,)]


def test_a_plan_of_nothing_is_empty(init: Any, cli: Any, server: PrivateServer) -> None:
    init()
    plan = cli("db", "migrate", "--plan", "--dsn", server.url("atlas"))
    assert (plan.code, plan.out) == (0, "")
    assert "nothing to do" in plan.err
    server.ask("UPDATE schema_version SET checksum = 'x' WHERE version = 2", database="atlas")
    assert cli("db", "migrate", "--plan", "--dsn", server.url("atlas")).code == 1


def test_migrations_run_as_the_owner(cli: Any, init: Any, server: PrivateServer) -> None:
    server.add_login("plain")
    init()
    server.ask("GRANT atlas_owner TO plain")
    # Make the database look as before the migration that makes the views.
    (views,) = (known.version for known in migrations() if known.name == "views")
    for command in (
        "DROP VIEW user_usage_summary, project_health",
        "DROP FUNCTION usage_totals, void_usage_sums, maintenance_sum_usage CASCADE",
        "DROP TABLE usage_sums",
    ):
        server.ask(command, database="atlas")
    server.ask(f"DELETE FROM schema_version WHERE version >= {views}", database="atlas")
    cli("db", "migrate", "--dsn", server.url("atlas", user="plain", password=PASSWORD))
    owner = server.ask(
        "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'project_health'", database="atlas"
    )
    assert owner == [("atlas_owner",)]
