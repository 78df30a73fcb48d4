"""Batches that are sent twice, and batches beside other writers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from many_versions import BODY, contents, new_project, version
from test_races import Stepper, interleavings

from atlas_sdk import Atlas
from atlas_sdk._connect import new_id
from atlas_sdk.ops import memory
from atlas_sdk.ops.append_many import append_many
from atlas_sdk.ops.snapshot_many import snapshot_many


@pytest.fixture
def stepper(dsn: str) -> Iterator[Stepper]:
    with closing(Stepper(dsn)) as made:
        yield made


@pytest.mark.parametrize("knows", ["warm", "cold"])
def test_a_version_that_is_sent_again_is_not_stored_again(
    knows: str, client: Any, stepper: Stepper, folder: Path
) -> None:
    """A process was killed after the commit, before it noted that the versions are stored."""
    project = new_project(client, folder)
    client.memory.snapshot(project, "a", b"A")
    batch = [
        # Equal to the newest version, so no version has this id.
        version(project, "a", b"A", snapshot_id=new_id()),
        version(project, "a", b"B", snapshot_id=new_id()),
        version(project, "n", b"1", snapshot_id=new_id()),
        version(project, "n", b"2", snapshot_id=new_id()),
        version(project, "n", None, snapshot_id=new_id()),
    ]
    made = stepper.run(append_many(batch))
    assert [one is None for one in made] == [True, False, False, False, False]
    assert [one.id for one in made[1:]] == [new.snapshot_id for new in batch[1:]]
    for part in (batch, batch[:1], batch[1:2], batch[2:4], batch[::-1]):
        if knows == "cold":
            stepper.context.heads.clear()
        assert stepper.run(append_many(part)) == [None] * len(part)
    assert contents(client, project, "a") == [b"A", b"B"]
    assert contents(client, project, "n") == [b"1", b"2", None]
    # Only the rest of a batch is new.
    more = version(project, "n", b"3", snapshot_id=new_id())
    assert [one is None for one in stepper.run(append_many([*batch, more]))] == [True] * 5 + [False]
    assert contents(client, project, "n") == [b"1", b"2", None, b"3"]


def test_two_deliveries_and_a_direct_writer_in_every_order(dsn: str, atlas: Atlas, folder: Path) -> None:
    """Both deliver the same versions, one of them a part that it read earlier; nothing is lost, doubled or put back."""
    project = new_project(atlas, folder)
    races = 0
    with closing(Stepper(dsn)) as first, closing(Stepper(dsn)) as second:

        def run(choose: Any) -> None:
            nonlocal races
            races += 1
            path = f"{races}.md"
            old = version(project, path, b"old", snapshot_id=new_id())
            new = version(project, path, b"new", snapshot_id=new_id())
            if races % 2:
                atlas.memory.snapshot(project, path, b"old")
            first.start(append_many([old, new]))
            second.start(append_many([old]))
            steppers = (first, second)
            while not all(stepper.done for stepper in steppers):
                who = choose() if not any(stepper.done for stepper in steppers) else int(first.done)
                steppers[who].step()
            assert contents(atlas, project, path) == [b"old", b"new"]

        assert interleavings(run) >= 6


def test_what_others_write_meanwhile_comes_first(dsn: str, atlas: Atlas, folder: Path) -> None:
    """A direct writer between any two steps of a batch: its version stays, and the batch goes on top of it."""
    project = new_project(atlas, folder)
    with closing(Stepper(dsn)) as first, closing(Stepper(dsn)) as second:
        ran: list[str] = []
        for moment in range(9):
            taken = f"{moment}.md"
            names = [taken, f"{moment}-new.md", f"{moment}-known.md"]
            first.run(snapshot_many([(project, names[0], b"0"), (project, names[2], b"0")]))
            if moment:
                first.context.heads.clear()
            first.start(snapshot_many([(project, name, content) for name in names for content in (b"1", b"2")]))
            ran = [first.step() for _ in range(moment) if not first.done]
            second.run(memory.snapshot(project, taken, b"direct"))
            second.run(memory.snapshot(project, names[1], b"direct"))
            second.context.heads.clear()
            while not first.done:
                first.step()
            assert all(first.result)
            found = [contents(atlas, project, name) for name in names]
            assert found[2] == [b"0", b"1", b"2"]
            if "memory.put_many" in ran:
                assert found[:2] == [[b"0", b"1", b"2", b"direct"], [b"1", b"2", b"direct"]]
                break
            assert found[:2] == [[b"0", b"direct", b"1", b"2"], [b"direct", b"1", b"2"]]
        assert ran[0] == "memory.heads"
        assert ran[-1] == "memory.put_many"


def test_batches_in_opposite_orders_do_not_block_each_other(atlas: Atlas, dsn: str, folder: Path) -> None:
    project = new_project(atlas, folder)
    names = [f"{n}.md" for n in range(40)]
    failures: list[BaseException] = []

    def write(order: int) -> None:
        try:
            with Atlas.open(dsn, retries=0) as client:
                for turn in range(6):
                    bodies = [b"%d" % (n if turn % 2 else n + order) + BODY for n in range(len(names))]
                    items = [(project, name, body + b"%d" % turn) for name, body in zip(names, bodies, strict=True)]
                    client.memory.snapshot_many(items[::order])
        except BaseException as problem:  # noqa: BLE001  # for the assertion of the test
            failures.append(problem)

    threads = [threading.Thread(target=write, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(contents(atlas, project, name) for name in names)
    assert atlas.memory.verify(atlas.users.get(project.user_id)).ok
