"""One run of a command: settings, output, the database, who acts, which project."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atlas_sdk.cli.addressing import check_one, place
from atlas_sdk.cli.advice import init_advice
from atlas_sdk.cli.command import Flags
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.output import Output

if TYPE_CHECKING:
    from atlas_sdk import Atlas, NotFound, Project, User
    from atlas_sdk.config import Settings
    from atlas_sdk.logs import LogFormatter

__all__ = ["Invocation"]


class Invocation:
    """The inputs of one command: settings, database, user and project, each found when first needed.

    A command that is about no project, such as those of `db`, does without the project's settings.
    """

    def __init__(self, flags: Flags, *, of_project: bool = True) -> None:
        self.flags = flags
        self._of_project = of_project
        check_one(flags)
        self._log = self._log_at("DEBUG") if flags.verbose else None

    @cached_property
    def settings(self) -> "Settings":
        """The settings: flags before the environment before the files."""
        from atlas_sdk.config import load_settings

        flags = self.flags
        color = "never" if flags.no_color else None
        project = Path(self.start) if self._of_project else None
        found = load_settings(project, database_url=flags.dsn, home=flags.home, color=color)
        if self._log is not None:
            self._log.dsn = found.database_url
        return found

    def _log_at(self, level: str) -> "LogFormatter":
        from atlas_sdk.logs import log_to_stderr

        return log_to_stderr(level, "%(name)s: %(message)s", dsn=self.flags.dsn)

    @cached_property
    def out(self) -> Output:
        """The output of this run."""
        return Output(json=self.flags.json, color=self.settings.color)

    @property
    def start(self) -> str:
        """The folder that the run is about: --project, else the current one."""
        return self.flags.project or _current_folder()

    @contextmanager
    def opened(self, *, migrate: bool | None = None) -> "Iterator[Atlas]":
        """Open the database of the settings."""
        import logging

        from atlas_sdk import Atlas, Attribution

        settings = self.settings
        # The pool warns of the connection that an interrupted statement leaves; the command says what was interrupted.
        if not self.flags.verbose:
            logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        if settings.query_log:
            self._log = self._log or self._log_at("WARNING")
            self._log.dsn = settings.database_url
            logging.getLogger("atlas_sdk.queries").setLevel(logging.DEBUG)
        dsn = settings.database_url
        if migrate is None:
            migrate = dsn is None
        with Atlas.open(
            dsn,
            home=settings.folder,
            attribution=Attribution(source="cli"),
            query_log=settings.query_log,
            migrate=migrate,
        ) as atlas:
            yield atlas

    def user(self, atlas: "Atlas", email: str | None = None, *, make: bool = False) -> "User":
        """Return who is named, else who acts: the user of the settings on a shared server, else this login's own.

        Only with `make`, for what writes, does this login get a user that it does not have. Raises NotFound.
        """
        from atlas_sdk import NotFound

        found = self._user(atlas, email, make=make)
        if found is None:
            name = f"the login {getpass.getuser()}"
            raise NotFound(
                f"{name} has no user in this database ({place(self)}); atlasctl init makes one, atlasctl user list "
                "shows the others",
                kind="user",
                name=name,
            )
        return found

    def owner(self, atlas: "Atlas", email: str | None = None) -> "User":
        """Return the same for a command about projects: NotFound tells how to register one."""
        found = self._user(atlas, email, make=False)
        if found is None:
            raise self.no_projects(None)
        return found

    def _user(self, atlas: "Atlas", email: str | None, *, make: bool) -> "User | None":
        """Return the user; None for a login without one. Raises NotFound for an address that nobody has."""
        from atlas_sdk import NotFound

        address = self.settings.user if email is None else email
        if address is None or (email is None and self.settings.database_url is None):
            return atlas.users.local() if make else atlas.users.find_local()
        found = atlas.users.by_email(address)
        if found is None:
            raise NotFound(f"no user of this database has the address {address}", kind="user", name=address)
        return found

    def no_projects(self, user: "User | None") -> "NotFound":
        """Return the error for a database, perhaps the wrong one, without projects of a user; None: of this login."""
        from atlas_sdk import NotFound

        name = f"the login {getpass.getuser()}" if user is None else user.email
        return NotFound(
            f"there are no projects of {name} in this database ({place(self)}){init_advice(self.start)}; --home and "
            "--dsn choose another database",
            kind="user",
            name=name,
        )

    def project(self, atlas: "Atlas") -> "Project":
        """Return the innermost project of the user at or above the folder that the run is about. Raises NotFound."""
        return atlas.projects.by_path(self.start, user=self.owner(atlas))

    @property
    def interactive(self) -> bool:
        """Whether a question would be seen and answered."""
        return not self.flags.json and self.out.terminal and sys.stdin is not None and sys.stdin.isatty()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if the user wants what cannot be taken back: by `--yes`, or by the answer to a question.

        Raises UsageError where nobody can be asked, Exit when the answer is no.
        """
        if yes:
            return
        if not self.interactive:
            raise click.UsageError("this cannot be taken back; without a terminal it needs --yes")
        if not click.confirm(question, default=False, err=True):
            self.out.note("nothing was changed")
            raise click.exceptions.Exit(FAILED)

    def path(self, project: "Project", given: str) -> str:
        """Return a file's path as the library takes it: relative to where it was typed, when that is in the project."""
        here = os.path.realpath(".")
        if given and self.flags.project is None and Path(here).is_relative_to(project.path):
            # Not `/`: what is typed after a slash, and "..", is for the library to judge.
            return os.path.join(here, given)  # noqa: PTH118
        return given


def _current_folder() -> str:
    from atlas_sdk import FileProblem

    try:
        return os.getcwd()  # noqa: PTH109  # the text that was typed nowhere
    except FileNotFoundError as exc:
        raise FileProblem("the current folder is gone; go to one that exists", path=".") from exc
