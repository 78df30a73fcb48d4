"""Reading migrations: the end of each command, the objects that it makes, and the locks that it takes."""

from __future__ import annotations

import pytest

from atlas_sdk import provision
from atlas_sdk._sql import Migration
from atlas_sdk.provision import migration_text, upgrade
from atlas_sdk.provision.migration_text import about, commands, creating, lock_of, made_tables


def test_a_semicolon_ends_a_command_only_where_it_is_one() -> None:
    text = """
    -- a remark; with a semicolon
    CREATE TABLE a (x text DEFAULT 'it''s; here'); /* and; here */
    CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $body$ BEGIN PERFORM $$;$$; END $body$;
    CREATE TABLE "odd;name" ()
    """
    found = list(commands(text))
    assert [command[:14] for command in found] == ["CREATE TABLE a", "CREATE FUNCTIO", 'CREATE TABLE "'[:14]]
    assert found[0] == "CREATE TABLE a (x text DEFAULT 'it''s; here')"
    assert found[2] == 'CREATE TABLE "odd;name" ()'


def test_a_text_keeps_its_spaces_and_its_remarks() -> None:
    assert list(commands("SELECT  'a  b -- c'\n ,  1")) == ["SELECT 'a  b -- c' , 1"]
    assert list(commands("-- nothing\n;;\n")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-- Previews: what runs.\n-- More.\nSELECT 1", "Previews: what runs"),
        ("-- One sentence\n-- on two lines. And another.\n", "One sentence on two lines"),
        ("-- First:\n--\n-- second", "First"),
        ("SELECT 1", ""),
    ],
)
def test_a_migration_says_what_it_is_about(text: str, said: str) -> None:
    assert about(text) == said


@pytest.mark.parametrize(
    ("command", "lock"),
    [
        ("ALTER TABLE builds ADD COLUMN x int", ("builds", "blocks reads and writes")),
        ("ALTER TABLE ONLY public.builds ENABLE ROW LEVEL SECURITY", ("builds", "blocks reads and writes")),
        ("ALTER TABLE builds VALIDATE CONSTRAINT c", None),
        ("CREATE INDEX i ON builds (id)", ("builds", "blocks writes while it reads the whole table")),
        ("CREATE UNIQUE INDEX i ON builds (id)", ("builds", "blocks writes while it reads the whole table")),
        ("CREATE INDEX CONCURRENTLY i ON builds (id)", None),
        (
            "CREATE TRIGGER t BEFORE UPDATE OF plan ON users FOR EACH ROW EXECUTE FUNCTION f()",
            ("users", "blocks writes"),
        ),
        ("DROP POLICY tenant ON claims", ("claims", "blocks reads and writes")),
        ("DROP TABLE IF EXISTS old", ("old", "blocks reads and writes")),
        ("UPDATE users SET plan = 'free'", ("users", "locks every row that it changes")),
        ("DO $$ BEGIN END $$", ("", "runs code whose locks its text does not tell")),
        ("CREATE TABLE fresh (id int)", None),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'ALTER TABLE builds'", None),
        ("INSERT INTO plans VALUES (1)", None),
    ],
)
def test_whom_a_command_blocks(command: str, lock: tuple[str, str] | None) -> None:
    assert lock_of(command) == lock


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[Migration]:
    """Return migrations made for the test."""
    given: list[Migration] = []
    for module in (migration_text, upgrade):
        monkeypatch.setattr(module, "migrations", lambda: tuple(given))
    return given


def test_what_makes_a_function_is_its_last_command_in_the_order_of_the_files(files: list[Migration]) -> None:
    first = """
        CREATE TABLE a (id int); CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'old'; CREATE VIEW v AS SELECT 1;
        CREATE FUNCTION f(int, text) RETURNS int LANGUAGE sql AS ''; CREATE INDEX ia ON a (id);
        CREATE FUNCTION other() RETURNS int LANGUAGE sql AS 'CREATE FUNCTION f()';
    """
    second = "CREATE OR REPLACE FUNCTION g() RETURNS int LANGUAGE sql AS ''; CREATE PROCEDURE p() LANGUAGE sql AS '';"
    files += [Migration(1, "first", first), Migration(2, "second", second)]
    assert [command.partition(" LANGUAGE")[0] for command in creating("function", {"f", "g", "p"})] == [
        *("CREATE FUNCTION f(int, text) RETURNS int", "CREATE OR REPLACE FUNCTION g() RETURNS int"),
        "CREATE PROCEDURE p()",
    ]
    assert creating("view", {"v", "f"}) == ["CREATE VIEW v AS SELECT 1"]
    assert made_tables(first) == {"a", "v"}


def test_only_tables_that_somebody_may_use_are_told_in_a_plan(files: list[Migration]) -> None:
    files += [
        Migration(1, "old", "CREATE TABLE old (id int);"),
        Migration(
            2,
            "new",
            "-- New things.\nCREATE TABLE new (id int); CREATE INDEX i ON new (id); ALTER TABLE old ADD y int;",
        ),
        Migration(3, "newer", "CREATE INDEX j ON new (id); CREATE INDEX k ON old (id);"),
    ]
    second, third = upgrade.planned(1)
    assert (second.version, second.about, [lock.table for lock in second.locks]) == (2, "New things", ["old"])
    assert [(lock.table, lock.command) for lock in third.locks] == [("old", "CREATE INDEX k ON old (id)")]
    assert upgrade.planned(3) == []


def test_public_names_are_sorted_and_documented() -> None:
    assert provision.__all__ == sorted(provision.__all__)
    for name in provision.__all__:
        assert getattr(provision, name).__doc__, name
