"""`atlasctl db init` on databases that are not empty, and the ways to tell it the address."""

from __future__ import annotations

import re
from typing import Any

import pytest
from servers import PASSWORD, PrivateServer, steps

from atlas_sdk import InvalidInput
from atlas_sdk._sql import migrations
from atlas_sdk.provision import Address, SetupStep, set_up

LATEST = len(migrations())
#: A name that needs every kind of quoting.
AWKWARD = 'my "Atlas" 100%s ü'


# Databases that are not empty


def test_an_older_schema_in_use_is_left_to_migrate(init: Any, server: PrivateServer) -> None:
    init()
    server.ask("INSERT INTO users (email) VALUES ('ada@example.com')", database="atlas")
    server.ask("DELETE FROM schema_version WHERE version > %s", LATEST - 2, database="atlas")
    ran = init()
    assert ran.code == 1
    command = f"atlasctl db migrate --dsn {server.url('atlas')}"
    assert f"schema version {LATEST - 2}, this AtlasEngine needs {LATEST}: " in ran.err
    assert f"; run: {command}\n" in ran.err


def test_a_setup_that_ended_half_way_goes_on(init: Any, server: PrivateServer) -> None:
    server.ask("CREATE DATABASE atlas")
    server.ask("CREATE TABLE previews (in_the_way int)", database="atlas")
    assert init().code == 1
    server.ask("DROP TABLE previews", database="atlas")
    before = server.everything()
    planned = init("--dry-run")
    assert (planned.code, server.everything()) == (0, before)
    assert f"would apply {LATEST - 1} migrations" in planned.err
    ran = init()
    assert ran.code == 0, ran.err
    assert ran.out == f"schema version {LATEST}: {LATEST - 1} migrations applied\n"
    assert steps(ran)["owner"] == "·"
    assert init().out == f"schema version {LATEST}: nothing to do\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_tables_of_others_and_their_grants_are_left_alone(init: Any, server: PrivateServer, when: str) -> None:
    server.add_login("plain")
    server.ask("CREATE ROLE atlas_app")
    server.ask("CREATE DATABASE atlas")
    if when == "after":
        assert init().code == 0
    # A superuser makes these tables and grants. The superuser is not the owner of our tables.
    for command in (
        "CREATE TABLE orders (id int)",
        "GRANT SELECT, UPDATE (id) ON orders TO atlas_app",
        "CREATE SEQUENCE numbers",
        "GRANT USAGE ON SEQUENCE numbers TO atlas_app",
        "CREATE VIEW open_orders AS SELECT id FROM orders",
        "GRANT SELECT ON open_orders TO atlas_app",
        "CREATE FUNCTION sum_up() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "GRANT EXECUTE ON FUNCTION sum_up TO atlas_app",
    ):
        server.ask(command, database="atlas")
    theirs = (
        "SELECT relname, relowner, relacl::text FROM pg_class WHERE relname IN ('orders', 'numbers', 'open_orders') "
        "UNION ALL SELECT proname, proowner, proacl::text FROM pg_proc WHERE proname = 'sum_up' "
        "UNION ALL SELECT attname, 0, attacl::text FROM pg_attribute WHERE attrelid = 'orders'::regclass ORDER BY 1"
    )
    before = server.ask(theirs, database="atlas")
    assert init().code == 0
    server.ask("GRANT atlas_owner TO plain")
    assert init(user="plain", password=PASSWORD).out == f"schema version {LATEST}: nothing to do\n"
    server.ask("SELECT grant_atlas_roles()", database="atlas")
    assert server.ask(theirs, database="atlas") == before


def test_a_dry_run_tells_whether_grants_would_change(init: Any, server: PrivateServer) -> None:
    init()
    assert steps(init("--dry-run"))["grants"] == "·"
    server.ask("GRANT DELETE ON users TO atlas_app", database="atlas")
    before = server.everything()
    assert steps(init("--dry-run"))["grants"] == "+"
    assert server.everything() == before
    assert steps(init())["grants"] == "✓"
    assert steps(init("--dry-run"))["grants"] == "·"


