"""The backend of guards that spend from a lease: a lease that the caller opened, or one that the client keeps."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import timedelta
from threading import RLock
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from atlas_sdk._forks import reset_in_children
from atlas_sdk.errors import InvalidInput
from atlas_sdk.guards.backend import AsyncQuotaBackend, Grant, Outcome, QuotaBackend
from atlas_sdk.guards.block import LeaseRequest
from atlas_sdk.guards.lease_call import LeaseCall, LeaseCore, end_call
from atlas_sdk.guards.options import TTL, GuardOptions
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money, ttl_of

if TYPE_CHECKING:
    from atlas_sdk.guards.async_lease import AsyncLeaseCore
    from atlas_sdk.guards.lease import ThreadLeaseCore

__all__ = ["KINDS_MAX", "AsyncLeaseBackend", "ClientLeases", "LeaseBackend"]

#: The most leases that a client keeps: one for each kind of calls, for the most recently used kinds.
KINDS_MAX = 1000
#: A block lives this much longer than its calls may take, so that the last call ends before the block expires.
_SPARE = timedelta(minutes=1)
_TTL_MAX = timedelta(hours=24)
#: Seconds without a call after which the client gives the rest of a block back.
_IDLE_S = 1.0

L = TypeVar("L", bound=LeaseCore)
Kind = tuple[UUID, str, timedelta, str, bool, bool, bool]


def _request(core: LeaseCore, options: GuardOptions) -> LeaseRequest:
    tokens, cost = options.get("tokens", 0), options.get("cost", 0)
    return core.request(tokens, options.get("min_tokens"), cost, 0, options.get("requests"))


class LeaseBackend:
    """A backend that reserves from leases, and from another backend if no lease can serve the call."""

    def __init__(
        self, find: "Callable[[User, GuardOptions], ThreadLeaseCore | None]", other: QuotaBackend | None = None
    ) -> None:
        """Take a function that returns the lease for a call, or None when the call needs its own reservation."""
        self._find = find
        self._other = other

    def reserve(self, user: User, options: GuardOptions) -> Grant:
        """Reserve a part of a block. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        core = self._find(user, options)
        if core is None:
            return _known(self._other).reserve(user, options)
        return core.grant(_request(core, options))

    def settle(self, user: User, grant: Grant, outcome: Outcome) -> Settlement | None:
        """Charge or release a part of a block. The ledger has one entry per block, and no `meta` of single calls."""
        if not isinstance(grant, LeaseCall):
            return _known(self._other).settle(user, grant, outcome)
        settlement = end_call(grant, outcome)
        core: ThreadLeaseCore = grant._core  # type: ignore[assignment]  # noqa: SLF001  # `_find` returned it
        core.settle_due()
        return settlement

    def extend(self, user: User, grant: Grant, *, tokens: int, cost: Money, ttl: timedelta | None) -> Grant:
        """Add to a grant; return the whole grant. Raises QuotaExceeded, NotFound."""
        if not isinstance(grant, LeaseCall):
            return _known(self._other).extend(user, grant, tokens=tokens, cost=cost, ttl=ttl)
        core: ThreadLeaseCore = grant._core  # type: ignore[assignment]  # noqa: SLF001  # as above
        core.extend(grant, tokens=tokens, cost=cost, ttl=ttl)
        return grant


class AsyncLeaseBackend:
    """A backend for asyncio that reserves from leases, and from another backend if no lease can serve the call."""

    def __init__(
        self, find: "Callable[[User, GuardOptions], AsyncLeaseCore | None]", other: AsyncQuotaBackend | None = None
    ) -> None:
        """Take a function that returns the lease for a call, or None when the call needs its own reservation."""
        self._find = find
        self._other = other

    async def reserve(self, user: User, options: GuardOptions) -> Grant:
        """Reserve a part of a block. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        core = self._find(user, options)
        if core is None:
            return await _known(self._other).reserve(user, options)
        return await core.grant(_request(core, options))

    async def settle(self, user: User, grant: Grant, outcome: Outcome) -> Settlement | None:
        """Charge or release a part of a block. The ledger has one entry per block, and no `meta` of single calls."""
        if not isinstance(grant, LeaseCall):
            return await _known(self._other).settle(user, grant, outcome)
        settlement = end_call(grant, outcome)
        core: AsyncLeaseCore = grant._core  # type: ignore[assignment]  # noqa: SLF001  # `_find` returned it
        await core.settle_due()
        return settlement

    async def extend(self, user: User, grant: Grant, *, tokens: int, cost: Money, ttl: timedelta | None) -> Grant:
        """Add to a grant; return the whole grant. Raises QuotaExceeded, NotFound."""
        if not isinstance(grant, LeaseCall):
            return await _known(self._other).extend(user, grant, tokens=tokens, cost=cost, ttl=ttl)
        core: AsyncLeaseCore = grant._core  # type: ignore[assignment]  # noqa: SLF001  # as above
        await core.extend(grant, tokens=tokens, cost=cost, ttl=ttl)
        return grant


B = TypeVar("B")


def _known(backend: B | None) -> B:
    if backend is None:
        message = "a guard of a lease has no other backend"
        raise TypeError(message)
    return backend


class ClientLeases(Generic[L]):
    """The leases that a client keeps for `guard(lease=True)`: one for each kind of calls, the most recently used."""

    def __init__(self, make: Callable[..., L]) -> None:
        """Take a function that makes the core of a lease."""
        self._make = make
        self._leases: OrderedDict[Kind, L] = OrderedDict()
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may hold it."""
        self._lock = RLock()

    def find(self, user: User, options: GuardOptions) -> L | None:
        """Return the lease for this kind of calls; None if the call needs its own reservation. Raises InvalidInput."""
        kind = _kind(user, options)
        if kind is None:
            return None
        oldest = None
        with self._lock:
            lease = self._leases.get(kind)
            if lease is None or lease.closed:
                lease = self._leases[kind] = self._make(
                    user,
                    None,
                    ttl=min(kind[2] + _SPARE, _TTL_MAX),
                    idle_s=_IDLE_S,
                    holder=kind[1],
                    meta=options.get("meta"),
                )
                if len(self._leases) > KINDS_MAX:
                    _, oldest = self._leases.popitem(last=False)
            self._leases.move_to_end(kind)
        if oldest is not None:
            oldest.retire()
        return lease

    def __len__(self) -> int:
        return len(self._leases)


def _kind(user: User, options: GuardOptions) -> Kind | None:
    if options.get("slots") or options.get("builds") or options.get("idempotency_key") is not None:
        return None
    return (
        user.id,
        str(options.get("holder", "")),
        ttl_of(options.get("ttl", TTL)),
        _text(options.get("meta")),
        # Separate calls by the dimensions that they use: a block has only those of its first call.
        bool(options.get("tokens")),
        bool(options.get("cost")),
        bool(options.get("requests", 1)),
    )


def _text(meta: Mapping[str, Any] | None) -> str:
    if meta is not None and not isinstance(meta, Mapping):
        raise InvalidInput(f"meta must be a mapping, not {meta!r}", field="meta")
    return "" if not meta else json.dumps(dict(meta), sort_keys=True, default=str)
