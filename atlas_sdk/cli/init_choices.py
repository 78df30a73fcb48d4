"""The choices of `atlasctl init`: which folder is the root, and whether the folder is a project that moved here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas_sdk import AlreadyExists
from atlas_sdk.cli.advice import holds_everything
from atlas_sdk.cli.invocation import Invocation
from atlas_sdk.cli.output import count
from atlas_sdk.text import named, printable

if TYPE_CHECKING:
    from atlas_sdk import Atlas, Project, User
    from atlas_sdk.results import MovedProject

#: The most projects to ask about: further ones fit less.
_ASKED = 3


class Choices:
    """The choices of one run. On a terminal a person makes them, else `hints` names the commands for the other ones."""

    def __init__(self, run: Invocation, atlas: "Atlas", user: "User") -> None:
        self._run = run
        self._atlas = atlas
        self._user = user
        #: The projects that the new project may be, most likely first.
        self._candidates: list[MovedProject] = []
        self._moved_from: str | None = None

    def root(self, folder: Path) -> Path:
        """Return the folder to register. On a terminal ask, if the folder is below the root of a repository."""
        top = _repository_above(folder)
        if top is None or not self._run.interactive or self._atlas.projects.at(folder, user=self._user) is not None:
            return folder
        out = self._run.out
        out.note(f"{printable(str(folder))} is inside of a git repository. Protect:")
        out.note(f"  1  {printable(str(folder))}, this folder alone")
        out.note(f"  2  {printable(top)}, the whole repository")
        answer = click.prompt("Which one?", type=click.Choice(["1", "2"]), default="1", show_choices=False, err=True)
        return Path(top) if answer == "2" else folder

    def registered(self, folder: Path, *, name: str | None = None) -> "tuple[Project, str]":
        """Return the active project of exactly this folder, and "created", "activated", "moved" or "found".

        A new project gets this name; without a name it may be one that was moved.
        """
        there = self._atlas.projects.at(folder, user=self._user)
        if there is None:
            self._candidates = self._atlas.projects.find_moved(self._user, folder) if name is None else []
            for moved in self._candidates[:_ASKED] if self._run.interactive else ():
                self._run.out.note(_likeness(moved))
                if click.confirm("Continue its history here?", default=True, err=True):
                    return self._move(moved.project, folder)
            try:
                return self._atlas.projects.create(self._user, path=folder, name=name), "created"
            except AlreadyExists:
                # Another process registered the folder meanwhile.
                there = self._atlas.projects.at(folder, user=self._user)
                if there is None:
                    raise
        if there.status == "archived":
            return self._atlas.projects.activate(there), "activated"
        return there, "found"

    def moved(self, source: str, folder: Path) -> "tuple[Project, str]":
        """Move the project that `source` names to this folder, and activate it."""
        from atlas_sdk.cli.projects import find

        return self._move(find(self._run, self._atlas, source, None), folder)

    def _move(self, project: "Project", folder: Path) -> "tuple[Project, str]":
        moved = self._atlas.projects.move(project, folder)
        self._moved_from = project.path
        return self._atlas.projects.activate(moved), "moved"

    def fields(self, project: "Project") -> dict[str, Any]:
        """Return the fields about the choices for `--json`."""
        from atlas_sdk.files import to_text

        top = _repository_above(Path(project.path))
        return {
            "moved_from": None if self._moved_from is None else to_text(self._moved_from),
            "repository": None if top is None else to_text(top),
            "maybe_moved_from": [to_text(moved.project.path) for moved in self._open_candidates],
        }

    def hints(self, project: "Project") -> list[str]:
        """Return a sentence for each choice that nobody was asked about, with the command for the other one."""
        found = []
        top = _repository_above(Path(project.path))
        if top is not None:
            found.append(
                f"This folder is inside of the git repository {named(top)}; to protect all of it: "
                f"atlasctl init {named(top)}"
            )
        found += [
            f"{_likeness(moved)} To continue its history: "
            f"atlasctl projects move {named(moved.project.path)} {named(project.path)} --force"
            for moved in self._open_candidates
        ]
        return found

    @property
    def _open_candidates(self) -> "list[MovedProject]":
        """The candidates that nobody was asked about."""
        return [] if self._run.interactive or self._moved_from is not None else self._candidates[:1]


def _repository_above(folder: Path) -> str | None:
    """Return the root of the repository that a folder is inside of; None if the folder is the root, or in none."""
    from atlas_sdk.files import repository_root

    top = repository_root(str(folder))
    return None if top is None or top == str(folder) or holds_everything(Path(top)) else top


def _likeness(moved: "MovedProject") -> str:
    reasons = ["the same folder"] if moved.same_folder else []
    reasons += ["the same first commit"] if moved.same_commit else []
    reasons += [count(moved.same_files, "same file")] if moved.same_files else []
    return f"This folder looks like {named(moved.project.path)}, which is gone: {', '.join(reasons)}."
