"""The leases that a client keeps for `guard(lease=True)`, and the backend that spends from them."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import timedelta
from threading import RLock
from typing import Any, Generic, TypeVar
from uuid import UUID

from atlas_sdk._forks import reset_in_children
from atlas_sdk.errors import InvalidInput
from atlas_sdk.guards.backend import AsyncQuotaBackend, Grant, QuotaBackend
from atlas_sdk.guards.lease_call import LeaseCall, LeaseCore
from atlas_sdk.guards.options import TTL, GuardOptions
from atlas_sdk.guards.usage_record import Outcome
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money, ttl_of

__all__ = ["KINDS_MAX", "ClientLeases"]

#: The most leases that a client keeps: one for each kind of calls, for the most recently used kinds.
KINDS_MAX = 1000
#: A block lives this much longer than its calls may take, so that the last call ends before the block expires.
_SPARE = timedelta(minutes=1)
_TTL_MAX = timedelta(hours=24)
#: Seconds without a call after which the client gives the rest of a block back.
_IDLE_S = 1.0

Kind = tuple[UUID, str, timedelta, str, bool, bool, bool]


L = TypeVar("L", bound=LeaseCore)


class ClientLeases(Generic[L]):
    """A backend for guards of either kind that spends from leases, and from another backend if no lease fits a call.

    It keeps one lease for each kind of calls, for the most recently used kinds. Its methods pass a call on, and return
    what the other backend returns: a result, or on asyncio an awaitable.
    """

    def __init__(self, make: Callable[..., L], other: QuotaBackend[Any] | AsyncQuotaBackend[Any]) -> None:
        """Take a function that makes the core of a lease, and the backend for calls that need their own reservation."""
        self._make = make
        self._other = other
        self._leases: OrderedDict[Kind, L] = OrderedDict()
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may hold it."""
        self._lock = RLock()

    def reserve(self, user: User, options: GuardOptions, wait: WaitSchedule | None = None) -> Any:
        lease = self.find(user, options)
        return (self._other if lease is None else lease).reserve(user, options, wait)

    def settle(self, user: User, grant: Grant, outcome: Outcome) -> Any:
        return self._backend_of(grant).settle(user, grant, outcome)

    def extend(self, user: User, grant: Grant, *, tokens: int, cost: Money, ttl: timedelta | None) -> Any:
        return self._backend_of(grant).extend(user, grant, tokens=tokens, cost=cost, ttl=ttl)

    def _backend_of(self, grant: Grant) -> LeaseCore | QuotaBackend[Any] | AsyncQuotaBackend[Any]:
        return grant._core if isinstance(grant, LeaseCall) else self._other  # noqa: SLF001  # a private part of a call

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
    # A call that waits has its own place in the queue.
    if any(options.get(name) for name in ("slots", "builds", "wait")) or options.get("idempotency_key") is not None:
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
