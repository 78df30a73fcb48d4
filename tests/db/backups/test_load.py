"""Load: all of a dump or nothing, without a change of other data."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from attrs import evolve
from databases import OfServer
from dumps import vacant
from filling import fill, prints
from patience import PATIENCE_S
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from atlas_sdk import (
    Atlas,
    BackupFailed,
    FileProblem,
    SchemaMismatch,
    backups,
)
from atlas_sdk.backups import archive as archives
from atlas_sdk.backups import programs
from atlas_sdk.ops import schema


def test_data_is_never_loaded_over(filled: str, tmp_path: Path) -> None:
    before = prints(filled)
    made = backups.dump(tmp_path / "a.dump", filled)
    with pytest.raises(BackupFailed, match="is not empty, and a load never goes over data .rows: .*fresh home"):
        backups.load(made.file, filled)
    assert prints(filled) == before


def test_schema_without_data_is_as_good_as_none(filled: str, databases: OfServer, tmp_path: Path) -> None:
    made = backups.dump(tmp_path / "a.dump", filled)
    with databases("embedded").made(template="template1") as target:
        Atlas.open(target, migrate=True).close()
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute("CREATE ROLE backup_owner")
            connection.execute("GRANT CREATE ON SCHEMA public TO backup_owner")
        try:
            _own_all(target, "backup_owner")
            assert backups.load(made.file, target).ok
            assert prints(target) == prints(filled)
            with psycopg.connect(target) as connection:
                owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
                assert connection.execute(owners).fetchall() == [("backup_owner",)]
        finally:
            with psycopg.connect(target, autocommit=True) as connection:
                connection.execute("DROP OWNED BY backup_owner CASCADE")
                connection.execute("DROP ROLE backup_owner")


def _own_all(dsn: str, role: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for kind, name in connection.execute("""
            SELECT 'ROUTINE', oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT 'VIEW', viewname FROM pg_views WHERE schemaname = 'public'
            UNION ALL SELECT 'TABLE', tablename FROM pg_tables WHERE schemaname = 'public'
            UNION ALL SELECT CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, oid::regtype::text FROM pg_type
            WHERE typnamespace = 'public'::regnamespace AND (typtype = 'd' OR typrelid IN
                (SELECT oid FROM pg_class WHERE relkind = 'c'))
        """).fetchall():
            connection.execute(f"ALTER {kind} {name} OWNER TO {role}")  # type: ignore[call-overload]


def test_any_login_may_load_what_another_dumped(filled: str, second_dsn: str, tmp_path: Path) -> None:
    made = backups.dump(tmp_path / "a.dump", filled)
    with psycopg.connect(second_dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE backup_other")
        connection.execute("GRANT CREATE ON SCHEMA public TO backup_other")
        # `db init` makes the same grant to a login.
        connection.execute("GRANT atlas_app TO backup_other")
    try:
        loaded = backups.load(
            made.file, make_conninfo(**conninfo_to_dict(second_dsn) | {"options": "-crole=backup_other"})
        )
        assert loaded.ok
        assert prints(second_dsn) == prints(filled)
        with psycopg.connect(second_dsn) as connection:
            owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
            assert connection.execute(owners).fetchall() == [("backup_other",)]
    finally:
        with psycopg.connect(second_dsn, autocommit=True) as connection:
            connection.execute("DROP OWNED BY backup_other CASCADE")
            connection.execute("DROP ROLE backup_other")


def test_things_of_others_are_not_touched(dsn: str, second_dsn: str, tmp_path: Path) -> None:
    made = backups.dump(tmp_path / "a.dump", dsn)
    with psycopg.connect(second_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE diary (day date)")
    with pytest.raises(BackupFailed, match=r"holds other things \(diary\)"):
        backups.load(made.file, second_dsn)
    with psycopg.connect(second_dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE diary")
        connection.execute("CREATE SCHEMA reports")
    assert backups.load(made.file, second_dsn).ok
    with psycopg.connect(second_dsn, autocommit=True) as connection:
        connection.execute("CREATE VIEW reports.people AS SELECT name FROM users")
    with pytest.raises(BackupFailed, match="other schemas of .* have things that are built on the tables"):
        backups.load(made.file, second_dsn)
    with psycopg.connect(second_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM reports.people").fetchone() == (0,)


def test_schema_of_another_name(dsn: str, second_dsn: str, databases: OfServer, tmp_path: Path) -> None:
    there = make_conninfo(**conninfo_to_dict(second_dsn) | {"options": "-csearch_path=atlas"})
    with psycopg.connect(second_dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA atlas")
    Atlas.open(there, migrate=True).close()
    fill(there, tmp_path / "projects")
    made = backups.dump(tmp_path / "a.dump", there)
    with databases("embedded").made(template="template1") as target:
        with pytest.raises(BackupFailed, match=r"in the schema atlas, and .*options=-csearch_path%3Datlas"):
            backups.load(made.file, target)
        assert vacant(target)
        to_schema = make_conninfo(**conninfo_to_dict(target) | {"options": "-csearch_path=atlas"})
        assert backups.load(made.file, to_schema).ok
        assert prints(to_schema) == prints(there)
        assert vacant(target)
        with Atlas.open(to_schema) as atlas:
            user = atlas.users.create("carol@example.com")
            atlas.quotas.reserve(user, tokens=5)


def test_file_that_was_cut_or_is_something_else_changes_nothing(filled: str, second_dsn: str, tmp_path: Path) -> None:
    whole = backups.dump(tmp_path / "a.dump", filled).file.read_bytes()
    cut = tmp_path / "cut.dump"
    for part in (0.999, 0.9, 0.5, 0.2, 0.01):
        cut.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(BackupFailed):
            backups.load(cut, second_dsn)
        assert vacant(second_dsn)
    cut.write_bytes(b"SELECT 1;")
    with pytest.raises(BackupFailed, match="is no dump in pg_dump's custom format"):
        backups.load(cut, second_dsn)
    with pytest.raises(FileProblem, match="no such file"):
        backups.load(tmp_path / "missing", second_dsn)


def test_rows_that_look_like_commands_are_rows() -> None:
    rows = [b"\\restrict me\n", b"SET transaction_timeout = 0;\n", b"COPY x FROM stdin;\n"]
    copy = [b"COPY public.t (a) FROM stdin;\n", *rows, b"\\.\n"]
    commands = [b"\\restrict key\n", b"SET transaction_timeout = 0;\n", b"SET lock_timeout = 0;\n"]
    script = [*commands, *copy, b"\\unrestrict key\n"]
    assert list(archives._plain(io.BytesIO(b"".join(script)))) == [commands[-1], *copy]


def test_dump_of_another_application_is_refused(empty_dsn: str, dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE diary (day date)")
    with pytest.raises(SchemaMismatch, match="nothing to dump"):
        backups.dump(tmp_path / "a.dump", empty_dsn)
    program = programs.newest("pg_dump", at_least=18)
    subprocess.run([program, "-Fc", f"--file={tmp_path / 'b.dump'}", "-d", empty_dsn], check=True)
    with pytest.raises(BackupFailed, match="it holds no AtlasEngine schema"):
        backups.load(tmp_path / "b.dump", dsn)


def test_interrupted_load_leaves_nothing(filled: str, second_dsn: str, tmp_path: Path) -> None:
    made = backups.dump(tmp_path / "a.dump", filled)

    class Stop(Exception):
        pass

    for step, at in (("load", 0), ("load", 10), ("index", 0)):

        def stop(progress: backups.Progress, step: str = step, at: int = at) -> None:
            if progress.step == step and progress.done >= at:
                raise Stop

        with pytest.raises(Stop):
            backups.load(made.file, second_dsn, on_progress=stop)
        assert vacant(second_dsn)
    code = """
