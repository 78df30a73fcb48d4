"""Problems that the doctor finds with a server and with the connection to it."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from problems import follow, problems
from servers import PASSWORD, PrivateServer

from atlas_sdk._sql import read_statements
from atlas_sdk.provision import Address, examine

# No connection


def test_server_down(doctor: Any, server: PrivateServer) -> None:
    server.stop()
    try:
        ran = doctor("--json", password=PASSWORD)
        assert (ran.code, ran.record["reachable"], ran.record["ok"]) == (5, False, False)
        found = problems(ran)["connection"]
        assert "Connection refused" in found["detail"]
        assert found["fix"][0] == f"pg_isready -h 127.0.0.1 -p {server.port}"
        assert PASSWORD not in ran.out + ran.err
        assert doctor().code == 5
    finally:
        server.start()


@pytest.mark.parametrize(
    ("login", "words", "advice"),
    [
        ({"user": "shop", "password": "wrong"}, "authentication failed: no such user, or another", '\\password "shop"'),
        ({"user": "shop"}, "authentication failed: the server wants a password and none", '\\password "shop"'),
        ({"user": "nobody", "password": "x"}, "authentication failed", '\\password "nobody"'),
        ({"database": "absent"}, "there is no such database", "atlasctl db init"),
    ],
)
def test_a_refusal_is_told_by_its_cause(doctor: Any, login: dict[str, str], words: str, advice: str) -> None:
    ran = doctor("--json", **login)
    assert ran.code == 5
    found = problems(ran)["connection"]
    assert words in found["detail"]
    assert any(line.startswith(advice) for line in found["fix"])


def test_a_database_that_does_not_let_one_in(doctor: Any, cli: Any, server: PrivateServer) -> None:
    server.ask("REVOKE CONNECT ON DATABASE atlas FROM PUBLIC, atlas_app")
    ran = doctor("--json", user="shop", password=PASSWORD)
    assert ran.code == 5
    found = problems(ran)["connection"]
    assert found["fix"] == ["GRANT CONNECT ON DATABASE atlas TO shop;"]
    follow(cli, server, found["fix"])
    assert doctor(user="shop", password=PASSWORD).code == 0


def test_pg_hba_that_lets_nobody_in(doctor: Any, server: PrivateServer) -> None:
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("host all postgres all trust\n")
    server.ask("SELECT pg_reload_conf()")
    try:
        found = problems(doctor("--json", user="shop", password=PASSWORD))["connection"]
        assert "pg_hba.conf" in found["detail"]
    finally:
        rules.write_text(before)
        server.ask("SELECT pg_reload_conf()")


def test_a_dsn_that_cannot_be_read_is_a_mistake_of_the_caller(cli: Any) -> None:
    assert cli("db", "doctor", "--dsn", "postgresql://x:y:z/%zz").code == 2
    assert cli("db", "init", "--dsn", "postgresql://x:y:z/%zz").code == 2


# The server


def test_a_full_server(doctor: Any, server: PrivateServer) -> None:
    server.stop()
    server.start("max_connections=8", "superuser_reserved_connections=2")
    try:
        with ExitStack() as stack:
            for _ in range(6):
                stack.enter_context(
                    psycopg.connect(server.url("atlas", user="shop", password=PASSWORD), application_name="leak")
                )
            refused = doctor("--json", user="shop", password=PASSWORD)
            assert refused.code == 5
            assert "every connection of the server is taken" in problems(refused)["connection"]["detail"]
            ran = doctor("--json")
            assert ran.code == 1
            assert (
                "7 of 6 connections of the server are taken: 6 of shop (leak, database atlas)"
                in (problems(ran)["connections"]["detail"])
            )
    finally:
        server.stop()
        server.start()


def test_settings_that_lose_data(doctor: Any, cli: Any, server: PrivateServer) -> None:
    server.stop()
    server.start("fsync=off")
    try:
        found = problems(doctor("--json"))["settings"]
        assert found["detail"].startswith("fsync is off: a crash of the machine destroys the database")
        assert "take -c fsync=off away" in found["fix"][0]
    finally:
        server.stop()
        server.start()
    server.ask("ALTER SYSTEM SET full_page_writes = off")
    server.ask("SELECT pg_reload_conf()")
    found = problems(doctor("--json"))["settings"]
    follow(cli, server, found["fix"])
    assert doctor().code == 0


def test_a_setting_of_the_client_is_its_own(cli: Any, server: PrivateServer) -> None:
    dsn = server.url("atlas") + "?options=-csynchronous_commit%3Doff"
    found = problems(cli("db", "doctor", "--json", "--dsn", dsn))["settings"]
    assert "take synchronous_commit out of options in the DSN" in found["fix"][0]


def test_another_encoding(doctor: Any, server: PrivateServer) -> None:
    server.ask("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        found = problems(doctor("--json", database="latin"))
        assert found.keys() == {"settings", "schema"}
        assert "encoded in LATIN1" in found["settings"]["detail"]
    finally:
        server.ask("DROP DATABASE latin")


def test_dead_rows_and_tables_that_were_never_analysed(doctor: Any, cli: Any, server: PrivateServer) -> None:
    with psycopg.connect(server.url("atlas"), autocommit=True) as connection:
        connection.execute("ALTER TABLE claims SET (autovacuum_enabled = false)")
        connection.execute(
            "INSERT INTO claims (kind, value, user_id) "
            "SELECT 'preview_host', n::text, gen_random_uuid() FROM generate_series(1, 20000) AS n"
        )
        connection.execute("SELECT pg_stat_force_next_flush()")
    assert "claims was never analysed" in problems(doctor("--json"))["vacuum"]["detail"]
    with psycopg.connect(server.url("atlas"), autocommit=True) as connection:
        connection.execute("DELETE FROM claims")
        connection.execute("SELECT pg_stat_force_next_flush()")
    found = problems(doctor("--json"))["vacuum"]
    assert "claims has 20,000 dead rows beside 0" in found["detail"]
    follow(cli, server, found["fix"])
    assert doctor().code == 0


def test_autovacuum_off(doctor: Any, cli: Any, server: PrivateServer) -> None:
    server.ask("ALTER SYSTEM SET autovacuum = off")
    server.ask("SELECT pg_reload_conf()")
    found = problems(doctor("--json"))["vacuum"]
    assert found["detail"] == "autovacuum is off"
    follow(cli, server, found["fix"])
    assert doctor().code == 0


@pytest.mark.parametrize(("shift_s", "verdict"), [(0, "ok"), (4, "ok"), (-4, "ok"), (7, "problem"), (-3600, "problem")])
def test_clocks_may_differ_by_five_seconds(server: PrivateServer, shift_s: int, verdict: str) -> None:
    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=shift_s)

    diagnosis = examine(Address(dsn=server.url("atlas")), clock=clock)
    (found,) = [one for one in diagnosis.findings if one.name == "clock"]
    assert found.verdict == verdict
    if verdict == "problem":
        assert ("behind" if shift_s > 0 else "ahead of") in found.detail


def test_a_session_that_sits_in_a_transaction(server: PrivateServer, monkeypatch: Any) -> None:
    from atlas_sdk.provision import examine_server

    monkeypatch.setattr(examine_server, "_STUCK", timedelta(0))
    with psycopg.connect(server.url("atlas"), application_name="forgetful") as connection:
        connection.execute("SELECT 1")
        (found,) = [one for one in examine(Address(dsn=server.url("atlas"))).findings if one.name == "connections"]
        assert "1 of postgres (forgetful)" in found.detail
        server.psql(found.fix[-1], "atlas")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_the_doctor_only_reads() -> None:
    for statement in read_statements("doctor").values():
        text = re.sub(r"(?m)^--.*\n", "", statement.text)
        assert re.match(r"(SELECT|WITH)\b", text), statement.name
        assert not re.search(r"\b(INSERT INTO|DELETE FROM|UPDATE \w+ SET|MERGE INTO)\b", text), statement.name
        assert not re.search(r"\b(FOR (UPDATE|SHARE)|set_config|pg_advisory)", text), statement.name
