"""`atlasctl db init` on private servers: as superuser, as a plain login, twice, at once, and without a server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from servers import PASSWORD, PrivateServer, steps

from atlas_sdk import Atlas, DatabaseUnreachable
from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import migrations
from atlas_sdk.provision import Address, set_up, setup
from atlas_sdk.provision.session import open_session

LATEST = len(migrations())
#: A name that needs every kind of quoting.
AWKWARD = 'my "Atlas" 100%s ü'


def test_a_superuser_gets_everything_from_nothing(init: Any, server: PrivateServer) -> None:
    ran = init()
    assert ran.code == 0, ran.err
    assert ran.out == f"schema version {LATEST}: {LATEST} migrations applied\n"
    marks = steps(ran)
    assert {marks[name] for name in ("connect", "role atlas_app", "database atlas", "schema")} == {"✓"}
    # No object had to get another owner, because the migrations ran as the owner.
    assert marks["owner"] == "·"
    assert {"tables", "views", "triggers", "functions", "indexes", "policies", "grants"} <= marks.keys()
    assert server.ask("SELECT rolcanlogin FROM pg_roles WHERE rolname LIKE 'atlas\\_%'") == [(False,), (False,)]
    owners = server.ask(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "UNION SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
        "UNION SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'atlas'",
        database="atlas",
    )
    assert owners == [("atlas_owner",)]
    with Atlas.open(server.url("atlas")) as atlas:
        atlas.users.create("ada@example.com")


def test_again_changes_nothing(init: Any, server: PrivateServer) -> None:
    init()
    before = server.everything()
    ran = init()
    assert (ran.code, ran.out) == (0, f"schema version {LATEST}: nothing to do\n")
    assert set(steps(ran).values()) == {"·", "✓"}
    assert {name for name, mark in steps(ran).items() if mark == "✓"} == {
        *("connect", "tables", "views", "triggers", "functions", "indexes", "policies"),
    }
    assert server.everything() == before


def test_a_dry_run_changes_nothing(init: Any, server: PrivateServer) -> None:
    before = server.everything()
    planned = init("--dry-run", "--app-user", "shop")
    assert (planned.code, planned.out) == (0, "dry run: nothing was changed\n")
    assert "+ database atlas        would run: CREATE DATABASE atlas OWNER atlas_owner" in planned.err
    assert server.everything() == before
    server.ask("CREATE DATABASE atlas")
    before = server.everything()
    assert init("--dry-run").code == 0
    assert server.everything() == before
    init()
    before = server.everything()
    assert init("--dry-run").code == 0
    assert server.everything() == before


def test_json_is_one_object_with_the_steps(init: Any) -> None:
    ran = init("--json")
    assert ran.err == ""
    record = ran.record
    assert (record["ok"], record["schema_version"], len(record["applied"])) == (True, LATEST, LATEST)
    assert record["steps"][0]["name"] == "connect"
    assert {step["status"] for step in record["steps"]} <= {"done", "there"}
    assert (record["source"], record["commands"]) == ("--dsn", [])


@pytest.mark.parametrize("name", ["atlas", AWKWARD])
def test_a_plain_login_is_told_what_an_administrator_must_run(init: Any, server: PrivateServer, name: str) -> None:
    login = {"user": f"{name} login", "password": PASSWORD, "database": name}
    server.add_login(login["user"])
    before = server.everything()
    refused = init("--app-user", "shop", **login)
    assert refused.code == 1
    assert steps(refused)["connect"] == "✓"
    assert steps(refused)[f"database {name}"] == "✗"
    assert server.everything() == before
    assert PASSWORD not in refused.err + refused.out
    assert refused.out.startswith('\\connect "postgres"\nCREATE ROLE atlas_owner NOLOGIN;\n')
    assert "\n-- interactive: psql asks for the password\n\\password shop\n" in refused.out
    # Remove the command for which psql asks a person for a password.
    server.psql(re.sub(r"(?m)^\\password .*\n", "", refused.out))
    again = init("--app-user", "shop", **login)
    assert again.code == 0, again.err
    assert again.out == f"schema version {LATEST}: {LATEST} migrations applied\n"
    assert init("--app-user", "shop", **login).out == f"schema version {LATEST}: nothing to do\n"
    with Atlas.open(server.url(name, user=login["user"], password=PASSWORD)) as atlas:
        atlas.users.create("ada@example.com")


def test_the_owner_of_a_database_gets_a_schema_and_the_rest_later(init: Any, server: PrivateServer) -> None:
    server.add_login("plain")
    server.ask("CREATE DATABASE atlas OWNER plain")
    login = {"user": "plain", "password": PASSWORD}
    done = init("--json", **login)
    assert done.code == 1
    assert len(done.record["applied"]) == LATEST
    assert {step["name"] for step in done.record["steps"] if step["status"] in {"failed", "skipped"}} == {
        *("role atlas_owner", "role atlas_app", "role plain", "grants"),
    }
    assert server.ask("SELECT tableowner FROM pg_tables WHERE tablename = 'users'", database="atlas") == [("plain",)]
    server.psql("\n".join(command["command"] for command in done.record["commands"]))
    assert steps(init(**login))["owner"] == "✓"
    assert server.ask("SELECT tableowner FROM pg_tables WHERE tablename = 'users'", database="atlas") == [
        ("atlas_owner",)
    ]
    assert init(**login).out == f"schema version {LATEST}: nothing to do\n"


def test_a_login_that_may_make_roles_and_databases_needs_nobody(init: Any, server: PrivateServer) -> None:
    server.add_login("maker", "CREATEROLE CREATEDB")
    ran = init("--app-user", "shop", user="maker", password=PASSWORD)
    assert ran.code == 0, ran.err
    assert init(user="maker", password=PASSWORD).out == f"schema version {LATEST}: nothing to do\n"


def test_a_database_of_somebody_else_names_the_grant(init: Any, server: PrivateServer) -> None:
    server.add_login("plain")
    server.ask("CREATE DATABASE atlas")
    refused = init("--json", user="plain", password=PASSWORD).record
    assert {"database": "atlas", "command": "GRANT USAGE, CREATE ON SCHEMA public TO atlas_owner;"} in refused[
        "commands"
    ]
    for command in refused["commands"]:
        server.psql(command["command"], command["database"])
    assert init(user="plain", password=PASSWORD).code == 0


def test_each_command_for_an_administrator_is_told_once(init: Any, server: PrivateServer) -> None:
    init()
    server.add_login("plain")
    refused = init("--json", user="plain", password=PASSWORD).record
    assert [command["command"] for command in refused["commands"]] == ["GRANT atlas_owner TO plain;"]
    (failed,) = [step for step in refused["steps"] if step["name"] == "schema"]
    assert "for an application GRANT atlas_app TO plain is enough" in failed["detail"]


def test_a_closed_database_names_the_grant(init: Any, server: PrivateServer) -> None:
    server.add_login("plain")
    server.ask("CREATE DATABASE atlas")
    server.ask("REVOKE CONNECT ON DATABASE atlas FROM PUBLIC")
    refused = init("--json", user="plain", password=PASSWORD)
    assert refused.code == 1
    assert {"database": "postgres", "command": "GRANT CONNECT ON DATABASE atlas TO plain;"} in refused.record[
        "commands"
    ]


def test_many_may_do_it_at_once(server: PrivateServer) -> None:
    def run(_: int) -> Any:
        return set_up(Address(dsn=server.url("atlas")), app_user="shop", app_password=PASSWORD)

    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(run, range(6)))
    assert [[step for step in result.steps if step.status == "failed"] for result in results] == [[]] * 6
    assert sum(len(result.applied) for result in results) == LATEST
    assert {result.schema_version for result in results} == {LATEST}


def test_a_database_that_somebody_creates_meanwhile_is_used(
    server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    @contextmanager
    def opened(dsn: str) -> Iterator[AdminSession]:
        tried.append(dsn)
        try:
            with open_session(dsn) as session:
                yield session
        except DatabaseUnreachable:
            # The other one is between our attempt and our look at the list of databases.
            server.ask("CREATE DATABASE atlas")
            raise

    monkeypatch.setattr(setup, "open_session", opened)
    address = Address(dsn=server.url("atlas"))
    result = set_up(address, app_user="shop", app_password=PASSWORD)
    assert [step.status for step in result.steps].count("failed") == 0
    assert tried.count(address.dsn) == 2


def test_server_down_is_exit_5_and_one_sentence(init: Any, server: PrivateServer) -> None:
    server.stop()
    try:
        ran = init("--json", password=PASSWORD)
        assert (ran.code, ran.raw) == (5, b"")
        found = json.loads(ran.err)
        assert found["kind"] == "DatabaseUnreachable"
        assert re.search(r"Connection refused; is the server running\? atlasctl db doctor", found["error"])
        assert PASSWORD not in ran.err
    finally:
        server.start()


def test_wrong_password_is_exit_5(init: Any, server: PrivateServer) -> None:
    server.add_login("plain")
    ran = init("--json", user="plain", password="wrong")
    assert (ran.code, json.loads(ran.err)["kind"]) == (5, "AuthenticationFailed")
