"""A tenant with a psql prompt of its application's login: read, change, delete, reference and guess another's rows."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from attacks import Attack
from psycopg.sql import SQL, Composable, Identifier
from psycopg.types.json import Jsonb
from tenants import SECRET, rows_of, tenant_tables

DENIED = "42501"
pytestmark = pytest.mark.every_server


def each_table(attack: Attack) -> list[tuple[Composable, Composable, str]]:
    return [(Identifier(table), Identifier(owner), table) for table, owner in tenant_tables(attack.owner).items()]


def columns(attack: Attack, table: str) -> list[str]:
    rows = attack.owner.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = ''",
        (table,),
    )
    return [name for (name,) in rows.fetchall()]


def test_the_victim_has_rows_in_every_table(attack: Attack) -> None:
    for table, owner in tenant_tables(attack.owner).items():
        assert rows_of(attack.owner, table, owner, attack.victim.user.id), f"{table}: nothing to steal"
    # Check that the test can see the secret at all.
    assert SECRET in attack.before
    attack.sql("SELECT 1")


def test_every_table_has_row_level_security(attack: Attack) -> None:
    bare = attack.owner.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relrowsecurity AND relname <> 'schema_version'"
    ).fetchall()
    assert bare == []
    attack.sql("SELECT version FROM schema_version")


def test_reads_no_row_of_another(attack: Attack) -> None:
    victim = attack.victim.user.id
    for table, owner, name in each_table(attack):
        for column in columns(attack, name):
            of = Identifier(column)
            assert attack.sql(SQL("SELECT {} FROM {} WHERE {} = %s").format(of, table, owner), (victim,)) in (
                [],
                DENIED,
            )
            assert attack.sql(
                SQL("SELECT count({}) FROM {} WHERE {} <> %s").format(of, table, owner), (attack.attacker.user.id,)
            ) in ([(0,)], DENIED)
        assert attack.sql(SQL("SELECT 1 FROM {} WHERE {} = %s FOR UPDATE").format(table, owner), (victim,)) in (
            [],
            DENIED,
        )
        assert attack.sql(SQL("SELECT * FROM {} TABLESAMPLE SYSTEM (100)").format(table)) != []
    for view in ("user_usage_summary", "project_health"):
        rows = attack.sql(SQL("SELECT user_id FROM {}").format(Identifier(view)))
        assert rows
        assert set(rows) == {(attack.attacker.user.id,)}


def test_reads_nothing_without_a_user(attack: Attack) -> None:
    attack.named(None)
    for table, owner, _ in each_table(attack):
        assert attack.sql(SQL("SELECT {} FROM {}").format(owner, table)) in ([], DENIED)
    for view in ("user_usage_summary", "project_health"):
        assert attack.sql(SQL("SELECT * FROM {}").format(Identifier(view))) == []
    attack.named(uuid4())
    for table, owner, _ in each_table(attack):
        assert attack.sql(SQL("SELECT {} FROM {}").format(owner, table)) in ([], DENIED)


def test_changes_no_row_of_another(attack: Attack) -> None:
    mine, victim = attack.attacker.user.id, attack.victim.user.id
    for table, owner, name in each_table(attack):
        for column in columns(attack, name):
            of = Identifier(column)
            change = SQL("UPDATE {} SET {} = {} WHERE {} = %s").format(table, of, of, owner)
            assert attack.sql(change, (victim,)) in ([], DENIED)
        # Try to give a row away, and to take over another tenant's row.
        give = SQL("UPDATE {} SET {} = %s WHERE {} = %s").format(table, owner, owner)
        assert attack.sql(give, (victim, mine)) == DENIED
        assert attack.sql(give, (mine, victim)) in ([], DENIED)


def test_deletes_no_row_of_another(attack: Attack) -> None:
    for table, owner, _ in each_table(attack):
        delete = SQL("DELETE FROM {} WHERE {} = %s").format(table, owner)
        assert attack.sql(delete, (attack.victim.user.id,)) in ([], DENIED)
        using = SQL("DELETE FROM {} AS t USING users AS u WHERE t.{} <> u.id").format(table, owner)
        assert attack.sql(using) in ([], DENIED)
        assert attack.sql(SQL("TRUNCATE {} CASCADE").format(table)) == DENIED


def insert_like(attack: Attack, name: str, row: dict[str, Any]) -> Composable:
    """Return an INSERT of a row, without its computed columns."""
    listed = SQL(", ").join(Identifier(column) for column in columns(attack, name) if column in row)
    return SQL("INSERT INTO {} ({}) SELECT {} FROM jsonb_populate_record(NULL::{}, %s)").format(
        Identifier(name), listed, listed, Identifier(name)
    )


def test_inserts_no_row_for_another(attack: Attack) -> None:
    for table, owner in tenant_tables(attack.owner).items():
        row = rows_of(attack.owner, table, owner, attack.attacker.user.id)[0]
        row |= {owner: str(attack.victim.user.id)}
        if "id" in row and table != "users":
            row["id"] = str(uuid4())
        assert attack.sql(insert_like(attack, table, row), (Jsonb(row),)) == DENIED, table


def test_refers_to_no_row_of_another(attack: Attack) -> None:
    """A row of the attacker that refers to a row of the victim is refused just as one that refers to no row."""
    keys = attack.owner.execute(
        "SELECT c.conrelid::regclass::text, array_agg(a.attname ORDER BY k.place)"
        " FROM pg_constraint AS c CROSS JOIN unnest(c.conkey) WITH ORDINALITY AS k (number, place)"
        " JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.number"
        " WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace GROUP BY c.oid HAVING count(*) > 1"
    ).fetchall()
    assert len(keys) > 5
    tables = tenant_tables(attack.owner)
    for table, names in keys:
        pointing = [name for name in names if name != "user_id"]
        row, theirs = (
            next(row for row in rows_of(attack.owner, table, "user_id", user) if None not in map(row.get, pointing))
            for user in (attack.attacker.user.id, attack.victim.user.id)
        )
        answers = []
        for target in (theirs, {name: str(uuid4()) for name in pointing}):
            made = row | {name: target[name] for name in pointing}
            if "id" in made:
                made["id"] = str(uuid4())
            query = insert_like(attack, table, made)
            attack.app.execute("SET CONSTRAINTS ALL IMMEDIATE")
            answers.append(attack.sql(query, (Jsonb(made),)))
        assert answers[0] == answers[1], (table, pointing, answers)
        assert table in tables


def test_cannot_tell_an_id_of_another_from_a_new_one(attack: Attack) -> None:
    for table, owner in tenant_tables(attack.owner).items():
        theirs = rows_of(attack.owner, table, owner, attack.victim.user.id)[0]
        row = rows_of(attack.owner, table, owner, attack.attacker.user.id)[0]
        for column in row:
            if not column.endswith("id") or column == owner or theirs[column] is None:
                continue
            answers = [
                attack.sql(
                    insert_like(attack, table, row | {column: guess}),
                    (Jsonb(row | {column: guess}),),
                )
                for guess in (theirs[column], str(uuid4()))
            ]
            assert answers[0] == answers[1], (table, column, answers)


def test_learns_nothing_from_errors_in_conditions(attack: Attack) -> None:
    """A condition that fails on the victim's rows must not be evaluated before the policy."""
    probes = [
        ("users", "1 / (strpos(email, %s) - 1) = 0"),
        ("projects", "name::integer = 0 AND name ~ %s"),
        ("events", "(meta ->> 'note')::integer = 0 AND meta ->> 'note' = %s"),
        ("memory_blobs", "1 / (octet_length(sha256) - 32) = length(%s)"),
        ("sessions", "user_agent::integer = length(%s)"),
    ]
    for table, probe in probes:
        mine = SQL("SELECT 1 FROM {} WHERE {} = %s AND {}").format(
            Identifier(table), Identifier("id" if table == "users" else "user_id"), SQL(probe)
        )
        assert attack.sql(mine, (attack.victim.user.id, SECRET)) == [], table


