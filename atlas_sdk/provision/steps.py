"""The steps of a set-up, and the commands that are left to an administrator."""

from collections.abc import Callable

from attrs import field, frozen

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk.errors import AtlasError, DatabaseError, NotPermitted, TransactionConflict

__all__ = ["AdminCommand", "Job", "Setup", "SetupStep"]

#: SQLSTATEs which show that another client is doing the same at this moment.
_RACES = frozenset(
    {
        # The object or the database exists already, or a unique index already has its name.
        *("42710", "42P04", "23505"),
        # "tuple concurrently updated": two GRANTs on one object.
        "XX000",
        # Another client copies template1, or is connected to it.
        "55006",
        # A deadlock.
        "40P01",
    }
)
#: After a lost race, another attempt either finds the step done or can do it.
_ATTEMPTS = 3


@frozen
class AdminCommand:
    """A line that an administrator gives to psql: a command, or a remark that begins with two hyphens."""

    #: The database to run the command in.
    database: str
    #: The command, with its semicolon unless it is a command of psql itself.
    text: str


@frozen(kw_only=True)
class SetupStep:
    """One step of a set-up, and how it ended."""

    name: str
    #: "done"; "there": nothing to do; "planned": a dry run; "failed"; "skipped": something that it needs is missing.
    status: str
    detail: str = ""
    #: The commands that an administrator has to run for this step.
    commands: tuple[AdminCommand, ...] = ()


@frozen(kw_only=True)
class Setup:
    """The result of setting a database up."""

    #: The login and the database, without a password.
    place: str
    #: The source of the address: "--dsn", "ATLAS_DATABASE_URL", …
    source: str
    steps: tuple[SetupStep, ...]
    server_version: str | None = None
    schema_version: int | None = None
    #: The migrations that this set-up applied, as "0001_accounts".
    applied: tuple[str, ...] = ()
    dry_run: bool = False
    #: The generated password of the application's login, if this set-up made one: it is stored nowhere else.
    app_password: str | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """True when every step is done, or would be done."""
        return all(step.status in {"done", "there", "planned"} for step in self.steps)

    @property
    def commands(self) -> tuple[AdminCommand, ...]:
        """The commands that an administrator has to run, in this order, before the next attempt."""
        return tuple(dict.fromkeys(command for step in self.steps for command in step.commands))


class Job:
    """Carries out steps, or only plans them, and reports each step after its end."""

    def __init__(self, *, dry_run: bool, tell: Callable[[SetupStep], None] | None) -> None:
        self.dry_run = dry_run
        self.steps: list[SetupStep] = []
        self._tell = tell

    def note(self, name: str, status: str, detail: str = "", *, commands: tuple[AdminCommand, ...] = ()) -> None:
        """Record a step and report it."""
        step = SetupStep(name=name, status=status, detail=detail, commands=commands)
        self.steps.append(step)
        if self._tell is not None:
            self._tell(step)

    def do(
        self,
        name: str,
        session: AdminSession,
        command: str,
        *,
        may: bool,
        done: str,
        is_done: Callable[[], bool],
        there: str | None = None,
        database: str | None = None,
        for_admin: tuple[str, ...] = (),
    ) -> bool:
        """Run one command, unless `is_done` says that its effect is there; return whether the effect is there now.

        `done` describes the result, `there` the same result when it was there before. A command that this login may
        not run is left to an administrator: the lines `for_admin`, or the same command, to be run in `database`.
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
                session.execute(command)
            except NotPermitted:
                break
            except AtlasError as error:
                problem = _sentence(error)
                if not isinstance(error, DatabaseError) or error.sqlstate not in _RACES:
                    break
                if is_done():
                    self.note(name, "there", there or done)
                    return True
            else:
                self.note(name, "done", done)
                return True
        where = session.database if database is None else database
        self.note(name, "failed", problem, commands=tuple(AdminCommand(where, line) for line in lines))
        return False


def _sentence(error: AtlasError) -> str:
    if isinstance(error, TransactionConflict):
        return "somebody else was doing the same: do it again"
    return str(error)
