"""The administrator's connection: commands, transactions, roles, plans and COPY. All its errors are our classes."""

from __future__ import annotations

import uuid

import psycopg
import pytest

from atlas_sdk import AtlasError, DatabaseError, DatabaseUnreachable, NotPermitted, SchemaMismatch
from atlas_sdk._drive.admin import ping, quoted_name, server_message, statement_fault
from atlas_sdk._sql import Statement, migrations
from atlas_sdk.ops import schema
from atlas_sdk.provision.session import open_session

SETTINGS = Statement(
    "test.settings",
    "SELECT current_setting('search_path') AS path, current_setting('application_name') AS name, current_user AS role,"
    " current_setting('transaction_read_only') AS read_only, current_setting('lock_timeout') AS wait",
)
COUNT = Statement("test.count", "SELECT count(*) FROM claims")
INSERT = "INSERT INTO claims (kind, value, user_id) VALUES ('email', 'a', gen_random_uuid())"


def test_it_is_configured_as_a_clients_connection(dsn: str) -> None:
    with open_session(dsn) as session:
        found = session.row(SETTINGS) or {}
        assert (found["path"], found["name"]) == ("public, pg_temp", "atlasengine")
        assert session.database == dsn.partition("?")[0].rpartition("/")[2]
        session.execute("SET search_path = pg_catalog")
        session.reset_settings()
        assert session.value(schema.sql["exists"]) is True


def test_the_time_to_connect_may_be_in_the_dsn(dsn: str) -> None:
    with open_session(dsn) as session, open_session(f"{dsn}&connect_timeout=7") as patient:
        assert [each._config.kwargs["connect_timeout"] for each in (session, patient)] == [5, 7]


def test_commands_run_outside_of_a_transaction(dsn: str) -> None:
    name = f"test_{uuid.uuid4().hex} 100%"
    with open_session(dsn) as session:
        session.execute(f"CREATE DATABASE {quoted_name(name)}")
        session.execute(f"DROP DATABASE {quoted_name(name)}")
        session.execute("CREATE INDEX CONCURRENTLY by_value ON claims (value)")


def test_a_transaction_has_a_role_and_limits_and_is_kept_or_not(dsn: str) -> None:
    with open_session(dsn) as session:
        with session.transaction(role="atlas_app", lock_timeout="7s"):
            found = session.row(SETTINGS) or {}
            assert (found["role"], found["wait"], found["read_only"]) == ("atlas_app", "7s", "off")
        with session.transaction(keep=False):
            session.execute(INSERT)
            assert session.value(COUNT) == 1
        with pytest.raises(ZeroDivisionError), session.transaction():
            session.execute(INSERT)
            raise ZeroDivisionError
        assert session.value(COUNT) == 0
        with session.transaction():
            session.execute(INSERT)
        with session.transaction(snapshot=True), psycopg.connect(dsn) as other:
            assert session.value(COUNT) == 1
            other.execute("DELETE FROM claims")
            other.commit()
            assert session.value(COUNT) == 1
            assert (session.row(SETTINGS) or {})["read_only"] == "on"
        found = session.row(SETTINGS) or {}
        assert (found["role"] != "atlas_app", found["wait"], found["read_only"]) == (True, "0", "off")


def test_plans_run_in_the_open_transaction_or_in_one_of_their_own(empty_dsn: str) -> None:
    with open_session(empty_dsn) as session:
        with pytest.raises(SchemaMismatch):
            session.run(schema.check())
        with session.transaction(keep=False):
            assert len(session.run(schema.migrate())) == len(migrations())
            session.run(schema.check())
        assert session.run(schema.status()) == []
        assert session.run(schema.apply_next()) is not None
        assert len(session.run(schema.status())) == 1


def test_rows_are_copied_all_or_none(dsn: str) -> None:
    row = f"email\ta\t{uuid.uuid4()}\n".encode()
    command = "COPY claims (kind, value, user_id) FROM STDIN"
    with open_session(dsn) as session:
        with session.copy_in(command) as write:
            write(row)
        with pytest.raises(ZeroDivisionError), session.copy_in(command) as write:
            write(row.replace(b"\ta\t", b"\tb\t"))
            raise ZeroDivisionError
        assert session.value(COUNT) == 1
        with pytest.raises(DatabaseError), session.copy_in(command) as write:
            write(row)


@pytest.mark.parametrize(
    ("command", "kind", "fault", "message"),
    [
        ("SELECT no_such()", DatabaseError, "unknown", "function no_such() does not exist"),
        ("SELECT 1 FROM", DatabaseError, "unknown", "syntax error at end of input"),
        ("SELECT 'x'::integer", AtlasError, "invalid", 'invalid input syntax for type integer: "x"'),
        ("SET ROLE atlas_app; SELECT 1 FROM maintenance_runs", NotPermitted, None, "permission denied for table"),
        ("DO $$ BEGIN RAISE 'no' USING ERRCODE = '53100'; END $$", DatabaseError, None, "no"),
    ],
)
def test_errors_are_ours_and_tell_what_the_server_said(
    dsn: str, command: str, kind: type[AtlasError], fault: str | None, message: str
) -> None:
    with open_session(dsn) as session:
        with pytest.raises(kind) as caught:
            session.execute(command)
        assert statement_fault(caught.value) == fault
        assert server_message(caught.value).startswith(message)
        assert session.run(schema.pending()) == []


def test_a_server_that_is_not_there_is_silent(dsn: str) -> None:
    nowhere = "postgresql://ada:s3cret@127.0.0.1:1/none"
    assert (ping(dsn), ping(nowhere)) == ("ok", "silent")
    with pytest.raises(DatabaseUnreachable) as caught, open_session(nowhere):
        pass
    assert "Connection refused" in server_message(caught.value)
    assert "s3cret" not in str(caught.value) + server_message(caught.value)