def test_has_no_ddl(attack: Attack) -> None:
    for command in (
        "CREATE TABLE public.mine (i int)",
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE projects NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE events ADD COLUMN x int",
        "DROP TABLE events",
        "DROP POLICY tenant ON projects",
        "CREATE POLICY all_of_it ON projects USING (true)",
        "ALTER POLICY tenant ON projects USING (true)",
        "CREATE TRIGGER t BEFORE UPDATE ON projects FOR EACH ROW EXECUTE FUNCTION update_updated_at_column()",
        "ALTER FUNCTION quota_hit(uuid, integer) SECURITY INVOKER",
        "CREATE OR REPLACE FUNCTION check_tenant(p_user uuid) RETURNS void LANGUAGE sql AS 'SELECT'",
        "CREATE OR REPLACE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql AS 'SELECT id FROM users LIMIT 1'",
        "GRANT SELECT ON users TO atlas_app",
        "CREATE ROLE mallory SUPERUSER",
        "ALTER ROLE atlas_app BYPASSRLS",
        "SET SESSION ROLE atlas_owner",
        "COPY users TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "LOCK TABLE users IN ACCESS EXCLUSIVE MODE",
        "SET session_replication_role = replica",
        "ALTER SYSTEM SET row_security = off",
        "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION update_updated_at_column()",
        "VACUUM users",
    ):
        answer = attack.sql(command)
        assert isinstance(answer, str), (command, answer)
        assert answer.startswith(("42", "25", "0A")), (command, answer)


