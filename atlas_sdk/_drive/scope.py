"""The transactions of one run of a plan: what to say to the server, and who may know what was learned."""

from typing import LiteralString

from attrs import evolve

from atlas_sdk._heads import Heads
from atlas_sdk._plan import Begin, Commit, Context, Rollback

__all__ = ["Scope"]


class Scope:
    """What one run of a plan holds: how deep its transactions are nested, and what they learned so far."""

    def __init__(self, lent: Context, *, nested: bool) -> None:
        self.lent = lent
        self.outer = lent
        #: Whether the caller has a transaction open: then ours are savepoints in it.
        self.nested = nested
        self.depth = 0

    def command(self, effect: Begin | Commit | Rollback) -> LiteralString:
        """Return the SQL for one step of nesting, and keep the count and the cache of heads right."""
        if isinstance(effect, Begin):
            self.depth += 1
        outermost = self.depth == 1 and not self.nested
        savepoint = f"atlas_{self.depth}"
        if isinstance(effect, Begin):
            if outermost:
                # What a transaction learns is nobody else's business until it is committed.
                self.lent = evolve(self.outer, heads=Heads(of_transaction=True))
            return "BEGIN" if outermost else "SAVEPOINT " + savepoint
        self.depth -= 1
        if isinstance(effect, Commit):
            return "COMMIT" if outermost else "RELEASE SAVEPOINT " + savepoint
        self.lent.heads.clear()
        return "ROLLBACK" if outermost else "ROLLBACK TO SAVEPOINT " + savepoint

    def ended(self, effect: Begin | Commit | Rollback) -> bool:
        """Whether the plan's own transaction is over now; a commit publishes what it learned."""
        over = self.depth == 0 and not self.nested and not isinstance(effect, Begin)
        if over:
            if isinstance(effect, Commit):
                self.outer.heads.adopt(self.lent.heads)
            self.lent = self.outer
        return over
