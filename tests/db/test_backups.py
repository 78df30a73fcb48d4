"""Dump and load: every row of every table comes through, or nothing does."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from attrs import evolve
from databases import OfServer, name_of
from filling import counts, fill, prints
from patience import PATIENCE_S
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from atlas_sdk import (
    Atlas,
    AtlasError,
    BackupFailed,
    DatabaseUnreachable,
    FileProblem,
    InvalidInput,
    SchemaMismatch,
    backups,
)
from atlas_sdk._embedded import locks, places
from atlas_sdk.backups import archive as archives
from atlas_sdk.backups import programs
from atlas_sdk.backups.archive import Archive
from atlas_sdk.backups.atomic_output import Partial
from atlas_sdk.backups.seal import Seal
from atlas_sdk.ops import schema

#: Of a dump without a seal: most that do no harm are loaded, which takes its time.
FLIPS = int(os.environ.get("ATLAS_TEST_FLIPS", "8"))
#: The folders of Debian's programs, the oldest first.
SYSTEM = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
MISSING = "a second version of PostgreSQL is not installed: apt-get install postgresql"


@pytest.fixture(scope="module")
def filled_on(databases: OfServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Makes, once a server, a database with rows in every table; returns its name."""
    with ExitStack() as stack:

        @cache
        def of(server: str) -> str:
            url = stack.enter_context(databases(server).made())
            fill(url, tmp_path_factory.mktemp("projects"))
            return name_of(url)

        yield of


@pytest.fixture
def filled(server: str, databases: OfServer, filled_on: Callable[[str], str]) -> Iterator[str]:
    """A database with rows in every table."""
    with databases(server).made(template=filled_on(server)) as url:
        yield url


@pytest.fixture
def second_dsn(empty_dsn: str) -> str:
    """Another database of the same server, empty."""
    return empty_dsn


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "projects")


