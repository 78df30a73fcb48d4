"""Undo and redo of restores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from restoring import EDITED, GOOD, checkpointed, new_project, newest_checkpoint, on_disk, write

from atlas_sdk import NotFound


def test_undo_and_redo_walk_back_and_forth(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    for name in ("one", "two", "three"):
        write(folder, {"CLAUDE.md": name.encode()})
        client.memory.capture(project)
        client.memory.checkpoint(project, name)
    (folder / "notes.md").unlink()
    client.memory.restore(project, "one")
    client.memory.restore(project, "two")

    def walk(step: Any) -> bytes | None:
        try:
            step(project)
        except NotFound:
            return None
        assert (folder / "notes.md").exists() == ((folder / "CLAUDE.md").read_bytes() != b"three")
        return (folder / "CLAUDE.md").read_bytes()

    undone = [walk(client.memory.undo) for _ in range(3)]
    assert undone == [b"one", b"three", None]
    redone = [walk(client.memory.redo) for _ in range(3)]
    assert redone == [b"one", b"two", None]
    assert walk(client.memory.undo) == b"one"
    events = [event.type for event in client.events.recent(client.users.by_email("ada@example.com"), limit=7)]
    assert events == [f"memory.{word}" for word in ("undo", "redo", "redo", "undo", "undo", "restore", "restore")]


def test_edits_after_a_restore_are_kept_when_it_is_undone(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    write(folder, EDITED)
    client.memory.restore(project, "good")
    write(folder, {"CLAUDE.md": b"edited after the restore"})
    client.memory.undo(project)
    assert on_disk(folder) == EDITED
    assert client.memory.read(project, "CLAUDE.md", newest_checkpoint(client, project)) == b"edited after the restore"


def test_an_undo_that_finds_its_work_done_still_counts(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    write(folder, EDITED)
    client.memory.restore(project, "good")
    write(folder, EDITED)
    assert client.memory.undo(project).undone_at is not None
    with pytest.raises(NotFound):
        client.memory.undo(project)
    assert client.memory.redo(project).undone_at is None
    assert on_disk(folder) == GOOD


def test_a_new_restore_ends_what_could_be_redone(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    write(folder, EDITED)
    client.memory.restore(project, "good")
    client.memory.undo(project)
    write(folder, {"CLAUDE.md": b"third"})
    client.memory.restore(project, "good", paths=["CLAUDE.md"])
    with pytest.raises(NotFound):
        client.memory.redo(project)


def test_redo_does_not_reach_behind_a_new_restore(client: Any, folder: Path) -> None:
    project = checkpointed(client, folder)
    write(folder, EDITED)
    client.memory.capture(project)
    client.memory.checkpoint(project, "edited")
    write(folder, {"CLAUDE.md": b"third"})
    for name in ("good", "edited"):
        client.memory.restore(project, name)
        client.memory.undo(project)
    assert client.memory.redo(project).target == "edited"