def test_row_security_off_is_an_error_and_shows_nothing(attack: Attack) -> None:
    for table, owner, _ in each_table(attack):
        attack.app.execute("SET LOCAL row_security = off")
        assert attack.sql(SQL("SELECT {} FROM {}").format(owner, table)) == DENIED


def test_statistics_tell_nothing(attack: Attack) -> None:
    attack.owner.execute("ANALYZE")
    for view in ("pg_stats", "pg_stats_ext"):
        told = attack.sql(SQL("SELECT DISTINCT tablename FROM {} WHERE schemaname = 'public'").format(Identifier(view)))
        # This is the only table without a tenant that everybody may read.
        assert told in ([], [("schema_version",)])
    assert attack.sql("SELECT * FROM pg_statistic") == DENIED
    attack.sql("SELECT query FROM pg_stat_activity")


def test_copy_gives_own_rows_only(attack: Attack) -> None:
    for table, _, _ in each_table(attack):
        attack.tried += 1
        try:
            with attack.app.cursor().copy(SQL("COPY {} TO STDOUT").format(table)) as copy:
                got = b"".join(bytes(part) for part in copy)
        except psycopg.Error as error:
            assert error.sqlstate == DENIED  # noqa: PT017  # both results are right
        else:
            assert SECRET.encode() not in got
            assert str(attack.victim.user.id).encode() not in got
        attack.app.rollback()


def test_what_has_the_rights_of_the_owner_asks_who_calls(attack: Attack) -> None:
    """The test looks at every such function, so it covers later migrations too."""
    functions = attack.owner.execute(
        "SELECT p.oid::regprocedure::text, p.prosrc LIKE '%PERFORM check_tenant(p_user);%'"
        " OR p.prorettype = 'trigger'::regtype AND p.prosrc LIKE '%PERFORM check_tenant(owner) FROM unnest(owners)%'"
        " FROM pg_proc AS p WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert len(functions) > 8
    for function, asks in functions:
        assert asks, function
    attack.sql("SELECT 1")


TAKE = "SELECT preview_port_take(%s, %s, %s, %s, %s)"
NO_SUCH_PREVIEW = "55000"


def test_takes_no_port_but_one_for_a_live_preview(attack: Attack) -> None:
    mine, victim = attack.attacker, attack.victim
    for query in (
        """INSERT INTO preview_ports (machine, port, user_id, preview_id)
           SELECT '', g, %s, gen_random_uuid() FROM generate_series(20000, 29999) AS g ON CONFLICT DO NOTHING""",
        """INSERT INTO preview_ports (machine, port, user_id, preview_id)
           SELECT '', 7, user_id, id FROM previews WHERE user_id = %s""",
        "UPDATE preview_ports SET port = 7 WHERE user_id = %s",
        "UPDATE preview_ports SET machine = 'another' WHERE user_id = %s",
    ):
        assert attack.sql(query, (mine.user.id,)) == DENIED, query
    own, theirs = mine.known["preview_id"], victim.known["preview_id"]
    assert attack.sql(TAKE, (victim.user.id, theirs, "", 20000, 29999)) == DENIED
    assert attack.sql(TAKE, (victim.user.id, own, "", 20000, 29999)) == DENIED
    # A missing preview and another tenant's preview get the same answer.
    for preview in (uuid4(), theirs):
        assert attack.sql(TAKE, (mine.user.id, preview, "", 20000, 29999)) == NO_SUCH_PREVIEW
    assert attack.sql(TAKE, (mine.user.id, own, "another", 20000, 29999)) == NO_SUCH_PREVIEW
    # The attacker learns that the port is taken, and cannot take it.
    port = victim.known["port"]
    assert attack.sql(TAKE, (mine.user.id, own, "", port, port)) == [(None,)]
    for first in range(30000, 30009):
        attack.app.execute(TAKE, (mine.user.id, own, "", first, first + 9))
    assert attack.sql("SELECT count(*) FROM preview_ports") == [(1,)]
    attack.app.execute("UPDATE previews SET status = 'stopped' WHERE user_id = %s AND id = %s", (mine.user.id, own))
    assert attack.sql(TAKE, (mine.user.id, own, "", 20000, 29999)) == NO_SUCH_PREVIEW
    attack.named(None)
    assert attack.sql(TAKE, (mine.user.id, own, "", 20000, 29999)) == DENIED