def vacant(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def functions_and_more(dsn: str) -> list[Any]:
    """Everything of the schema that is no row."""
    with psycopg.connect(dsn) as connection:
        return connection.execute("""
            SELECT 'function', p.oid::regprocedure::text, prosrc || proconfig::text || prosecdef FROM pg_proc p
            WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT 'constraint', conname,
                             -- A nested AND comes back flat.
                             translate(pg_get_constraintdef(oid), '()', '') FROM pg_constraint
                      WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
            UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT 'policy', tablename || policyname, coalesce(qual, '') || coalesce(with_check, '')
                      FROM pg_policies
            UNION ALL SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = 'public'
            UNION ALL SELECT 'security', relname, relrowsecurity::text || coalesce(reloptions::text, '') FROM pg_class
                      WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
            UNION ALL SELECT 'column', attrelid::regclass || '.' || attname,
                             attstorage::text || format_type(atttypid, atttypmod) || attnotnull FROM pg_attribute
                      WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
                        AND attnum > 0
            ORDER BY 1, 2, 3
        """).fetchall()


@pytest.mark.every_server
def test_round_trip_keeps_every_row_of_every_table(filled: str, second_dsn: str, tmp_path: Path) -> None:
    before = prints(filled)
    told: list[backups.Progress] = []
    made = backups.dump(tmp_path / "a.dump", filled, on_progress=told.append)
    assert made.rows == counts(filled) == {table: amount for table, (amount, _) in before.items()}
    assert (made.size, made.sha256) == (
        made.file.stat().st_size,
        hashlib.sha256(made.file.read_bytes()).hexdigest(),
    )
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    assert left_in(tmp_path) == ["a.dump"]
    assert {progress.name for progress in told} == set(before)
    told.clear()
    loaded = backups.load(made.file, second_dsn, on_progress=told.append)
    assert prints(second_dsn) == before
    assert functions_and_more(second_dsn) == functions_and_more(filled)
    assert (loaded.ok, loaded.rows, loaded.users, loaded.sealed) == (True, made.rows, 2, True)
    assert loaded.versions > 60
    assert loaded.dumped_version == loaded.schema_version == made.schema_version
    assert {progress.step for progress in told} == {"load", "index", "verify"}
    # It works on: a client finds everything, and triggers and quotas do their work.
    with Atlas.open(second_dsn) as atlas:
        ada = atlas.users.by_email("ada@example.com")
        assert ada is not None
        (project,) = atlas.projects.list(ada)
        assert atlas.memory.read(project, "CLAUDE.md", "first").startswith(b"# Rules of ada\n")
        assert atlas.memory.snapshot(project, "CLAUDE.md", b"new") is not None
        atlas.quotas.reserve(ada, tokens=10)
        assert not atlas.quotas.verify().unbalanced
        new = atlas.users.create("carol@example.com")
        assert atlas.quotas.usage(new).tokens_limit == 1_000_000
        if loaded.granted:
            assert [found.id for found in atlas.as_user(ada).projects.list(ada)] == [project.id]


def test_embedded_to_embedded(tmp_path: Path, folder: Path) -> None:
    homes = [tmp_path / "home-1", tmp_path / "home-2"]
    with Atlas.open(home=homes[0]) as atlas:
        fill(atlas.url, tmp_path / "projects")
        before = prints(atlas.url)
        made = backups.dump(tmp_path / "a.dump", atlas)
    assert backups.dump(tmp_path / "b.dump", home=homes[0]).rows == made.rows
    loaded = backups.load(made.file, home=homes[1])
    assert loaded.ok
    assert loaded.granted
    with Atlas.open(home=homes[1]) as atlas:
        assert prints(atlas.url) == before
    for home in homes:
        _remove(home)


def _remove(home: Path) -> None:
    """Wait until the server of a home is gone, and remove its data, which may be elsewhere."""
    import shutil

    for _ in locks.polling(PATIENCE_S):
        if not locks.is_held(home / "postgres.run" / "server.lock"):
            break
    shutil.rmtree((home / "postgres").resolve())


def only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Let no other programs be on this machine."""
    known = [path.parent for path in programs._candidates("pg_dump")]
    chosen = [folder for folder in known if folder in folders]
    assert chosen
    monkeypatch.setattr(programs, "_candidates", lambda name: iter([folder / name for folder in chosen]))


def bundled() -> Path:
    return places.carried()[places.MAJOR] / "bin"


@pytest.mark.skipif(not SYSTEM, reason=MISSING)
@pytest.mark.parametrize("tools", ["all", "bundled", "system"])
def test_across_majors_both_ways(
    filled: str, databases: OfServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: str
) -> None:
    """With the programs of either server, and with those of the embedded one alone, as on a machine without others."""
    before = prints(filled)
    up = backups.dump(tmp_path / "new.dump", filled)
    with databases("system").made(template="template1") as old, databases("embedded").made(template="template1") as new:
        if tools == "bundled":
            only(monkeypatch, bundled())
        assert backups.load(up.file, old).ok
        assert prints(old) == before
        with psycopg.connect(old) as connection:
            # An option of one's own beside what the server notes there.
            connection.execute("ALTER TABLE users ALTER COLUMN name SET (n_distinct = 7)")
        if tools == "system":
            only(monkeypatch, SYSTEM[0])
        down = backups.dump(tmp_path / "old.dump", old)
        assert int(down.server_version.split(".")[0]) < int(up.server_version.split(".")[0])
        assert (down.program.parent == bundled()) is (tools == "bundled")
        if tools == "system":
            monkeypatch.undo()
        assert Archive.open(down.file).seal == Seal(rows=down.rows)
        with databases("system").made(template="template1") as again:
            for dsn in (again, new):
                assert_loaded(down.file, dsn, before, n_distinct="n_distinct=7")
        assert functions_and_more(new) == functions_and_more(filled)


def assert_loaded(file: Path, dsn: str, rows: Any, *, n_distinct: str) -> None:
    loaded = backups.load(file, dsn)
    assert (loaded.ok, loaded.sealed) == (True, True)
    assert prints(dsn) == rows
    with psycopg.connect(dsn) as connection:
        options = "SELECT attoptions FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'name'"
        row = connection.execute(options).fetchone()
    assert row is not None
    assert [option for option in row[0] if not option.startswith("pg_")] == [n_distinct]


@pytest.mark.skipif(not SYSTEM, reason=MISSING)
def test_a_seal_is_nothing_to_any_program(databases: OfServer, filled_on: Callable[[str], str], tmp_path: Path) -> None:
    with databases("system").made(template=filled_on("system")) as old:
        rows = counts(old)
        sealed = tmp_path / "sealed.dump"
        for folder in SYSTEM:
            sealed.write_bytes(by_hand(old, folder / "pg_dump"))
            sealed.write_bytes(sealed.read_bytes() + Seal(rows=rows).ending(sealed))
            read = subprocess.run([folder / "pg_restore", "--file=-", sealed], capture_output=True)
            assert (read.returncode, read.stderr) == (0, b"")
            assert Archive.open(sealed).seal == Seal(rows=rows)


def test_what_a_server_notes_at_a_column_is_left_out() -> None:
    """As pg_dump 18.4 writes it of PostgreSQL 15.20, whose minor it does not know; whoever set an option keeps it."""
    left_out = [
        b"ALTER TABLE ONLY public.users ALTER COLUMN id SET (pg_attver=26542760);\n",
        b'ALTER TABLE ONLY public."we;ird" ALTER COLUMN "a;b\'" SET (pg_attver=1);\n',
    ]
    changed = {
        b"ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=2, n_distinct=-0.5, n_distinct_inherited=4);\n": (
            b"ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=-0.5, n_distinct_inherited=4);\n"
        ),
    }
    kept = [
        b"ALTER TABLE ONLY public.t ALTER COLUMN pg_a SET (n_distinct=3);\n",
        b"ALTER TABLE ONLY public.t ALTER COLUMN a SET STORAGE EXTERNAL;\n",
        b"ALTER TABLE ONLY public.t ALTER COLUMN a SET DEFAULT pg_backend_pid();\n",
        b"COPY public.t (a) FROM stdin;\n",
        *left_out,
        b"\\.\n",
    ]
    script = b"".join([*left_out, *changed, *kept])
    assert list(archives._plain(io.BytesIO(script))) == [*changed.values(), *kept]


def test_a_server_is_read_by_its_own_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they are older than it is, or not there; then by the newest."""
    versions = {"18.4": (18, 4), "17.2": (17, 2), "15.20": (15, 20), "15.8": (15, 8), "broken": (0, 0)}
    monkeypatch.setattr(programs, "_candidates", lambda name: iter([Path(each) for each in versions]))
    monkeypatch.setattr(programs, "_version", lambda path: versions[str(path)])
    monkeypatch.setattr(programs, "_has_tls", lambda path: str(path) != "18.4")
    chosen = {(15, 20): "15.20", (15, 8): "15.20", (15, 21): "18.4", (16, 1): "18.4", (17, 1): "17.2", (18, 9): "18.4"}
    assert {server: str(programs.of_server("pg_dump", server)) for server in chosen} == chosen
    assert str(programs.of_server("pg_dump", (15, 21), tls=True)) == "17.2"
    with pytest.raises(BackupFailed, match="the connection uses TLS"):
        programs.of_server("pg_dump", (18, 4), tls=True)


def test_password_is_on_no_command_line(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []
    original = subprocess.Popen

    def spied(command: Any, **more: Any) -> Any:
        if "env" in more and "--format=custom" in command:
            seen.append(([str(word) for word in command], more["env"]))
        return original(command, **more)

    monkeypatch.setattr(subprocess, "Popen", spied)
    with_password = make_conninfo(**conninfo_to_dict(dsn) | {"password": "s3 cr'et"})
    backups.dump(tmp_path / "a.dump", with_password)
    ((command, environment),) = seen
    assert "cr'et" not in " ".join(command).replace("\\", "")
    assert environment["PGPASSWORD"] == "s3 cr'et"
    with pytest.raises(InvalidInput, match="sslpassword"):
        backups.dump(tmp_path / "b.dump", make_conninfo(**conninfo_to_dict(dsn) | {"sslpassword": "x"}))
    assert left_in(tmp_path) == ["a.dump"]


def test_file_that_is_there_is_replaced_only_when_told(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "a.dump"
    file.write_bytes(b"mine")
    with pytest.raises(FileProblem, match="is there already.*--force"):
        backups.dump(file, dsn)
    assert file.read_bytes() == b"mine"
    backups.dump(file, dsn, overwrite=True)
    assert file.read_bytes().startswith(b"PGDMP")
    for place, reason in ((tmp_path, "is a folder"), (tmp_path / "no" / "a.dump", "is not there; make it")):
        with pytest.raises(FileProblem, match=reason):
            backups.dump(place, dsn, overwrite=True)
    assert left_in(tmp_path) == ["a.dump"]


def test_file_that_appears_meanwhile_is_not_replaced(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "a.dump"
    with pytest.raises(FileProblem, match="is there already"):
        backups.dump(file, dsn, on_progress=lambda _: file.write_bytes(b"mine") and None)
    assert file.read_bytes() == b"mine"
    assert left_in(tmp_path) == ["a.dump"]


def test_login_that_sees_a_part_of_the_rows_dumps_nothing(filled: str, tmp_path: Path) -> None:
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS backup_reader")
        connection.execute("CREATE ROLE backup_reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO backup_reader")
    as_reader = make_conninfo(**conninfo_to_dict(filled) | {"options": "-crole=backup_reader"})
    with pytest.raises(BackupFailed, match="does not see all rows .*row-level security.* dump as the owner"):
        backups.dump(tmp_path / "a.dump", as_reader)
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute("REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM backup_reader")
        connection.execute("ALTER ROLE backup_reader BYPASSRLS")
    with pytest.raises(BackupFailed, match="does not see all rows .permission denied for table build_logs"):
        backups.dump(tmp_path / "a.dump", as_reader)
    assert left_in(tmp_path) == []
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute("DROP OWNED BY backup_reader")
        connection.execute("DROP ROLE backup_reader")


DUMPING = """
import os, resource, signal, sys
from atlas_sdk import backups
def act(progress):
    if progress.done >= 3:
        {act}
{before}
backups.dump(sys.argv[1], sys.argv[2], on_progress=act)
"""


@pytest.mark.parametrize("how", ["killed", "interrupted", "disk full"])
def test_dump_that_does_not_end_leaves_no_file(filled: str, tmp_path: Path, how: str) -> None:
    act, before = {
        "killed": ("os.kill(os.getpid(), signal.SIGKILL)", ""),
        "interrupted": ("os.kill(os.getpid(), signal.SIGINT)", ""),
        "disk full": ("pass", "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))"),
    }[how]
    file = tmp_path / "a.dump"
    command = [sys.executable, "-c", DUMPING.format(act=act, before=before), file, filled]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == {"killed": -signal.SIGKILL, "interrupted": -signal.SIGINT, "disk full": 1}[how], ended
    assert not file.exists()
    if how == "killed":
        (half,) = tmp_path.glob(".a.dump.*")
        # Until its pg_dump, which nobody stopped, is through.
        for _ in locks.polling(PATIENCE_S):
            backups.dump(file, filled, overwrite=True)
            if not half.exists():
                break
        assert left_in(tmp_path) == ["a.dump"]
    else:
        assert left_in(tmp_path) == []
    if how == "disk full":
        assert "BackupFailed: pg_dump failed, and nothing was kept" in ended.stderr


def test_half_file_of_a_dump_at_work_is_left_alone(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "a.dump"
    made: list[backups.Dumped] = []

    def second(_: backups.Progress) -> None:
        if not made:
            made.append(backups.dump(file, dsn))

    with pytest.raises(FileProblem, match="is there already"):
        backups.dump(file, dsn, on_progress=second)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == made[0].sha256
    assert left_in(tmp_path) == ["a.dump"]


def test_half_file_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tempfile.mkstemp
    place = tmp_path / "a.dump"
    names: list[str] = []

    def swept(**where: Any) -> tuple[int, str]:
        descriptor, name = original(**where)
        names.append(name)
        if len(names) == 1:
            # Another dump begins, and ends, between the two steps of this one.
            with Partial(place, overwrite=True):
                assert not Path(name).exists()
        return descriptor, name

    monkeypatch.setattr(tempfile, "mkstemp", swept)
    with Partial(place, overwrite=True) as partial:
        assert os.path.samestat(os.fstat(partial.descriptor), partial.path.stat())
        assert stat.S_IMODE(partial.path.stat().st_mode) == 0o600
        partial.path.write_bytes(b"whole")
        assert partial.size() == 5
        partial.publish()
    assert place.read_bytes() == b"whole"
    assert len(names) == 3
    assert left_in(tmp_path) == ["a.dump"]


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
        # As db init does for a login.
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


def by_hand(dsn: str, program: Path | None = None) -> bytes:
    """A dump that pg_dump makes by itself."""
    program = program or programs.newest("pg_dump", at_least=18)
    return subprocess.run([program, "--format=custom", "--dbname", dsn], capture_output=True, check=True).stdout


def flipped(whole: bytes, bit: int) -> bytes:
    """A file with one bit that is not as it was."""
    at, turn = divmod(bit, 8)
    return whole[:at] + bytes([whole[at] ^ 1 << turn]) + whole[at + 1 :]


def refused(file: Path, dsn: str) -> str:
    """Load what cannot be loaded; return why not."""
    with pytest.raises(BackupFailed) as caught:
        backups.load(file, dsn)
    assert vacant(dsn)
    return str(caught.value)


def test_no_flipped_bit_of_a_sealed_dump_is_loaded(filled: str, tmp_path: Path) -> None:
    """Nor looked at by a server: there is none at this address."""
    nowhere = "postgresql://127.0.0.1:1/none"
    file = backups.dump(tmp_path / "a.dump", filled).file
    whole = file.read_bytes()
    end = whole.rindex(b'\n{"rows": ')
    chosen = random.Random(7).sample(range(end * 8), 1_500)
    for bit in [*chosen, *range(end * 8, len(whole) * 8)]:
        file.write_bytes(flipped(whole, bit))
        with pytest.raises(BackupFailed, match="damaged.*; nothing was written|is no dump in pg_dump's custom format"):
            backups.load(file, nowhere)
    file.write_bytes(whole)
    with pytest.raises(DatabaseUnreachable):
        backups.load(file, nowhere)


def test_cut_seal_is_refused_and_a_dump_without_one_is_loaded(filled: str, second_dsn: str, tmp_path: Path) -> None:
    file = backups.dump(tmp_path / "a.dump", filled).file
    whole = file.read_bytes()
    end = whole.rindex(b'\n{"rows": ')
    for size in [*range(end + 1, len(whole)), end - 1]:
        file.write_bytes(whole[:size])
        with pytest.raises(BackupFailed, match="cut short or damaged"):
            backups.load(file, "postgresql://127.0.0.1:1/none")
    file.write_bytes(whole + b"\n")
    assert "cut short or damaged" in refused(file, second_dsn)
    file.write_bytes(whole[:end])
    loaded = backups.load(file, second_dsn)
    assert (loaded.ok, loaded.sealed) == (True, False)
    assert prints(second_dsn) == prints(filled)


@pytest.mark.every_server
def test_dump_by_hand_is_loaded_and_has_no_seal(filled: str, second_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "a.dump").write_bytes(by_hand(filled))
    loaded = backups.load(tmp_path / "a.dump", second_dsn)
    assert (loaded.ok, loaded.sealed) == (True, False)
    assert prints(second_dsn) == prints(filled)
    assert functions_and_more(second_dsn) == functions_and_more(filled)


def test_flipped_bit_of_a_dump_by_hand_never_changes_what_the_migrations_make(
    filled: str, second_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.dump"
    whole = by_hand(filled)

    def with_bit(found: bytes, offset: int, turn: int) -> None:
        assert whole.count(found) == 1
        file.write_bytes(flipped(whole, (whole.index(found) + offset) * 8 + turn))

    # "=" becomes "<": whose id is smaller sees what is another's.
    policy = b"CREATE POLICY tenant ON public.projects USING ((user_id ="
    with_bit(policy, len(policy) - 1, 0)
    assert "makes something else than the migrations of AtlasEngine do (policy projects.tenant)" in refused(
        file, second_dsn
    )
    # The rows of a table come before the data, where nobody asks for rows.
    data = b"\0\6\0\0\0claims\0\n\0\0\0TABLE DATA\0\3"
    with_bit(data, len(data) - 1, 0)
    refused(file, second_dsn)
    # Nor anywhere else.
    with_bit(data, len(data) - 1, 2)
    assert "it has no rows of claims, not even that there are none" in refused(file, second_dsn)
    # No UTF-8.
    with_bit(policy, 7, 7)
    assert "it holds statements that are not UTF-8" in refused(file, second_dsn)
    copy = b"COPY public.claims ("
    with_bit(copy, len(copy) - 1, 7)
    assert "it holds statements that are not UTF-8" in refused(file, second_dsn)


def test_any_flipped_bit_of_a_dump_by_hand_is_refused_or_harmless(
    filled: str, databases: OfServer, tmp_path: Path
) -> None:
    file = tmp_path / "a.dump"
    whole = by_hand(filled)
    before, made = prints(filled), functions_and_more(filled)
    # Up to about where the rows begin: those are compressed, with a checksum.
    for bit in random.Random(8).sample(range(whole.rindex(b"CREATE POLICY") * 8), FLIPS):
        file.write_bytes(flipped(whole, bit))
        with databases("embedded").made(template="template1") as target:
            try:
                loaded = backups.load(file, target)
            except AtlasError:
                assert vacant(target), bit
            else:
                assert not loaded.sealed
                assert (prints(target), functions_and_more(target)) == (before, made), bit


def test_rows_that_the_seal_names_have_to_come(filled: str, second_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "a.dump"
    rows = counts(filled)
    file.write_bytes(by_hand(filled))
    file.write_bytes(file.read_bytes() + Seal(rows=rows | {"claims": rows["claims"] + 1}).ending(file))
    assert f"claims: {rows['claims']} of {rows['claims'] + 1}" in refused(file, second_dsn)


@pytest.mark.parametrize("how", ["replaced", "changed", "removed"])
def test_file_that_is_another_one_at_the_end_is_refused(dsn: str, second_dsn: str, tmp_path: Path, how: str) -> None:
    file = backups.dump(tmp_path / "a.dump", dsn).file

    def act(progress: backups.Progress) -> None:
        if progress.step != "index":
            return
        # The index step reads its part of the file afterwards: what a mixture says by chance is no test.
        whole = file.read_bytes()
        if how == "changed":
            os.utime(file, ns=(0, 0))
            return
        file.unlink()
        if how == "replaced":
            file.write_bytes(whole)

    with pytest.raises(BackupFailed, match="was replaced or changed while it was loaded|cannot be read"):
        backups.load(file, second_dsn, on_progress=act)
    assert vacant(second_dsn)


def test_what_was_changed_by_hand_before_is_named_and_what_was_added_is_loaded(
    filled: str, second_dsn: str, tmp_path: Path
) -> None:
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute("CREATE INDEX by_name ON users (name)")
        connection.execute("CREATE TABLE diary (day date)")
        connection.execute("ALTER TABLE events SET (autovacuum_vacuum_scale_factor = 0.01)")
        connection.execute("ALTER TABLE builds DISABLE ROW LEVEL SECURITY")
    made = backups.dump(tmp_path / "a.dump", filled)
    assert "do (table builds): it was changed by hand in the database that was dumped" in refused(made.file, second_dsn)
    with psycopg.connect(filled, autocommit=True) as connection:
        connection.execute("ALTER TABLE builds ENABLE ROW LEVEL SECURITY")
    made = backups.dump(tmp_path / "b.dump", filled)
    assert backups.load(made.file, second_dsn).ok
    with psycopg.connect(second_dsn) as connection:
        assert connection.execute("SELECT to_regclass('by_name')::text, to_regclass('diary')::text").fetchone() == (
            "by_name",
            "diary",
        )


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


def test_dump_holds_one_moment(filled: str, second_dsn: str, tmp_path: Path) -> None:
    """What is written while it runs is not in it, whichever table comes later."""
    before = prints(filled)
    with psycopg.connect(filled, autocommit=True) as connection:
        made = backups.dump(
            tmp_path / "a.dump",
            filled,
            on_progress=lambda _: connection.execute("INSERT INTO events (type) VALUES ('late')") and None,
        )
    assert backups.load(made.file, second_dsn).ok
    assert prints(second_dsn) == before != prints(filled)


def test_missing_programs_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BackupFailed,
        match=r"the server is PostgreSQL 99, and the newest pg_dump here is of \d+ .*"
        r"version 99 or newer .apt install postgresql-client-99",
    ):
        programs.newest("pg_dump", at_least=99)
    with pytest.raises(BackupFailed, match="there is no pg_nothing here"):
        programs.newest("pg_nothing", at_least=15)


def test_tls_needs_a_program_that_was_built_with_it() -> None:
    """The embedded server's programs were not."""
    plain = programs.newest("pg_dump", at_least=18)
    assert not programs._has_tls(plain)
    system = Path("/usr/bin/pg_dump")
    if not system.exists():
        with pytest.raises(BackupFailed, match="the connection uses TLS, and no pg_dump here was built with it"):
            programs.newest("pg_dump", at_least=1, tls=True)
    else:
        assert programs._has_tls(programs.newest("pg_dump", at_least=1, tls=True))
    with pytest.raises(BackupFailed, match="the connection uses TLS|the newest pg_dump here"):
        programs.newest("pg_dump", at_least=99, tls=True)


def test_unreachable_server_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable):
        backups.dump(tmp_path / "a.dump", "postgresql://127.0.0.1:1/none")
    assert left_in(tmp_path) == []
