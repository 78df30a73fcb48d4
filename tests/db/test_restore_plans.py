"""A plan of an undo or redo is carried out and recorded by `restore`, also when no file has to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atlas_sdk import NotFound


def test_a_walk_that_finds_its_work_done_is_recorded(client: Any, folder: Path) -> None:
    project = client.projects.create(client.users.create("ada@example.com"), path=folder)
    good, edited = (folder / "CLAUDE.md").read_bytes(), b"edited"
    client.memory.capture(project)
    client.memory.checkpoint(project, "good")
    (folder / "CLAUDE.md").write_bytes(edited)
    done = client.memory.restore(project, "good")

    # A person undoes the restore by hand.
    (folder / "CLAUDE.md").write_bytes(edited)
    plan = client.memory.plan_undo(project)
    assert (plan.reason, plan.of, plan.changes) == ("undo", done.id, ())
    undone = client.memory.restore(project, plan)
    assert undone.id == done.id
    assert undone.undone_at is not None
    with pytest.raises(NotFound):
        client.memory.plan_undo(project)

    (folder / "CLAUDE.md").write_bytes(good)
    redone = client.memory.restore(project, client.memory.plan_redo(project))
    assert (redone.id, redone.undone_at) == (done.id, None)
    with pytest.raises(NotFound):
        client.memory.plan_redo(project)
    # No file changes, so there is nothing to restore and nothing to record.
    assert client.memory.restore(project, "good") is None
