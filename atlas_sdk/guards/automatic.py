"""Automatic mode: a reservation a call while a user is cold or near a limit, blocks while the user is hot.

A call is never refused because of the mode: it is the database that refuses, and before it does so for good, what lies
idle in this process has been given back, whichever lease has it.
"""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal

from atlas_sdk._faces import AsyncRunner, Runner
from atlas_sdk.errors import QuotaExceeded
from atlas_sdk.guards.asking import TTL, Ask
from atlas_sdk.guards.async_lease import AsyncLease
from atlas_sdk.guards.block import dollars, nano_promised
from atlas_sdk.guards.call import Call
from atlas_sdk.guards.heat import Heat, Heats
from atlas_sdk.guards.lease import Lease
from atlas_sdk.guards.owed import seconds
from atlas_sdk.guards.source import AsyncSource, Held, Source
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, count, money, ttl_of

__all__ = ["AsyncAutomaticSource", "AutomaticSource"]

#: A block outlives the calls that it was opened for: one that starts last still ends before it expires.
_SPARE = timedelta(minutes=1)
_TTL_MAX = timedelta(hours=24)


def _asked(ask: Ask) -> tuple[int, int, int]:
    """Return what one call asks for: tokens, billionths of a dollar, requests. Raises InvalidInput."""
    tokens, least = count("tokens", ask.get("tokens", 0), TOKENS_MAX), ask.get("min_tokens")
    if least is not None:
        count("min_tokens", least, tokens, least=min(tokens, 1))
    return (
        tokens,
        nano_promised(money("cost", ask.get("cost", 0))),
        count("requests", ask.get("requests", 1)),
    )


class _Size:
    """How to open a lease for calls like one."""

    def __init__(self, user: User, ask: Ask) -> None:
        self.user = user
        self.asked = _asked(ask)
        self.least = ask.get("min_tokens")
        self._ask = ask

    def of(self, heat: Heat[Lease] | Heat[AsyncLease]) -> tuple[int, int, int]:
        """Return the size of a block: what calls ask for that come, and never none of what this one needs."""
        tokens, nano, requests = heat.size()
        return max(tokens, self.asked[0]), max(nano, self.asked[1]), max(requests, self.asked[2])

    def options(self, heat: Heat[Lease] | Heat[AsyncLease]) -> dict[str, object]:
        tokens, nano, requests = self.of(heat)
        return {
            "tokens": tokens,
            "cost": dollars(nano),
            "requests": requests,
            "ttl": min(ttl_of(self._ask.get("ttl", TTL)) + _SPARE, _TTL_MAX),
            "holder": self._ask.get("holder", ""),
            "meta": self._ask.get("meta"),
        }


