"""The transactions of one run of a plan: the commands for the server, and the context that the plan gets."""

from itertools import count
from typing import Any, LiteralString, Protocol

from attrs import define, field
from psycopg.sql import Composed

from atlas_sdk._context import Context
from atlas_sdk._drive.row_security import begin_command
from atlas_sdk._drive.search_path import begin_on_own_path, commit_on_path, path_before
from atlas_sdk._plan import Begin, Commit, Rollback

__all__ = ["OpenTransaction", "Scope"]

_numbers = count()


class OpenTransaction(Protocol):
    """A transaction that is already open. Each plan in it runs in a savepoint."""

    @property
    def connection(self) -> Any:
        """The connection of the transaction."""
        ...

    @property
    def is_callers(self) -> bool:
        """True if the caller made the connection. It then has its own search_path, which the run must restore."""
        ...

    @property
    def ended(self) -> bool:
        """True if the transaction is over. Another caller may already use its connection."""
        ...


@define(eq=False)
class Scope:
    """The state of one run of a plan: its connection, its depth of transactions, and the number of its writes."""

    #: The context that the plan gets: inside a transaction, that of the transaction.
    context: Context
    transaction: OpenTransaction | None = None
    #: The connection of the transaction that is open; None between transactions.
    connection: Any = None
    depth: int = 0
    #: The number of committed transactions, and of statements outside of transactions that change something.
    writes: int = 0
    #: The context outside of the plan's own transaction, while that is open.
    _outer: Any = field(init=False, default=None)
    _path: bytes = field(init=False, default=b"")
    _path_before: str | None = field(init=False, default=None)
    #: Each run has its own savepoint names, so that it never releases a savepoint that an interrupted run left.
    _number: int = field(init=False, factory=_numbers.__next__)

    def use(self, connection: Any) -> None:
        """Run the next transaction on this pooled connection."""
        self.connection, self._path = connection, connection.path

    def release(self) -> Any:
        """Release the pooled connection, and return it for the pool."""
        connection, self.connection = self.connection, None
        return connection

    def commands(self, effect: Begin | Commit | Rollback) -> tuple[LiteralString | Composed, ...]:
        """Return the SQL that begins, commits or rolls back one level of nesting."""
        level = self.depth + isinstance(effect, Begin)
        outermost = level == 1 and self.transaction is None
        sets_path = level == 1 and self.transaction is not None and self.transaction.is_callers
        savepoint = f"atlas_{self._number}_{level}"
        if isinstance(effect, Begin):
            if sets_path:
                return (begin_on_own_path(savepoint),)
            if outermost and (self._path or self.context.tenant is not None):
                return (begin_command(self.context.tenant, self._path),)
            return ("BEGIN" if outermost else "SAVEPOINT " + savepoint,)
        if isinstance(effect, Commit):
            if sets_path and self._path_before is not None:
                return (commit_on_path(savepoint, self._path_before),)
            return ("COMMIT" if outermost else "RELEASE SAVEPOINT " + savepoint,)
        if outermost:
            return ("ROLLBACK",)
        return ("ROLLBACK TO SAVEPOINT " + savepoint, "RELEASE SAVEPOINT " + savepoint)

    def note_answer(self, cursor: Any) -> None:
        """Remember the caller's search_path, which the first command of a caller's transaction returns."""
        if self.transaction is not None and self.transaction.is_callers and self._path_before is None:
            self._path_before = path_before(cursor)

    def completed(self, effect: Begin | Commit | Rollback) -> bool:
        """Note a step that the server carried out; return True when the plan's own transaction is over."""
        if isinstance(effect, Begin):
            self.depth += 1
            if self.depth == 1 and self.transaction is None:
                self._outer, self.context = self.context, self.context.begin()
            return False
        self.depth -= 1
        if isinstance(effect, Rollback):
            self.context.rollback()
        if self.depth or self.transaction is not None:
            return False
        if isinstance(effect, Commit):
            self.writes += 1
            self._outer.commit(self.context)
        self.context = self._outer
        return True
