"""Where a guard gets its promise from and where it settles: the database, or a block that this process holds.

A guard asks its source for three things, so that plain holds and leases share one guard:

* `reserve` promises or raises. When it raises or is cancelled the source sees to it that nothing stays reserved.
* `settle` and `release` end a promise. They never raise because the database is gone: what could not be written is
  kept by the source, tried again later, and None is returned. On asyncio they go on when their caller is cancelled.
* `extend` promises more to it, all or nothing.
"""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from atlas_sdk.guards.asking import Ask
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncSource", "Held", "Source"]


class Held(Protocol):
    """What was promised to one guard; a `Reservation` is one."""

    @property
    def id(self) -> UUID:
        """The reservation, or the block that it was taken from."""
        ...

    @property
    def tokens(self) -> int:
        """What was granted: the `max_tokens` of the call."""
        ...

    @property
    def cost(self) -> Decimal:
        """US dollars."""
        ...

    @property
    def epoch(self) -> int | None:
        """Grows with every grant to the user."""
        ...

    @property
    def repeated(self) -> bool:
        """Whether an earlier call with the same idempotency key made this promise."""
        ...


class Source(Protocol):
    """Promises and settles, blocking. Shared by guards of all threads."""

    def reserve(self, user: User, ask: Ask) -> Held:
        """Promise what is asked for. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        ...

    def settle(
        self, user: User, held: Held, *, tokens: int | None, cost: Decimal | None, meta: Mapping[str, object] | None
    ) -> Settlement | None:
        """Charge these amounts; None is unknown: all that was promised. Returns None when it is kept for later."""
        ...

    def release(self, user: User, held: Held) -> Settlement | None:
        """Give the promise back. Returns None when that is kept for later."""
        ...

    def extend(self, user: User, held: Held, *, tokens: int, cost: Money, ttl: timedelta | None) -> Held:
        """Promise this much more, or for this long from now on; return the whole. Raises QuotaExceeded, NotFound."""
        ...


class AsyncSource(Protocol):
    """Promises and settles on asyncio. `settle` and `release` go on to their end when their caller is cancelled."""

    async def reserve(self, user: User, ask: Ask) -> Held:
        """Promise what is asked for. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        ...

    async def settle(
        self, user: User, held: Held, *, tokens: int | None, cost: Decimal | None, meta: Mapping[str, object] | None
    ) -> Settlement | None:
        """Charge these amounts; None is unknown: all that was promised. Returns None when it is kept for later."""
        ...

    async def release(self, user: User, held: Held) -> Settlement | None:
        """Give the promise back. Returns None when that is kept for later."""
        ...

    async def extend(self, user: User, held: Held, *, tokens: int, cost: Money, ttl: timedelta | None) -> Held:
        """Promise this much more, or for this long from now on; return the whole. Raises QuotaExceeded, NotFound."""
        ...