class AutomaticSource:
    """Reserves from the database or from a block, whichever suits."""

    def __init__(self, runner: Runner, database: Source) -> None:
        self._runner = runner
        self._database = database
        self._heats: Heats[Lease] = Heats(lambda lease: lease.drop())

    def reserve(self, user: User, ask: Ask) -> Held:
        """Promise what is asked for. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        now = seconds()
        heat = self._heats.of(user, ask, now)
        if heat is None:
            return self._database.reserve(user, ask)
        size = _Size(user, ask)
        tokens, nano, requests = size.asked
        hot = heat.note(now, tokens, nano, requests)
        lease = heat.lease
        if lease is not None and any(size.asked):
            call = lease.take(tokens, nano, requests)
            if call is not None:
                return call
        if hot and any(size.asked):
            return self._of_block(heat, size)
        return self._database.reserve(user, ask)

    def _of_block(self, heat: Heat[Lease], size: _Size) -> Call:
        lease = self._heats.lease(heat, lambda: Lease(self._runner, size.user, **size.options(heat)))
        lease.resize(*size.of(heat))
        tokens, nano, requests = size.asked
        try:
            call = lease.reserve(tokens, min_tokens=size.least, cost_nano=nano, requests=requests)
        except QuotaExceeded:
            heat.cool(seconds())
            raise
        if lease.purse.shrunk:
            heat.cool(seconds())
        return call

    def settle(
        self, user: User, held: Held, *, tokens: int | None, cost: Decimal | None, meta: Mapping[str, object] | None
    ) -> Settlement | None:
        """Charge these amounts; None is unknown: all that was promised. Returns None when it is kept for later."""
        if isinstance(held, Call):
            return held.settlement(tokens, cost)
        return self._database.settle(user, held, tokens=tokens, cost=cost, meta=meta)

    def release(self, user: User, held: Held) -> Settlement | None:
        """Give the promise back. Returns None when that is kept for later."""
        return held.released() if isinstance(held, Call) else self._database.release(user, held)

    def extend(self, user: User, held: Held, *, tokens: int, cost: Money, ttl: timedelta | None) -> Held:
        """Promise this much more, or for this long from now on; return the whole. Raises QuotaExceeded, NotFound."""
        if isinstance(held, Call) and isinstance(held.leasing, Lease):
            held.leasing.extend(held, tokens=tokens, cost=cost, ttl=ttl)
            return held
        return self._database.extend(user, held, tokens=tokens, cost=cost, ttl=ttl)


class AsyncAutomaticSource:
    """Reserves from the database or from a block, whichever suits. The twin of `AutomaticSource`."""

    def __init__(self, runner: AsyncRunner, database: AsyncSource) -> None:
        self._runner = runner
        self._database = database
        self._heats: Heats[AsyncLease] = Heats(lambda lease: lease.drop())

    async def reserve(self, user: User, ask: Ask) -> Held:
        """Promise what is asked for. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        now = seconds()
        heat = self._heats.of(user, ask, now)
        if heat is None:
            return await self._database.reserve(user, ask)
        size = _Size(user, ask)
        tokens, nano, requests = size.asked
        hot = heat.note(now, tokens, nano, requests)
        lease = heat.lease
        if lease is not None and any(size.asked):
            call = lease.take(tokens, nano, requests)
            if call is not None:
                return call
        if hot and any(size.asked):
            return await self._of_block(heat, size)
        return await self._database.reserve(user, ask)

    async def _of_block(self, heat: Heat[AsyncLease], size: _Size) -> Call:
        lease = self._heats.lease(heat, lambda: AsyncLease(self._runner, size.user, **size.options(heat)))
        lease.resize(*size.of(heat))
        tokens, nano, requests = size.asked
        try:
            call = await lease.reserve(tokens, min_tokens=size.least, cost_nano=nano, requests=requests)
        except QuotaExceeded:
            heat.cool(seconds())
            raise
        if lease.purse.shrunk:
            heat.cool(seconds())
        return call

    async def settle(
        self, user: User, held: Held, *, tokens: int | None, cost: Decimal | None, meta: Mapping[str, object] | None
    ) -> Settlement | None:
        """Charge these amounts; None is unknown: all that was promised. Returns None when it is kept for later."""
        if isinstance(held, Call):
            return held.settlement(tokens, cost)
        return await self._database.settle(user, held, tokens=tokens, cost=cost, meta=meta)

    async def release(self, user: User, held: Held) -> Settlement | None:
        """Give the promise back. Returns None when that is kept for later."""
        return held.released() if isinstance(held, Call) else await self._database.release(user, held)

    async def extend(self, user: User, held: Held, *, tokens: int, cost: Money, ttl: timedelta | None) -> Held:
        """Promise this much more, or for this long from now on; return the whole. Raises QuotaExceeded, NotFound."""
        if isinstance(held, Call) and isinstance(held.leasing, AsyncLease):
            await held.leasing.extend(held, tokens=tokens, cost=cost, ttl=ttl)
            return held
        return await self._database.extend(user, held, tokens=tokens, cost=cost, ttl=ttl)
