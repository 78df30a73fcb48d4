import hashlib
import os
import pty
import subprocess
from pathlib import Path

import programs
import psycopg
import pytest
from filling import fill, prints
from old_homes import old_cluster

from atlas_sdk import Atlas
from atlas_sdk._embedded import places
from atlas_sdk._embedded.account import find_account
from atlas_sdk.dsn import masked


def test_dump_and_load(cli, dsn, empty_dsn, tmp_path):
    fill(dsn, tmp_path / "projects")
    before = prints(dsn)
    file = tmp_path / "a.dump"
    made = cli("db", "dump", file, "--dsn", dsn, "--json").record
    assert (made["file"], made["bytes"]) == (str(file), file.stat().st_size)
    assert made["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert made["rows"] == {table: amount for table, (amount, _) in before.items()}
    assert made["seconds"] > 0
    again = cli("db", "dump", file, "--dsn", dsn)
    assert (again.code, again.sentence) == (
        1,
        f"{file} is there already: choose another name, or overwrite it (--force)",
    )
    shown = cli("db", "dump", "--force", file, "--dsn", dsn)
    assert f" {sum(made['rows'].values()):,} rows, in " in shown.out
    assert f"\ndatabase: {masked(dsn)}\n" in shown.out
    assert made["database"] == masked(dsn)
    loaded = cli("db", "load", file, "--dsn", empty_dsn, "--json").record
    assert loaded["database"] == masked(empty_dsn)
    assert (loaded["ok"], loaded["rows"], loaded["users"]) == (True, made["rows"], 2)
    assert prints(empty_dsn) == before
    over = cli("db", "load", file, "--dsn", empty_dsn)
    assert over.code == 1
    assert "is not empty, and a load never goes over data" in over.sentence


def test_load_says_when_a_dump_has_no_seal(cli, dsn, empty_dsn, tmp_path):
    file = tmp_path / "a.dump"
    cli("db", "dump", file, "--dsn", dsn)
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rindex(b'\n{"rows": ')])
    ran = cli("db", "load", file, "--dsn", empty_dsn)
    assert ran.code == 0
    assert "the file has no seal, so a change to it since the dump would not show" in ran.err
    file.write_bytes(whole)
    again = cli("db", "load", file, "--dsn", empty_dsn)
    assert "seal" not in again.err + again.out
    assert cli("db", "load", file, "--dsn", empty_dsn, "--json").record["sealed"]


def test_load_says_what_reads_back_wrong(cli, dsn, empty_dsn, tmp_path):
    fill(dsn, tmp_path / "projects")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE memory_blobs SET data = 'damaged' WHERE depth = 0")
    cli("db", "dump", tmp_path / "a.dump", "--dsn", dsn)
    loaded = cli("db", "load", tmp_path / "a.dump", "--dsn", empty_dsn)
    assert loaded.code == 6
    assert "the bytes do not match" in loaded.err
    assert "rows loaded" in loaded.out
    assert f"\ndatabase: {masked(empty_dsn)}\n" in loaded.out


def test_a_load_into_a_home_is_not_one_into_the_server_of_the_environment(cli, dsn, home, tmp_path, monkeypatch):
    """The command is from docs/backups.md. Here the home is not empty, so its refusal shows that it was the target."""
    cli("db", "dump", tmp_path / "a.dump", "--dsn", dsn)
    with Atlas.open(home=home) as embedded:
        embedded.users.local()
    monkeypatch.setenv("ATLAS_DATABASE_URL", "postgresql://127.0.0.1:1/production")
    ran = cli("db", "load", tmp_path / "a.dump", "--home", home)
    assert ran.code == 1
    assert "is not empty, and a load never goes over data" in ran.sentence


def test_a_folder_that_is_not_there_is_not_made(cli, dsn, tmp_path):
    folder = tmp_path / "unmounted"
    for arguments in (["--force"], []):
        ran = cli("db", "dump", folder / "a.dump", "--dsn", dsn, *arguments)
        assert ran.code == 1
        assert f"the folder {folder} is not there; make it, or mount its disk" in ran.sentence
        assert not folder.exists()


def test_progress_is_shown_on_a_terminal_and_gone_at_the_end(atlasctl, dsn, tmp_path):
    terminal, stderr = pty.openpty()
    command = [atlasctl, "db", "dump", tmp_path / "a.dump", "--dsn", dsn]
    with programs.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process:
        os.close(stderr)
        shown = b""
        # On Linux, reading fails with EIO after the last writer has closed the terminal.
        try:
            while chunk := os.read(terminal, 4096):
                shown += chunk
        except OSError:
            pass
        out = process.stdout.read()
    os.close(terminal)
    assert process.returncode == 0
    assert b"dumping " in shown
    assert shown.endswith(b"\r\x1b[K")
    assert out.startswith(os.fsencode(tmp_path / "a.dump"))


def test_older_major_is_upgraded_with_a_line_on_stderr(atlasctl, tmp_path, monkeypatch):
    """The home is as an older release would have made it, with the whole schema, and is verified afterwards."""
    from atlas_sdk._embedded.account import find_account
    from atlas_sdk._embedded.server import _dsn

    home = tmp_path / "home"
    cluster = old_cluster(home)
    url = _dsn(cluster.serve(), find_account().name)
    Atlas.open(url, migrate=True).close()
    fill(url, tmp_path / "projects")
    before = prints(url)
    cluster.stop()
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "5")
    opened = programs.run([atlasctl, "db", "status", "--home", home], capture_output=True, text=True)
    assert opened.returncode == 0, opened.stderr
    first, _, last = opened.stderr.splitlines()
    assert first.startswith("Upgrading ")
    assert f"from PostgreSQL {cluster.major} to {places.MAJOR}" in first
    assert "remove it when all is well" in last
    with Atlas.open(home=home) as atlas:
        assert prints(atlas.url) == before
        assert all(atlas.memory.verify(user).ok for user in atlas.users.list())
        assert not atlas.quotas.verify().unbalanced
        ada = atlas.users.by_email("ada@example.com")
        atlas.quotas.reserve(ada, tokens=1)
        assert atlas.as_user(ada).projects.list(ada)
    _remove(home)


def _remove(home: Path) -> None:
    import shutil

    from atlas_sdk._embedded import locks

    for _ in locks.polling(60):
        if not locks.is_held(home / "postgres.run" / "server.lock"):
            break
    data = (home / "postgres").resolve()
    for path in [data, *data.parent.glob(f"{data.name}.*")]:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "db")
    assert find_account()