def test_a_newer_schema_is_left_alone(init: Any, server: PrivateServer) -> None:
    init()
    server.ask("INSERT INTO schema_version (version, name, checksum) VALUES (999, 'future', 'x')", database="atlas")
    before = server.everything()
    ran = init()
    assert ran.code == 1
    assert "upgrade AtlasEngine" in ran.err
    assert server.everything() == before


def test_what_is_missing_is_told(init: Any, server: PrivateServer) -> None:
    init()
    for command in ("DROP VIEW project_health", "DROP INDEX idx_builds_page", "DROP TRIGGER builds_stamp ON builds"):
        server.ask(command, database="atlas")
    ran = init()
    assert ran.code == 1
    # Objects without rows are made again. For an index, the doctor advises a command that blocks no writers.
    assert {name for name, mark in steps(ran).items() if mark == "✗"} == {"indexes"}
    assert re.search(r"✓ made again +trigger builds_stamp on builds, view project_health\n", ran.err)
    assert "idx_builds_page on builds" in ran.err
    assert f"atlasctl db doctor --dsn {server.url('atlas')} tells" in ran.err


def test_tables_of_a_superuser_are_handed_to_the_owner(init: Any, cli: Any, server: PrivateServer) -> None:
    server.ask("CREATE DATABASE atlas")
    assert cli("db", "migrate", "--dsn", server.url("atlas")).code == 0
    assert steps(init())["owner"] == "✓"
    owners = server.ask("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'", database="atlas")
    assert owners == [("atlas_owner",)]


def test_a_database_in_another_encoding_is_refused(init: Any, server: PrivateServer) -> None:
    server.ask("CREATE DATABASE atlas ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    ran = init()
    assert ran.code == 1
    assert "encoded in LATIN1, not UTF8" in ran.err
    assert server.ask("SELECT rolname FROM pg_roles WHERE rolname LIKE 'atlas%%'") == []


# Addresses


def test_db_variables_say_where_and_a_dsn_goes_first(cli: Any, server: PrivateServer, monkeypatch: Any) -> None:
    server.add_login("maker", "CREATEROLE CREATEDB")
    given = {"HOST": "127.0.0.1", "PORT": str(server.port), "NAME": AWKWARD, "USER": "maker", "PASSWORD": PASSWORD}
    for name, value in given.items():
        monkeypatch.setenv(f"DB_{name}", value)
    ran = cli("db", "init")
    assert ran.code == 0, ran.err
    assert "(from DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD)" in ran.err
    assert PASSWORD not in ran.err + ran.out
    (url,) = re.findall(r"ATLAS_DATABASE_URL=(\S+)", ran.err)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert cli("db", "status", "--dsn", url).code == 0
    other = cli("db", "init", "--dsn", server.url("other"))
    assert "DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD: not used, because --dsn comes first" in other.err
    assert "(from --dsn)" in other.err
    monkeypatch.setenv("ATLAS_DATABASE_URL", server.url("other"))
    assert cli("db", "init", "--json").record["source"] == "ATLAS_DATABASE_URL"


def test_variables_fill_up_with_the_usual() -> None:
    assert Address.of_environment({}) is None
    assert Address.of_environment({"DB_NAME": "", "DBNAME": "x"}) is None
    found = Address.of_environment({"DB_PASSWORD": "p", "DB_USER": ""})
    assert found is not None
    assert (found.place, found.source) == ("atlasengine@localhost:5432/atlasengine", "DB_PASSWORD")
    assert "p'" not in repr(found)
    for port in ("x", "0", "65536", "-1", "٣"):
        with pytest.raises(InvalidInput, match="DB_PORT is a number"):
            Address.of_environment({"DB_PORT": port})


def test_the_embedded_database_needs_nothing(home: Any, cli: Any) -> None:
    assert cli("db", "init").code == 0
    assert cli("db", "init").out == f"schema version {LATEST}: nothing to do\n"
    assert "nothing to do" in cli("db", "init", "--dry-run").err
    ran = cli("db", "init", "--app-user", "shop")
    assert ran.code == 2
    assert "the embedded database has no other logins" in ran.sentence


def test_steps_are_told_as_they_are_over(server: PrivateServer) -> None:
    told: list[SetupStep] = []
    result = set_up(Address(dsn=server.url("atlas")), tell=told.append)
    assert tuple(told) == result.steps
