"""Restores among symlinks: the links stay, and nothing is written through a link that leads out of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from restoring import EDITED, GOOD, checkpointed, on_disk, write

from atlas_sdk import OutsideProject


def linked(folder: Path, target: str = "docs/rules.txt") -> Path:
    """Make CLAUDE.md a symlink inside the project, by default to a file that is not a memory file."""
    write(folder, {target: GOOD["CLAUDE.md"]})
    (folder / "CLAUDE.md").unlink()
    (folder / "CLAUDE.md").symlink_to(target)
    return folder / "CLAUDE.md"


def test_a_symlink_inside_the_project_stays_one(client: Any, folder: Path) -> None:
    link = linked(folder)
    project = checkpointed(client, folder)
    link.write_bytes(EDITED["CLAUDE.md"])
    client.memory.restore(project, "good")
    assert link.readlink() == Path("docs/rules.txt")
    assert (folder / "docs/rules.txt").read_bytes() == GOOD["CLAUDE.md"]
    link.unlink()
    client.memory.restore(project, "good")
    assert link.readlink() == Path("docs/rules.txt")
    assert client.memory.restore(project, "good") is None


def test_a_symlink_to_another_memory_file_is_restored_with_it(client: Any, folder: Path) -> None:
    linked(folder, "AGENTS.md")
    project = checkpointed(client, folder)
    write(folder, {"AGENTS.md": b"edited under both names"})
    client.memory.restore(project, "good")
    assert on_disk(folder) == GOOD | {"AGENTS.md": GOOD["CLAUDE.md"]}
    assert (folder / "CLAUDE.md").is_symlink()


def test_a_regular_file_that_became_a_symlink_does_not_overwrite_its_target(client: Any, folder: Path) -> None:
    write(folder, {"AGENTS.md": b"of the agents"})
    project = checkpointed(client, folder)
    (folder / "CLAUDE.md").unlink()
    (folder / "CLAUDE.md").symlink_to("AGENTS.md")
    client.memory.restore(project, "good")
    assert on_disk(folder) == GOOD | {"AGENTS.md": b"of the agents"}
    assert not (folder / "CLAUDE.md").is_symlink()


@pytest.mark.parametrize("way", ["removed", "replaced"])
def test_a_symlink_and_its_target_change_together(client: Any, folder: Path, way: str) -> None:
    write(folder, {"AGENTS.md": b"of the agents"})
    project = checkpointed(client, folder)
    if way == "removed":
        (folder / "AGENTS.md").unlink()
        (folder / "CLAUDE.md").unlink()
        client.memory.capture(project)
        client.memory.checkpoint(project, "without")
    (folder / "CLAUDE.md").unlink(missing_ok=True)
    (folder / "CLAUDE.md").symlink_to("AGENTS.md")
    write(folder, {"AGENTS.md": b"edited"})
    client.memory.restore(project, "without" if way == "removed" else "good", delete=True)
    assert on_disk(folder) == (
        {"notes.md": GOOD["notes.md"]} if way == "removed" else GOOD | {"AGENTS.md": b"of the agents"}
    )
    assert not (folder / "CLAUDE.md").is_symlink()


def test_a_symlink_that_became_a_regular_file_is_one_again(client: Any, folder: Path) -> None:
    link = linked(folder)
    project = checkpointed(client, folder)
    link.unlink()
    link.write_bytes(EDITED["CLAUDE.md"])
    client.memory.restore(project, "good")
    assert link.is_symlink()
    assert client.memory.restore(project, "good") is None


@pytest.mark.parametrize("path", ["CLAUDE.md", ".claude/rules/style.md"])
def test_nothing_is_written_through_a_symlink_out_of_the_project(
    client: Any, folder: Path, tmp_path: Path, path: str
) -> None:
    write(folder, {".claude/rules/style.md": b"style"})
    project = checkpointed(client, folder)
    outside = tmp_path / "outside"
    write(outside, {"rules/style.md": b"somebody else's"})
    name = path.partition("/")[0]
    (folder / name).rename(tmp_path / "away")
    plan = client.memory.plan_restore(project, "good")
    (folder / name).symlink_to(outside / "rules/style.md" if name == path else outside)
    with pytest.raises(OutsideProject, match="outside the project"):
        client.memory.restore(project, plan)
    with pytest.raises(OutsideProject, match="outside the project"):
        client.memory.restore(project, "good", paths=[path])
    # Without a name, the file is left out, and the others are restored.
    (step,) = [one for one in client.memory.plan_restore(project, "good").steps if one.path == path]
    assert (step.action, "outside the project" in (step.problem or "")) == ("blocked", True)
    client.memory.restore(project, "good")
    assert (folder / name).is_symlink()
    assert on_disk(outside) == {"rules/style.md": b"somebody else's"}