import os, signal, sys
from atlas_sdk import backups
backups.load(sys.argv[1], sys.argv[2], on_progress=lambda p: p.step == "index" and os.kill(os.getpid(), signal.SIGKILL))
"""
    killed = subprocess.run([sys.executable, "-c", code, made.file, second_dsn], timeout=PATIENCE_S)
    assert killed.returncode == -signal.SIGKILL
    assert backups.load(made.file, second_dsn).ok
    assert prints(second_dsn) == prints(filled)


def test_older_dump_is_migrated_and_newer_one_refused(
    empty_dsn: str, databases: OfServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = schema.migrations()
    with monkeypatch.context() as older:
        older.setattr(schema, "migrations", lambda: known[:-1])
        Atlas.open(empty_dsn, migrate=True).close()
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO users (email) VALUES ('old@example.com')")
    made = backups.dump(tmp_path / "a.dump", empty_dsn)
    assert made.schema_version == len(known) - 1
    with databases("embedded").made(template="template1") as target:
        Atlas.open(target, migrate=True).close()
        loaded = backups.load(made.file, target)
        assert (loaded.dumped_version, loaded.schema_version) == (len(known) - 1, len(known))
        with Atlas.open(target) as atlas:
            assert [user.email for user in atlas.users.list()] == ["old@example.com"]
        newer = backups.dump(tmp_path / "b.dump", target)
    with databases("embedded").made(template="template1") as target, monkeypatch.context() as older:
        older.setattr(archives, "migrations", lambda: known[:-1])
        with pytest.raises(SchemaMismatch, match=f"has schema version {len(known)}, this .* upgrade AtlasEngine"):
            backups.load(newer.file, target)
        changed = [*known[:-1], evolve(known[-1], text="SELECT 1")]
        older.setattr(archives, "migrations", lambda: changed)
        with pytest.raises(SchemaMismatch, match="was dumped from a changed or unreleased version; load it with that"):
            backups.load(newer.file, target)
        # Let the dump come from an unreleased version with more migrations than its release.
        older.setattr(archives, "migrations", lambda: changed[-1:])
        with pytest.raises(SchemaMismatch, match="was dumped from a changed or unreleased version"):
            backups.load(newer.file, target)
        assert vacant(target)


def test_what_was_wrong_before_is_loaded_and_told(filled: str, second_dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute("UPDATE memory_blobs SET data = 'damaged' WHERE depth = 0")
        connection.execute("UPDATE user_quotas SET tokens_used = tokens_used + 1")
    before = prints(filled)
    loaded = backups.load(backups.dump(tmp_path / "a.dump", filled).file, second_dsn)
    assert prints(second_dsn) == before
    assert not loaded.ok
    assert loaded.broken
    assert len(loaded.unbalanced) == 2
