"""Differences between versions, checkpoints and the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from atlas_sdk import Atlas, FileDiff, NotFound, OutsideProject, Project


@pytest.fixture(scope="module")
def shared(atlas_home: Path) -> Iterator[Atlas]:
    """Yield a client that tests share if they only need their own tenant."""
    with Atlas.open(home=atlas_home) as client:
        yield client


def new_project(client: Any, folder: Path) -> Project:
    return client.projects.create(client.users.create(f"{uuid4().hex}@example.com"), path=folder)


def changes(found: list[FileDiff]) -> dict[str, str]:
    assert [one.path for one in found] == sorted(one.path for one in found)
    return {one.path: one.change for one in found}


def test_two_checkpoints_and_the_folder(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    (folder / "todo.md").write_bytes(b"same\n")
    client.memory.capture(project)
    client.memory.checkpoint(project, "one")
    (folder / "CLAUDE.md").write_bytes(b"# Rules\n\nBe quick.\n")
    (folder / "notes.md").unlink()
    (folder / "plan.md").write_bytes(b"new\n")
    expected = {"CLAUDE.md": "changed", "notes.md": "removed", "plan.md": "added"}
    assert changes(client.memory.diff(project, "one")) == expected
    assert changes(client.memory.diff(project)) == expected
    # A diff with the folder does not capture it.
    assert client.memory.diff(project, "one", "latest") == []
    client.memory.capture(project)
    client.memory.checkpoint(project, "two")
    assert changes(client.memory.diff(project, "one", "two")) == expected
    assert (
        client.memory.diff(project, "two")
        == client.memory.diff(project)
        == client.memory.diff(project, "two", "two")
        == []
    )
    claude, notes, plan = client.memory.diff(project, "two", "one")
    assert [one.change for one in (claude, notes, plan)] == ["changed", "added", "removed"]
    assert claude.text == "--- a/CLAUDE.md\n+++ b/CLAUDE.md\n@@ -1,3 +1,3 @@\n # Rules\n \n-Be quick.\n+Be kind.\n"
    assert (claude.added_lines, claude.removed_lines) == (1, 1)


def test_one_version_is_compared_with_its_own_file_only(client: Any, folder: Path) -> None:
    project = new_project(client, folder)
    first = client.memory.snapshot(project, "CLAUDE.md")
    client.memory.snapshot(project, "notes.md")
    client.memory.checkpoint(project, "whole")
    (folder / "CLAUDE.md").write_bytes(b"second\n")
    (folder / "notes.md").write_bytes(b"changed too\n")
    second = client.memory.snapshot(project, "CLAUDE.md")
    expected = {"CLAUDE.md": "changed"}
    for before, after in (
        (first.id.hex, second.id.hex),
        (first.id.hex, None),
        (first.id.hex, "latest"),
        ("CLAUDE.md@whole", "latest"),
        ("whole", second.id.hex),
    ):
        assert changes(client.memory.diff(project, before, after)) == expected, (before, after)
    assert client.memory.diff(project, second.id.hex) == []


def test_only_the_paths_asked_for_are_compared(shared: Atlas, folder: Path) -> None:
    project = new_project(shared, folder)
    shared.memory.capture(project)
    for path in ("CLAUDE.md", "notes.md"):
        (folder / path).write_bytes(b"changed\n")
    assert changes(shared.memory.diff(project, paths=["./notes.md"])) == {"notes.md": "changed"}
    assert changes(shared.memory.diff(project, paths=[folder / "CLAUDE.md"])) == {"CLAUDE.md": "changed"}
    with pytest.raises(OutsideProject):
        shared.memory.diff(project, paths=["../notes.md"])
    with pytest.raises(NotFound):
        shared.memory.diff(project, "latest", "nothing")


def test_binary_contents_differ_without_text(shared: Atlas, folder: Path) -> None:
    project = new_project(shared, folder)
    shared.memory.snapshot(project, "CLAUDE.md", b"text\n")
    (folder / "CLAUDE.md").write_bytes(b"\0\1\2")
    (found,) = shared.memory.diff(project, paths=["CLAUDE.md"])
    assert (found.change, found.text) == ("changed", None)


def test_a_file_over_the_limit_differs_without_text(shared: Atlas, folder: Path) -> None:
    (folder / ".atlas.toml").write_text("[track]\nlimit_bytes = 100\n")
    project = new_project(shared, folder)
    shared.memory.snapshot(project, "CLAUDE.md")
    (folder / "notes.md").write_bytes(b"x" * 101)
    shared.memory.capture(project)
    shared.memory.checkpoint(project, "large notes")
    (folder / "CLAUDE.md").write_bytes(b"y" * 101)
    (folder / "notes.md").write_bytes(b"small\n")
    found = {one.path: one for one in shared.memory.diff(project, "large notes")}
    assert changes(list(found.values())) == {"CLAUDE.md": "changed", "notes.md": "changed"}
    assert {one.text for one in found.values()} == {None}
    # For files over the size limit, the hashes show whether they are equal.
    (folder / "notes.md").write_bytes(b"x" * 101)
    assert changes(shared.memory.diff(project, "large notes")) == {"CLAUDE.md": "changed"}
    (folder / "notes.md").unlink()
    assert changes(shared.memory.diff(project, "large notes")) == {"CLAUDE.md": "changed", "notes.md": "removed"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (b"one\r\n", b"one\n", "-one\r\n+one\n"),
        (b"one", b"one\n", "-one\n\\ No newline at end of file\n+one\n"),
        (b"caf\xe9\n", b"caf\xc3\xa9\n", "-caf\udce9\n+café\n"),
        (b"x" * 300_000, b"y\n", "-" + "x" * 300_000 + "\n\\ No newline at end of file\n+y\n"),
    ],
    ids=["crlf", "no newline", "latin-1", "long line"],
)
def test_text_survives_as_it_is(shared: Atlas, folder: Path, before: bytes, after: bytes, expected: str) -> None:
    project = new_project(shared, folder)
    shared.memory.snapshot(project, "CLAUDE.md", before)
    (folder / "CLAUDE.md").write_bytes(after)
    (found,) = shared.memory.diff(project, paths=["CLAUDE.md"])
    assert found.text is not None
    assert found.text.partition("@@\n")[2] == expected
    assert (found.added_lines, found.removed_lines) == (1, 1)


def test_one_bad_entry_stops_no_other(shared: Atlas, folder: Path) -> None:
    project = new_project(shared, folder)
    shared.memory.capture(project)
    (folder / "CLAUDE.md").unlink()
    (folder / "CLAUDE.md").symlink_to("/etc/hostname")
    (folder / "notes.md").write_bytes(b"changed\n")
    assert changes(shared.memory.diff(project))["notes.md"] == "changed"
