"""The login that `atlasctl db init --app-user` makes for an application."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from servers import PASSWORD, PrivateServer, steps

from atlas_sdk._sql import migrations

LATEST = len(migrations())
#: A name that needs every kind of quoting.
AWKWARD = 'my "Atlas" 100%s ü'


def test_the_applications_login_is_kept_behind_the_policies(init: Any, server: PrivateServer) -> None:
    server.ask("ALTER SYSTEM SET log_statement = 'all'")
    server.ask("SELECT pg_reload_conf()")
    ran = init("--app-user", AWKWARD)
    first, second = ran.out.splitlines()
    password = first.removeprefix(f"password of {AWKWARD}, shown only now: ")
    assert len(password) >= 32
    assert second.startswith("schema version")
    assert password not in ran.err
    # Only a verifier reached the server.
    log = server.log.read_text("utf-8", "replace")
    assert "SCRAM-SHA-256$" in log
    assert password not in log
    assert server.ask("SELECT rolpassword LIKE 'SCRAM-SHA-256$%%' FROM pg_authid WHERE rolname = %s", AWKWARD) == [
        (True,)
    ]
    url = server.url("atlas", user=AWKWARD, password=password)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM projects").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE public.mine ()")
    again = init("--app-user", AWKWARD, "--json").record
    assert (again["ok"], again["app_password"]) == (True, None)
    with psycopg.connect(url):
        pass


def test_the_applications_password_may_be_given(init: Any, server: PrivateServer, monkeypatch: Any) -> None:
    monkeypatch.setenv("ATLAS_APP_PASSWORD", PASSWORD)
    ran = init("--app-user", "shop")
    assert PASSWORD not in ran.out + ran.err
    with psycopg.connect(server.url("atlas", user="shop", password=PASSWORD)):
        pass


@pytest.mark.parametrize("attributes", ["SUPERUSER", "BYPASSRLS", "IN ROLE atlas_owner", "NOLOGIN"])
def test_a_login_that_policies_do_not_bind_is_refused(init: Any, server: PrivateServer, attributes: str) -> None:
    init()
    if attributes == "NOLOGIN":
        server.ask("CREATE ROLE shop NOLOGIN")
    else:
        server.add_login("shop", attributes)
    ran = init("--app-user", "shop")
    assert ran.code == 1
    assert steps(ran)["login shop"] == "✗"
    assert "choose another name" in ran.err


def test_a_password_is_shown_even_when_a_later_step_fails(init: Any, server: PrivateServer) -> None:
    server.ask("CREATE DATABASE atlas")
    server.ask("CREATE TABLE previews (in_the_way int)", database="atlas")
    ran = init("--app-user", "shop", "--json")
    assert ran.code == 1
    (failed,) = [step for step in ran.record["steps"] if step["status"] == "failed"]
    assert failed["detail"].startswith("version 1 was reached, then the next migration failed:")
    assert "already exists" in failed["detail"]
    with psycopg.connect(server.url("atlas", user="shop", password=ran.record["app_password"])):
        pass
