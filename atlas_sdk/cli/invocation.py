"""One run of a command: its settings, output, database, user and project."""

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from atlas_sdk.cli.advice import init_advice
from atlas_sdk.cli.command import Flags
from atlas_sdk.cli.failures import FAILED
from atlas_sdk.cli.output import Output

if TYPE_CHECKING:
    from atlas_sdk import Atlas, NotFound, Project, User
    from atlas_sdk.config import Settings
    from atlas_sdk.logs import LogFormatter

P = ParamSpec("P")
T = TypeVar("T")


class Invocation:
    """The inputs of one command: settings, database, user and project, each found when first needed.

    `of_project` is false for a command about no project, such as `db status`. Such a command does not read the settings
    of a project.
    """

    def __init__(self, flags: Flags, *, of_project: bool = True) -> None:
        self.flags = flags
        self._of_project = of_project
        _check_address(flags)
        self._log = self._log_at("DEBUG") if flags.verbose else None

    @cached_property
    def settings(self) -> "Settings":
        """The settings: flags override the environment, which overrides the files."""
        return self.load_settings()

    def load_settings(self) -> "Settings":
        """Read the settings from their sources, also when they were read before."""
        from atlas_sdk.config import load_settings

        flags = self.flags
        color = "never" if flags.no_color else None
        project = Path(self.start) if self._of_project else None
        found = load_settings(project, database_url=flags.dsn, home=flags.home, color=color)
        if self._log is not None:
            self._log.dsn = found.database_url
        return found

    @property
    def database(self) -> str:
        """The address of the database for messages, without a password."""
        from atlas_sdk.dsn import masked
        from atlas_sdk.text import printable

        found = self.settings.database_url
        return f"embedded, in {printable(str(self.settings.folder))}" if found is None else masked(found)

    def _log_at(self, level: str) -> "LogFormatter":
        from atlas_sdk.logs import log_to_stderr

        return log_to_stderr(level, "%(name)s: %(message)s", dsn=self.flags.dsn)

    @cached_property
    def out(self) -> Output:
        """The output of this run, with the format and colours that the user wants."""
        return Output(json=self.flags.json, color=self.settings.color)

    @property
    def start(self) -> str:
        """The folder of the run: --project, else the current one."""
        return self.flags.project or _current_folder()

    @contextmanager
    def opened(self, *, migrate: bool | None = None) -> "Iterator[Atlas]":
        """Open the database of the settings. `migrate` None migrates the embedded database, and no other one."""
        import logging

        from atlas_sdk import Atlas, Attribution

        settings = self.settings
        # After ^C the pool would warn of the broken connection; the command reports the interruption itself.
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
        """Return the user with this e-mail address; without an address, the acting user.

        For a server, the settings may name the acting user. If they do not, or for the embedded database, the acting
        user is the user of this login. With `make`, the call creates this user if it is missing. Raises NotFound.
        """
        from atlas_sdk import NotFound

        found = self._user(atlas, email, make=make)
        if found is None:
            name = f"the login {getpass.getuser()}"
            raise NotFound(
                f"{name} has no user in this database ({self.database}); atlasctl init makes one, atlasctl user list "
                "shows the others",
                kind="user",
                name=name,
            )
        return found

    def owner(self, atlas: "Atlas", email: str | None = None) -> "User":
        """Return the user as `user` does. For a login without a user, the NotFound says how to register a project."""
        found = self._user(atlas, email, make=False)
        if found is None:
            raise self.no_projects(None)
        return found

    def _user(self, atlas: "Atlas", email: str | None, *, make: bool) -> "User | None":
        """Return the user; None for a login without a user. Raises NotFound for an unknown address."""
        from atlas_sdk import NotFound

        address = self.settings.user if email is None else email
        if address is None or (email is None and self.settings.database_url is None):
            return atlas.users.local() if make else atlas.users.find_local()
        found = atlas.users.by_email(address)
        if found is None:
            raise NotFound(f"no user of this database has the address {address}", kind="user", name=address)
        return found

    def no_projects(self, user: "User | None") -> "NotFound":
        """Return the error for a user, or with None this login, without projects. The error names the database."""
        from atlas_sdk import NotFound

        name = f"the login {getpass.getuser()}" if user is None else user.email
        return NotFound(
            f"there are no projects of {name} in this database ({self.database}){init_advice(self.start)}; --home and "
            "--dsn choose another database",
            kind="user",
            name=name,
        )

    def project(self, atlas: "Atlas") -> "Project":
        """Return the user's innermost project that contains the folder of the run. Raises NotFound.

        The project of a home folder, which `atlasctl init --user` registers, has only the folders of agents: any other
        folder in the home is not in it.
        """
        from atlas_sdk import NotAProject
        from atlas_sdk.files import Tracking

        found = atlas.projects.by_path(self.start, user=self.owner(atlas))
        folder = os.path.relpath(os.path.realpath(self.start), found.path)
        if folder != "." and Path(found.path).is_dir():
            tracking = Tracking.load(Path(found.path))
            if tracking.user and tracking.leads(folder) is None:
                raise NotAProject(self.start)
        return found

    @property
    def interactive(self) -> bool:
        """True if a person can see and answer a question."""
        return not self.flags.json and self.out.terminal and sys.stdin is not None and sys.stdin.isatty()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before an irreversible step, unless `--yes` was given.

        Raises UsageError without a terminal, Exit when the answer is no.
        """
        if yes:
            return
        if not self.interactive:
            raise click.UsageError("this cannot be taken back; without a terminal it needs --yes")
        if not click.confirm(question, default=False, err=True):
            self.out.note("nothing was changed")
            raise click.exceptions.Exit(FAILED)

    def path(self, project: "Project", given: str) -> str:
        """Return the path of a file as the library takes it.

        Without --project, and if the current folder is in the project, `given` is relative to the current folder.
        Otherwise `given` is returned unchanged.
        """
        here = os.path.realpath(".")
        if given and self.flags.project is None and Path(here).is_relative_to(project.path):
            # Join the texts without `Path`, which may change them: the library itself checks absolute paths and "..".
            return os.path.join(here, given)  # noqa: PTH118
        return given


def _passing(command: Callable[Concatenate[Invocation, P], T], *, of_project: bool) -> Callable[P, T]:
    def call(flags: Flags, /, *args: Any, **kwargs: Any) -> T:
        return command(Invocation(flags, of_project=of_project), *args, **kwargs)

    return click.pass_obj(update_wrapper(call, command))


def pass_run(command: Callable[Concatenate[Invocation, P], T]) -> Callable[P, T]:
    """Give a command its `Invocation` as the first argument."""
    return _passing(command, of_project=True)


def pass_run_anywhere(command: Callable[Concatenate[Invocation, P], T]) -> Callable[P, T]:
    """Give a command about no project its `Invocation` as the first argument."""
    return _passing(command, of_project=False)


def _current_folder() -> str:
    from atlas_sdk import FileProblem

    try:
        return os.getcwd()  # noqa: PTH109  # no `Path` is needed
    except FileNotFoundError as exc:
        raise FileProblem("the current folder is gone; go to one that exists", path=".") from exc


def _check_address(flags: Flags) -> None:
    """Raise UsageError for an empty --home, and for --home together with --dsn."""
    ctx = click.get_current_context(silent=True)
    if flags.home == "":
        # A shell variable that is not set gives an empty --home. Do not ignore the option then, because the environment
        # may name somebody else's database.
        raise click.UsageError("--home is empty: give a folder, or leave the option out", ctx)
    if flags.home and flags.dsn:
        raise click.UsageError(
            "--dsn is a server and --home the folder of the embedded database: give one of them; beside a server, "
            "ATLAS_HOME says where the watcher keeps its state",
            ctx,
        )
