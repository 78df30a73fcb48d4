"""The table by which clients of one machine tell each other of new versions."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from atlas_sdk._shared_versions import SharedVersions

PROJECT = UUID(int=7)


def test_a_stamp_is_the_same_until_a_version_is_committed(tmp_path: Path) -> None:
    ours, theirs = SharedVersions(tmp_path / "heads"), SharedVersions(tmp_path / "heads")
    seen = ours.read(PROJECT, "a")
    mine = ours.bump(PROJECT, "a", seen=seen)
    assert mine == ours.read(PROJECT, "a") == theirs.read(PROJECT, "a")
    assert theirs.bump(PROJECT, "a", seen=mine) == ours.read(PROJECT, "a") != mine


def test_a_writer_that_was_overtaken_gets_no_stamp(tmp_path: Path) -> None:
    ours, theirs = SharedVersions(tmp_path / "heads"), SharedVersions(tmp_path / "heads")
    seen = ours.read(PROJECT, "a")
    theirs.bump(PROJECT, "a", seen=seen)
    assert ours.bump(PROJECT, "a", seen=seen) is None
    assert ours.bump(PROJECT, "a", seen=None) is None


def test_of_many_at_once_at_most_one_is_undisturbed(tmp_path: Path) -> None:
    tables = [SharedVersions(tmp_path / "heads") for _ in range(8)]
    for _ in range(50):
        seen = tables[0].read(PROJECT, "a")
        with ThreadPoolExecutor(8) as threads:
            versions = list(threads.map(lambda table, seen=seen: table.bump(PROJECT, "a", seen=seen), tables))
        assert len([stamp for stamp in versions if stamp is not None]) == 1


def test_processes_exclude_each_other(tmp_path: Path) -> None:
    table = SharedVersions(tmp_path / "heads")
    seen = table.read(PROJECT, "a")
    reading, writing = os.pipe()
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            won = SharedVersions(tmp_path / "heads").bump(PROJECT, "a", seen=seen) is not None
            os.write(writing, b"1" if won else b"0")
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert sorted(os.read(reading, 4)) == sorted(b"1000")
    os.close(reading)
    os.close(writing)


def test_a_stamp_stays_invalid_until_the_file_is_written_again(tmp_path: Path) -> None:
    ours, theirs = SharedVersions(tmp_path / "heads"), SharedVersions(tmp_path / "heads")
    stamp = ours.bump(PROJECT, "a", seen=ours.read(PROJECT, "a"))
    assert stamp is not None
    assert ours.is_valid(stamp)
    theirs.invalidate(PROJECT, "a")
    seen = ours.read(PROJECT, "a")
    assert not ours.is_valid(seen)
    # A client that read the stamp before `invalidate` cannot know whether the transaction has ended.
    assert ours.bump(PROJECT, "a", seen=stamp) is None
    assert ours.read(PROJECT, "a") == seen
    revalidated = ours.bump(PROJECT, "a", seen=seen)
    assert revalidated == ours.read(PROJECT, "a")
    assert ours.is_valid(ours.read(PROJECT, "a"))


def test_an_earlier_invalid_stamp_does_not_revalidate_a_later_one(tmp_path: Path) -> None:
    table = SharedVersions(tmp_path / "heads")
    table.invalidate(PROJECT, "a")
    seen = table.read(PROJECT, "a")
    table.invalidate(PROJECT, "a")
    assert table.bump(PROJECT, "a", seen=seen) is None
    assert not table.is_valid(table.read(PROJECT, "a"))


def test_another_file_of_the_slot_does_not_revalidate_it(tmp_path: Path) -> None:
    table = SharedVersions(tmp_path / "heads")
    slot = table._slot(PROJECT, "a")
    other = next(name for name in map(str, range(100_000)) if table._slot(PROJECT, name) == slot)
    table.invalidate(PROJECT, "a")
    assert table.bump(PROJECT, other, seen=table.read(PROJECT, other)) is None
    assert not table.is_valid(table.read(PROJECT, "a"))
    table.invalidate(PROJECT, other)
    for name in ("a", other):
        assert table.bump(PROJECT, name, seen=table.read(PROJECT, name)) is None
    assert not table.is_valid(table.read(PROJECT, "a"))
