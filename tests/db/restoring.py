"""Projects with a checkpoint, and the files in their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas_sdk import Project

Contents = dict[str, bytes]


def new_project(client: Any, folder: Path) -> Project:
    user = client.users.by_email("ada@example.com") or client.users.create("ada@example.com", name="Ada")
    return client.projects.create(user, path=folder)


def write(folder: Path, contents: Contents) -> None:
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def on_disk(folder: Path) -> Contents:
    """Return every file below the folder, with temporary files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def newest_checkpoint(client: Any, project: Project) -> str:
    return client.memory.checkpoints(project)[0].name


def checkpointed(client: Any, folder: Path, name: str = "good") -> Project:
    project = new_project(client, folder)
    client.memory.capture(project)
    client.memory.checkpoint(project, name)
    return project


GOOD = {"CLAUDE.md": b"# Rules\n\nBe kind.\n", "notes.md": b"- first\n"}
EDITED = {"CLAUDE.md": b"# Rules\n\nBe quick.\nBreak things.\n", "notes.md": b"\xff\0 torn to pieces"}
