"""Dump: a complete file or none, and no secret in view of other users."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dumps import left_in
from filling import prints
from patience import PATIENCE_S
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from atlas_sdk import (
    BackupFailed,
    FileProblem,
    InvalidInput,
    backups,
)
from atlas_sdk._embedded import locks
from atlas_sdk.backups.atomic_output import Partial


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
        # The pg_dump of the killed program still runs. Dump again until it has ended.
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
            # Another dump begins and ends between the two steps of this one.
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


def test_dump_holds_one_moment(filled: str, second_dsn: str, tmp_path: Path) -> None:
    """Rows that are written while the dump runs are not in it, not even in tables that it reads later."""
    before = prints(filled)
    with psycopg.connect(filled, autocommit=True) as connection:
        made = backups.dump(
            tmp_path / "a.dump",
            filled,
            on_progress=lambda _: connection.execute("INSERT INTO events (type) VALUES ('late')") and None,
        )
    assert backups.load(made.file, second_dsn).ok
    assert prints(second_dsn) == before != prints(filled)
