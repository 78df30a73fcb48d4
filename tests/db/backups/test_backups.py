"""Dump and load: every row of every table is loaded, or nothing."""

from __future__ import annotations

import hashlib
import io
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import OfServer
from dumps import by_hand, functions_and_more, left_in
from filling import counts, fill, prints
from patience import PATIENCE_S

from atlas_sdk import (
    Atlas,
    BackupFailed,
    DatabaseUnreachable,
    backups,
)
from atlas_sdk._embedded import locks, places
from atlas_sdk.backups import archive as archives
from atlas_sdk.backups import programs
from atlas_sdk.backups.archive import Archive
from atlas_sdk.backups.seal import Seal

#: The folders of Debian's programs, the oldest first.
SYSTEM = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))


MISSING = "a second version of PostgreSQL is not installed: apt-get install postgresql"


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
    # The loaded database works: a client finds all rows, and triggers and quotas work.
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


def test_fencing_numbers_rise_over_loads(
    filled: str, databases: OfServer, server: str, empty_dsn: str, tmp_path: Path
) -> None:
    given: dict[str, list[int]] = {}

    def use(dsn: str) -> None:
        with Atlas.open(dsn) as atlas:
            for user in atlas.users.list():
                given.setdefault(user.email, []).extend(atlas.quotas.reserve(user, tokens=1).epoch for _ in range(3))

    with Atlas.open(filled) as atlas:
        atlas.users.create("carol@example.com")
    made = backups.dump(tmp_path / "a.dump", filled)
    # The dump does not know the numbers of the first use, and the second load does not know those of the first.
    use(filled)
    backups.load(made.file, empty_dsn)
    use(empty_dsn)
    with databases(server).made(template="template1") as again:
        backups.load(made.file, again)
        use(again)
    assert [len(numbers) for numbers in given.values()] == [9, 9, 9]
    for numbers in given.values():
        assert numbers == sorted(set(numbers))


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
    """Wait until the server of a home has ended, and remove its data, which may be outside the home."""
    import shutil

    for _ in locks.polling(PATIENCE_S):
        if not locks.is_held(home / "postgres.run" / "server.lock"):
            break
    shutil.rmtree((home / "postgres").resolve())


def only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Hide all PostgreSQL programs of this machine but those in these folders."""
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
    """The test uses the programs of both servers, those of the embedded one alone, or those of the system alone."""
    before = prints(filled)
    up = backups.dump(tmp_path / "new.dump", filled)
    with databases("system").made(template="template1") as old, databases("embedded").made(template="template1") as new:
        if tools == "bundled":
            only(monkeypatch, bundled())
        assert backups.load(up.file, old).ok
        assert prints(old) == before
        with psycopg.connect(old) as connection:
            # Set an option of our own beside the entries that the server makes.
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
    """pg_dump 18.4 writes these for PostgreSQL 15.20, whose minor version it does not know. Real options stay."""
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
    """If the server's own programs are missing or older than the server, the newest programs are used."""
    versions = {"18.4": (18, 4), "17.2": (17, 2), "15.20": (15, 20), "15.8": (15, 8), "broken": (0, 0)}
    monkeypatch.setattr(programs, "_candidates", lambda name: iter([Path(each) for each in versions]))
    monkeypatch.setattr(programs, "_version", lambda path: versions[str(path)])
    monkeypatch.setattr(programs, "_has_tls", lambda path: str(path) != "18.4")
    chosen = {(15, 20): "15.20", (15, 8): "15.20", (15, 21): "18.4", (16, 1): "18.4", (17, 1): "17.2", (18, 9): "18.4"}
    assert {server: str(programs.of_server("pg_dump", server)) for server in chosen} == chosen
    assert str(programs.of_server("pg_dump", (15, 21), tls=True)) == "17.2"
    with pytest.raises(BackupFailed, match="the connection uses TLS"):
        programs.of_server("pg_dump", (18, 4), tls=True)


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
    """The programs of the embedded server were built without TLS."""
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
