"""The steps of a set-up, and those left to an administrator."""

from collections.abc import Callable

import psycopg
from attrs import field, frozen
from psycopg import errors

from atlas_sdk.errors import AtlasError, TransactionConflict
from atlas_sdk.provision.session import Session, translated

__all__ = ["Command", "Job", "Setup", "Step"]

#: Somebody else did the same at this moment: look again.
_RACES = (
    errors.DuplicateObject,
    errors.DuplicateDatabase,
    errors.UniqueViolation,
    # "tuple concurrently updated": two GRANTs on one thing.
    errors.InternalError_,
    # template1 is being copied, or somebody is in it.
    errors.ObjectInUse,
    errors.DeadlockDetected,
)
#: Whoever loses a race finds the thing done, or the way free.
_ATTEMPTS = 3


@frozen
class Command:
    """A line for an administrator, as psql takes it; a remark begins with two hyphens."""

    #: The database to run it in.
    database: str
    #: With its semicolon, if it is no command of psql itself.
    text: str


@frozen(kw_only=True)
class Step:
    """One thing that setting up saw to."""

    name: str
    #: "done"; "there": nothing to do; "planned": a dry run; "failed"; "skipped": what it needs is missing.
    status: str
    detail: str = ""
    #: What has to be run for it by somebody who may.
    commands: tuple[Command, ...] = ()


@frozen(kw_only=True)
class Setup:
    """The result of setting a database up."""

    #: Who connected to what, without a password.
    place: str
    #: Where that was said.
    source: str
    steps: tuple[Step, ...]
    server_version: str | None = None
    schema_version: int | None = None
    #: Migrations that were applied now, as "0001_accounts".
    applied: tuple[str, ...] = ()
    dry_run: bool = False
    #: The generated password of the application's login, if one was made: it is kept nowhere else.
    app_password: str | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """True when every step is done, or would be."""
        return all(step.status in {"done", "there", "planned"} for step in self.steps)

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands that an administrator has to run, in this order, before the next attempt."""
        return tuple(dict.fromkeys(command for step in self.steps for command in step.commands))


class Job:
    """Does steps, or plans them, and tells of each as it is over."""

    def __init__(self, *, dry_run: bool, tell: Callable[[Step], None] | None) -> None:
        self.dry_run = dry_run
        self.steps: list[Step] = []
        self._tell = tell

    def note(self, name: str, status: str, detail: str = "", *, commands: tuple[Command, ...] = ()) -> None:
        """Put a step on record."""
        step = Step(name=name, status=status, detail=detail, commands=commands)
        self.steps.append(step)
        if self._tell is not None:
            self._tell(step)

    def do(
        self,
        name: str,
        session: Session,
        command: str,
        *,
        may: bool,
        done: str,
        is_done: Callable[[], bool],
        there: str | None = None,
        database: str | None = None,
        for_admin: tuple[str, ...] = (),
    ) -> bool:
        """Run one command, unless what it does is done; return whether it is done now.

        `done` says what there is afterwards, `there` what there was already. What this login may not do is left to an
        administrator: the lines `for_admin`, or the same command, to be run in `database`.
        """
        if is_done():
            self.note(name, "there", there or done)
            return True
        if may and self.dry_run:
            self.note(name, "planned", f"would run: {command}")
            return True
        lines = for_admin or (f"{command};",)
        problem = f"this login may not: {lines[0].removesuffix(';')}"
        for _ in range(_ATTEMPTS if may else 0):
            try:
                session.do(command)
            except _RACES as race:
                if is_done():
                    self.note(name, "there", there or done)
                    return True
                problem = _sentence(race, session)
            except psycopg.Error as exc:
                if not isinstance(exc, errors.InsufficientPrivilege):
                    problem = _sentence(exc, session)
                break
            else:
                self.note(name, "done", done)
                return True
        where = session.connection.info.dbname if database is None else database
        self.note(name, "failed", problem, commands=tuple(Command(where, line) for line in lines))
        return False


def _sentence(problem: psycopg.Error, session: Session) -> str:
    try:
        with translated(session.address):
            raise problem
    except TransactionConflict:
        return "somebody else was doing the same: do it again"
    except AtlasError as ours:
        return str(ours)
