"""Seals: a dump that was damaged or replaced is refused."""

from __future__ import annotations

import os
import random
from pathlib import Path

import psycopg
import pytest
from databases import OfServer
from dumps import by_hand, functions_and_more, vacant
from filling import counts, prints

from atlas_sdk import (
    AtlasError,
    BackupFailed,
    DatabaseUnreachable,
    backups,
)
from atlas_sdk.backups.seal import Seal

#: The number of flipped bits to try in a dump without a seal. Most are harmless, and then the whole dump is loaded.
FLIPS = int(os.environ.get("ATLAS_TEST_FLIPS", "4"))


def flipped(whole: bytes, bit: int) -> bytes:
    """Return a file's content with one bit flipped."""
    at, turn = divmod(bit, 8)
    return whole[:at] + bytes([whole[at] ^ 1 << turn]) + whole[at + 1 :]


def refused(file: Path, dsn: str) -> str:
    """Check that a file cannot be loaded and that the database stays empty; return the reason."""
    with pytest.raises(BackupFailed) as caught:
        backups.load(file, dsn)
    assert vacant(dsn)
    return str(caught.value)


def test_no_flipped_bit_of_a_sealed_dump_is_loaded(filled: str, tmp_path: Path) -> None:
    """The refusal comes before a connection, because no server listens at this address."""
    nowhere = "postgresql://127.0.0.1:1/none"
    file = backups.dump(tmp_path / "a.dump", filled).file
    whole = file.read_bytes()
    end = whole.rindex(b'\n{"rows": ')
    chosen = random.Random(7).sample(range(end * 8), 300)
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

    # "=" becomes "<", so that a user with a smaller id would see rows of others.
    policy = b"CREATE POLICY tenant ON public.projects USING ((user_id ="
    with_bit(policy, len(policy) - 1, 0)
    assert "makes something else than the migrations of AtlasEngine do (policy projects.tenant)" in refused(
        file, second_dsn
    )
    # Move the entry of a table's data to a section from which no rows are read.
    data = b"\0\6\0\0\0claims\0\n\0\0\0TABLE DATA\0\3"
    with_bit(data, len(data) - 1, 0)
    refused(file, second_dsn)
    # Move it to a section that does not exist.
    with_bit(data, len(data) - 1, 2)
    assert "it has no rows of claims, not even that there are none" in refused(file, second_dsn)
    # Make the text invalid UTF-8.
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
    # Flip bits only before the rows, because the rows are compressed with a checksum.
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
        # The index step still reads its part of the file, so the new file must have the same content.
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
