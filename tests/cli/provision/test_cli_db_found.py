"""`atlasctl db init` where something is already, and where it finds out where."""

from __future__ import annotations

import re
from typing import Any

import pytest
from servers import PASSWORD, PrivateServer, steps

from atlas_sdk import InvalidInput
from atlas_sdk._sql import migrations
from atlas_sdk.provision import Address, Step, set_up

LATEST = len(migrations())
#: A name that needs every kind of quoting.
AWKWARD = 'my "Atlas" 100%s ü'


# What is there already


def test_an_older_schema_is_left_to_migrate(init: Any, cli: Any, server: PrivateServer) -> None:
    init()
    server.ask("DELETE FROM schema_version WHERE version > %s", LATEST - 2, database="atlas")
    ran = init()
    assert ran.code == 1
    assert f"schema version {LATEST - 2}, this AtlasEngine needs {LATEST}: run `atlasctl db migrate`" in ran.err


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
    # Nothing can be granted on a view that is not there.
    assert {name for name, mark in steps(ran).items() if mark == "✗"} == {"grants", "views", "indexes", "triggers"}
    assert "idx_builds_page on builds" in ran.err


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


# Where


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
    told: list[Step] = []
    result = set_up(Address(dsn=server.url("atlas")), tell=told.append)
    assert tuple(told) == result.steps
