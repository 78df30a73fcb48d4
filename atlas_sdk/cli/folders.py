"""The folder of a project: find it, and tell which repository it belongs to."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_sdk.cli.advice import holds_everything
from atlas_sdk.errors import InvalidInput, NotFound
from atlas_sdk.text import printable

if TYPE_CHECKING:
    from atlas_sdk import Project


def folder_of(given: str, *, force: bool) -> Path:
    """Return the folder at a path, without symlinks. Raises NotFound, and InvalidInput for the home folder or `/`."""
    path = Path(os.path.realpath(Path(given).expanduser()))
    if not path.exists():
        raise NotFound(f"{printable(given)} does not exist; make the folder first", kind="folder", name=given)
    if not path.is_dir():
        raise InvalidInput(f"{printable(given)} is not a folder; give the folder that it is in", field="path")
    if not force and holds_everything(path):
        raise InvalidInput(
            f"{printable(str(path))} holds everything else: every folder in it would be taken for a part of this one "
            "project; give a project's folder, or --user for your own memory in it, or --force",
            field="path",
        )
    return path


def worktree_of(project: "Project") -> str | None:
    """Return the folder of the repository that a project's folder is a git worktree of; None if it is none."""
    from atlas_sdk.files import repository

    found = repository(project.path)
    return found.main if found is not None and found.is_worktree else None
