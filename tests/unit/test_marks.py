"""The table by which clients of one machine tell each other of new versions."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from atlas_sdk._marks import Marks

PROJECT = UUID(int=7)


def test_a_mark_stands_until_somebody_publishes(tmp_path: Path) -> None:
    ours, theirs = Marks(tmp_path / "heads"), Marks(tmp_path / "heads")
    seen = ours.read(PROJECT, "a")
    mine = ours.publish(PROJECT, "a", seen=seen)
    assert mine == ours.read(PROJECT, "a") == theirs.read(PROJECT, "a")
    assert theirs.publish(PROJECT, "a", seen=mine) == ours.read(PROJECT, "a") != mine


def test_who_was_disturbed_gets_no_mark(tmp_path: Path) -> None:
    ours, theirs = Marks(tmp_path / "heads"), Marks(tmp_path / "heads")
    seen = ours.read(PROJECT, "a")
    theirs.publish(PROJECT, "a", seen=seen)
    assert ours.publish(PROJECT, "a", seen=seen) is None
    assert ours.publish(PROJECT, "a", seen=None) is None


def test_of_many_at_once_at_most_one_is_undisturbed(tmp_path: Path) -> None:
    tables = [Marks(tmp_path / "heads") for _ in range(8)]
    for _ in range(50):
        seen = tables[0].read(PROJECT, "a")
        with ThreadPoolExecutor(8) as threads:
            marks = list(threads.map(lambda table, seen=seen: table.publish(PROJECT, "a", seen=seen), tables))
        assert len([mark for mark in marks if mark is not None]) == 1


def test_processes_exclude_each_other(tmp_path: Path) -> None:
    table = Marks(tmp_path / "heads")
    seen = table.read(PROJECT, "a")
    reading, writing = os.pipe()
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            won = Marks(tmp_path / "heads").publish(PROJECT, "a", seen=seen) is not None
            os.write(writing, b"1" if won else b"0")
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert sorted(os.read(reading, 4)) == sorted(b"1000")
    os.close(reading)
    os.close(writing)


def test_what_somebody_else_commits_is_open_until_its_file_is_written(tmp_path: Path) -> None:
    ours, theirs = Marks(tmp_path / "heads"), Marks(tmp_path / "heads")
    mark = ours.publish(PROJECT, "a", seen=ours.read(PROJECT, "a"))
    assert mark is not None
    assert ours.stands(mark)
    theirs.open(PROJECT, "a")
    seen = ours.read(PROJECT, "a")
    assert not ours.stands(seen)
    # Who looked before that cannot tell whether the other one has ended.
    assert ours.publish(PROJECT, "a", seen=mark) is None
    assert ours.read(PROJECT, "a") == seen
    closed = ours.publish(PROJECT, "a", seen=seen)
    assert closed == ours.read(PROJECT, "a")
    assert ours.stands(ours.read(PROJECT, "a"))


def test_who_saw_one_open_does_not_close_the_next_one(tmp_path: Path) -> None:
    table = Marks(tmp_path / "heads")
    table.open(PROJECT, "a")
    seen = table.read(PROJECT, "a")
    table.open(PROJECT, "a")
    assert table.publish(PROJECT, "a", seen=seen) is None
    assert not table.stands(table.read(PROJECT, "a"))


def test_another_file_of_the_slot_does_not_close_it(tmp_path: Path) -> None:
    table = Marks(tmp_path / "heads")
    slot = table._slot(PROJECT, "a")
    other = next(name for name in map(str, range(100_000)) if table._slot(PROJECT, name) == slot)
    table.open(PROJECT, "a")
    assert table.publish(PROJECT, other, seen=table.read(PROJECT, other)) is None
    assert not table.stands(table.read(PROJECT, "a"))
    table.open(PROJECT, other)
    for name in ("a", other):
        assert table.publish(PROJECT, name, seen=table.read(PROJECT, name)) is None
    assert not table.stands(table.read(PROJECT, "a"))
