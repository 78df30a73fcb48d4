"""What a call asks a lease for, and what others that wait with it need not ask again."""

from typing import Any

from attrs import frozen

from atlas_sdk.errors import AtlasError, DatabaseUnreachable, QuotaExceeded
from atlas_sdk.guards.block import dollars, nano_promised

__all__ = ["Failure", "Want"]


@frozen
class Want:
    """What one call asks for; `least` is how many tokens it is content with, billionths of a dollar are exact."""

    tokens: int
    least: int
    nano: int
    requests: int

    def of(self, dimension: str) -> int | None:
        """Return how much of a dimension it needs; None for one that leases do not have."""
        return {"tokens": self.least, "cost": self.nano, "requests": self.requests}.get(dimension)


@frozen
class Failure:
    """What the database told one call that asked for a block, for others that waited meanwhile."""

    #: Of the talk.
    number: int
    want: Want
    problem: QuotaExceeded | DatabaseUnreachable

    def again(self, want: Want) -> AtlasError | None:
        """Return what another call would have been told, if that can be said without asking."""
        if isinstance(self.problem, DatabaseUnreachable):
            return type(self.problem)(*self.problem.args)
        problem = self.problem
        mine, theirs = want.of(problem.dimension), self.want.of(problem.dimension)
        if theirs is None or mine is None or mine < theirs:
            return None
        never = problem.limit is not None and mine > _nano_if_cost(problem, problem.limit)
        return QuotaExceeded(
            dimension=problem.dimension,
            asked=dollars(mine) if problem.dimension == "cost" else mine,
            remaining=problem.remaining,
            limit=problem.limit,
            retry_after=None if never else problem.retry_after,
            resets_at=problem.resets_at,
            holders=problem.holders,
            held=problem.held,
        )


def _nano_if_cost(problem: QuotaExceeded, amount: Any) -> int:
    return nano_promised(amount) if problem.dimension == "cost" else int(amount)
