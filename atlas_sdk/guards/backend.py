"""Backends, which reserve and settle quota for guards and slots.

A guard works with reservations and with leases, because the backends of both have these three methods:

* `reserve` grants or raises. When it raises or is cancelled, the backend ensures that nothing stays reserved.
* `settle` writes the outcome. It never raises when the database fails: the backend keeps the outcome, tries again
  later, and returns None. On asyncio, `settle` continues if its caller is cancelled.
* `extend` adds to a grant: the whole amount or nothing.

`database_backend.py` makes a reservation for every call; leases (`lease.py`) spend a block that the process holds.
"""

from datetime import timedelta
from decimal import Decimal
from typing import Protocol, TypeVar
from uuid import UUID

from atlas_sdk._drive import AsyncWakeups, Wakeups
from atlas_sdk._namespaces import AsyncRunner, Runner
from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.guards.usage_record import Outcome
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncQuotaBackend", "AsyncQuotaRunner", "Grant", "QuotaBackend", "QuotaRunner"]


class QuotaRunner(Runner, Protocol):
    """A blocking runner of plans that also wakes waiting calls."""

    @property
    def wakeups(self) -> Wakeups:
        """The subscriptions of the client's waiting calls."""
        ...


class AsyncQuotaRunner(AsyncRunner, Protocol):
    """The same for asyncio."""

    @property
    def wakeups(self) -> AsyncWakeups:
        """The subscriptions of the client's waiting calls."""
        ...


class Grant(Protocol):
    """An amount that was granted to one guard: a `Reservation`, or a call's part of a lease's block."""

    @property
    def id(self) -> UUID:
        """The id of the reservation, or of the block that the grant is a part of."""
        ...

    @property
    def tokens(self) -> int:
        """The granted tokens: the `max_tokens` of the call."""
        ...

    @property
    def cost(self) -> Decimal:
        """The granted cost, in US dollars."""
        ...

    @property
    def epoch(self) -> int | None:
        """The fencing number, which grows with every grant to the user."""
        ...


G = TypeVar("G", bound=Grant)


class QuotaBackend(Protocol[G]):
    """A backend for blocking guards. The guards of all threads share it."""

    def reserve(self, user: User, options: GuardOptions, wait: WaitSchedule | None = None) -> G:
        """Reserve the amounts; with `wait`, wait for the call's turn if they do not fit.

        Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput.
        """
        ...

    def settle(self, user: User, grant: G, outcome: Outcome) -> Settlement | None:
        """Charge or release a grant; return None if the backend keeps the settlement for later."""
        ...

    def extend(self, user: User, grant: G, *, tokens: int, cost: Money, ttl: timedelta | None) -> G:
        """Add to a grant, or make it expire `ttl` from now; return its new totals. Raises QuotaExceeded, NotFound."""
        ...


class AsyncQuotaBackend(Protocol[G]):
    """A backend for guards on asyncio. Its methods do the same as those of `QuotaBackend`."""

    async def reserve(self, user: User, options: GuardOptions, wait: WaitSchedule | None = None) -> G: ...
    async def settle(self, user: User, grant: G, outcome: Outcome) -> Settlement | None: ...
    async def extend(self, user: User, grant: G, *, tokens: int, cost: Money, ttl: timedelta | None) -> G: ...
