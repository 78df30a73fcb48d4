"""Backends reserve and settle for guards and slots.

A backend does three things, so that reservations and leases share one guard:

* `reserve` grants or raises. When it raises or is cancelled, the backend sees to it that nothing stays reserved.
* `settle` writes the outcome. It never raises because the database fails: the outcome is kept, tried again later, and
  None is returned. On asyncio it goes on when its caller is cancelled.
* `extend` grants more, all or nothing.

`database_backend.py` makes a reservation for every call; leases (`lease.py`) spend a block that the process holds.
"""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from attrs import frozen

from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["RELEASED", "AsyncQuotaBackend", "Grant", "Outcome", "QuotaBackend"]


class Grant(Protocol):
    """An amount that was granted to one guard: a `Reservation`, or a call's part of a lease's block."""

    @property
    def id(self) -> UUID:
        """The reservation, or the block that it was taken from."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens that were granted: the `max_tokens` of the call."""
        ...

    @property
    def cost(self) -> Decimal:
        """US dollars."""
        ...

    @property
    def epoch(self) -> int | None:
        """A number that grows with every grant to the user."""
        ...


@frozen(kw_only=True)
class Outcome:
    """Amounts to charge at the end of a guard, or a release."""

    #: Give everything back; the amounts are then of no meaning.
    releases: bool = False
    #: Amounts to charge; None is unknown: the whole reservation.
    tokens: int | None = None
    cost: Decimal | None = None
    meta: Mapping[str, object] | None = None


RELEASED = Outcome(releases=True)


class QuotaBackend(Protocol):
    """Reserves and settles, blocking. Guards of all threads share it."""

    def reserve(self, user: User, options: GuardOptions) -> Grant:
        """Reserve the amounts. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        ...

    def settle(self, user: User, grant: Grant, outcome: Outcome) -> Settlement | None:
        """Charge or release a grant. Returns None when that is kept for later."""
        ...

    def extend(self, user: User, grant: Grant, *, tokens: int, cost: Money, ttl: timedelta | None) -> Grant:
        """Grant this much more, or keep it for `ttl` from now on; return the whole. Raises QuotaExceeded, NotFound."""
        ...


class AsyncQuotaBackend(Protocol):
    """Reserves and settles on asyncio."""

    async def reserve(self, user: User, options: GuardOptions) -> Grant:
        """Reserve the amounts. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        ...

    async def settle(self, user: User, grant: Grant, outcome: Outcome) -> Settlement | None:
        """Charge or release a grant. Returns None when that is kept for later."""
        ...

    async def extend(self, user: User, grant: Grant, *, tokens: int, cost: Money, ttl: timedelta | None) -> Grant:
        """Grant this much more, or keep it for `ttl` from now on; return the whole. Raises QuotaExceeded, NotFound."""
        ...
