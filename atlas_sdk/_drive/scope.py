"""The transactions of one run of a plan: what to say to the server, and who may know what was learned."""

from itertools import count
from typing import Any, LiteralString

from attrs import evolve
from psycopg.sql import Composed

from atlas_sdk._drive.row_security import begin_command
from atlas_sdk._drive.search_path import begin_on_own_path, commit_on_path, path_before
from atlas_sdk._heads import HeadCache
from atlas_sdk._plan import Begin, Commit, Context, Rollback

__all__ = ["Scope"]


_NUMBERS = count()


class Scope:
    """The state of one run of a plan: the nesting of its transactions, and the versions that they saw."""

    def __init__(self, context: Context, *, nested: bool, joined: bool = False) -> None:
        self.context = context
        self._outer = context
        #: Whether the caller has a transaction open: then ours are savepoints in it.
        self.nested = nested
        #: Whether that transaction is on a connection of the caller's, with a search_path of its own: ours then holds
        #: for the time of this run alone.
        self.joined = joined
        self._path_before: str | None = None
        #: Every run has savepoints of its own name: one that an interrupted run has left must not be taken for it.
        self._number = next(_NUMBERS)
        self.depth = 0
        #: Statements that change something, sent outside of transactions, and transactions that were committed.
        self.writes = 0

    def commands(self, effect: Begin | Commit | Rollback, path: bytes = b"") -> tuple[LiteralString | Composed, ...]:
        """Return the SQL for one step of nesting; `path` is the connection's `PooledConnection.path`."""
        level = self.depth + isinstance(effect, Begin)
        outermost = level == 1 and not self.nested
        shielded = level == 1 and self.joined
        savepoint = f"atlas_{self._number}_{level}"
        if isinstance(effect, Begin):
            if shielded:
                return (begin_on_own_path(savepoint),)
            if outermost and (path or self.context.tenant is not None):
                return (begin_command(self.context.tenant, path),)
            return ("BEGIN" if outermost else "SAVEPOINT " + savepoint,)
        if isinstance(effect, Commit):
            if shielded and self._path_before is not None:
                return (commit_on_path(savepoint, self._path_before),)
            return ("COMMIT" if outermost else "RELEASE SAVEPOINT " + savepoint,)
        if outermost:
            return ("ROLLBACK",)
        return ("ROLLBACK TO SAVEPOINT " + savepoint, "RELEASE SAVEPOINT " + savepoint)

    def heard(self, cursor: Any) -> None:
        """Take note of what the server answered to one of the commands."""
        if self.joined and self._path_before is None:
            self._path_before = path_before(cursor)

    def done(self, effect: Begin | Commit | Rollback) -> bool:
        """Count a step that the server carried out; True when the plan's own transaction is over."""
        if isinstance(effect, Begin):
            self.depth += 1
            if self.depth == 1 and not self.nested:
                # What a transaction learns is nobody else's business until it is committed.
                self.context = evolve(self._outer, heads=HeadCache(of_transaction=True))
            return False
        self.depth -= 1
        if isinstance(effect, Rollback):
            self.context.heads.clear()
        if self.depth or self.nested:
            return False
        if isinstance(effect, Commit):
            self.writes += 1
            self._outer.heads.adopt(self.context.heads)
        self.context = self._outer
        return True
