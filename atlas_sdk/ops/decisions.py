"""Decisions of the database about quotas: what it granted, or the error that says why it refused."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from attrs import evolve, frozen

from atlas_sdk._plan import Plan, many
from atlas_sdk._sql import statements
from atlas_sdk.errors import InvalidInput, QuotaExceeded
from atlas_sdk.model.users import User

__all__ = ["Decision", "amounts_asked", "refusal"]

sql = statements("quotas")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@frozen(kw_only=True)
class Decision:
    """The answer of the quota functions: the amounts granted, or the reason of a refusal."""

    granted: bool
    state: str = "held"
    tokens: int | None = None
    cost: Decimal | None = None
    dimension: str | None = None
    remaining: Decimal | None = None
    retry_after: timedelta | None = None
    resets_at: datetime | None = None
    expires_at: datetime | None = None
    epoch: int | None = None
    repeated: bool = False
    bound: Decimal | None = None
    requests: int | None = None
    lasts: timedelta | None = None
    held: Decimal | None = None
    #: Only the procedures that commit use this.
    busy: bool | None = None
    #: The values of quota_refusal(); a refusal has them in place of the columns above.
    refusal: list[str | None] | None = None

    def spelled_out(self) -> "Decision":
        """Return a copy with the values of `refusal` in their own fields."""
        if self.refusal is None:
            return self
        dimension, remaining, retry_s, resets_s, bound, held = self.refusal
        return evolve(
            self,
            dimension=dimension,
            remaining=None if remaining is None else Decimal(remaining),
            retry_after=None if retry_s is None else _exactly(retry_s),
            resets_at=None if resets_s is None else _EPOCH + _exactly(resets_s),
            bound=None if bound is None else Decimal(bound),
            held=None if held is None else Decimal(held),
            refusal=None,
        )


def amounts_asked(parameters: Mapping[str, Any]) -> dict[str, int | Decimal]:
    """Return the amounts that a reservation needs at least, by dimension."""
    least = parameters["min_tokens"]
    return {
        "tokens": parameters["tokens"] if least is None else least,
        "cost": parameters["cost"],
        "containers": parameters["slots"],
        "requests": parameters["requests"],
        "builds": parameters["builds"],
    }


def _exactly(seconds: str) -> timedelta:
    return timedelta(microseconds=int(Decimal(seconds) * 1_000_000))


def _holder(*, holder: str) -> str:
    return holder


def refusal(
    user: User,
    reservation_id: UUID,
    decision: Decision,
    asked: Mapping[str, int | Decimal],
    *,
    waited: timedelta | None = None,
) -> Plan[QuotaExceeded | InvalidInput]:
    """Return the error for a refusal; `asked` has the amounts that the caller wanted, by dimension."""
    decision = decision.spelled_out()
    dimension = decision.dimension
    if dimension is None:
        message = f"reservation {reservation_id} is {decision.state} already: use a new id for a new reservation"
        return InvalidInput(message, field="reservation_id")
    holders: tuple[str, ...] = ()
    if dimension == "containers":
        found = yield from many(sql["holders"], _holder, user_id=user.id)
        holders = tuple(found)

    def exact(amount: Decimal | None) -> int | Decimal | None:
        return amount if dimension == "cost" or amount is None else int(amount)

    return QuotaExceeded(
        dimension=dimension,
        asked=asked[dimension],
        remaining=exact(decision.remaining) or 0,
        limit=exact(decision.bound),
        retry_after=decision.retry_after,
        resets_at=decision.resets_at,
        holders=holders,
        held=exact(decision.held),
        waited=waited,
    )
