"""How busy a user is in this process: what decides between a reservation a call and blocks. No I/O."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import timedelta
from threading import RLock
from typing import Generic, TypeVar
from uuid import UUID

from atlas_sdk.errors import InvalidInput
from atlas_sdk.guards.asking import TTL, Ask
from atlas_sdk.guards.block import NANO_MAX
from atlas_sdk.guards.call import Leasing
from atlas_sdk.guards.forks import tell_of_forks
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import COUNT_MAX, TOKENS_MAX, ttl_of

__all__ = ["Heat", "Heats"]

#: Calls a second from which on blocks pay. A block costs two round trips, as a reservation of one call does; at this
#: rate it serves tens of calls before it is given back.
HOT = 20
#: Seconds over which calls are counted.
_WINDOW_S = 1.0
#: A block is meant to last so long at the present rate: what a crash costs, and how often the database is asked.
_BLOCK_S = 2.0
#: Calls in a block at most.
_CALLS_MAX = 100_000
#: After a refusal, or a block that was made small, the limit is near: then every call asks the database for so long,
#: so that nothing lies idle in blocks.
_COLD_S = 1.0
#: Kinds of calls that are watched, the latest used; each may have a lease.
KINDS_MAX = 1000

L = TypeVar("L", bound=Leasing)
Kind = tuple[UUID, str, timedelta, str, bool, bool, bool]


class Heat(Generic[L]):
    """One kind of calls: those of one user that look the same in the ledger."""

    __slots__ = ("_began", "_calls", "_cold_until", "_last", "_nano", "_requests", "_tokens", "lease")

    def __init__(self, now: float) -> None:
        self.lease: L | None = None
        #: Of this window: its calls, and the sums of what they asked for.
        self._began = now
        self._calls = 0
        self._tokens = 0
        self._nano = 0
        self._requests = 0
        #: Of the last one: calls a second, and means.
        self._last = (0.0, 0, 0, 0)
        self._cold_until = now

    def note(self, now: float, tokens: int, nano: int, requests: int) -> bool:
        """Count a call; return whether blocks pay."""
        passed = now - self._began
        if passed >= _WINDOW_S:
            self._last = self._present(passed)
            self._began, self._calls, self._tokens, self._nano, self._requests = now, 0, 0, 0, 0
        self._calls += 1
        self._tokens += tokens
        self._nano += nano
        self._requests += requests
        return now >= self._cold_until and (self._last[0] >= HOT or self._calls >= HOT)

    def _present(self, passed: float) -> tuple[float, int, int, int]:
        calls = max(self._calls, 1)
        return self._calls / passed, -(-self._tokens // calls), -(-self._nano // calls), -(-self._requests // calls)

    def cool(self, now: float) -> None:
        """Note that the limit is near."""
        self._cold_until = now + _COLD_S

    def size(self) -> tuple[int, int, int]:
        """Return what a block should hold: tokens, billionths of a dollar, requests."""
        rate, tokens, nano, requests = max(self._last, self._present(_WINDOW_S))
        calls = min(max(int(rate * _BLOCK_S), HOT), _CALLS_MAX)
        return min(tokens * calls, TOKENS_MAX), min(nano * calls, NANO_MAX), min(requests * calls, COUNT_MAX)


class Heats(Generic[L]):
    """The kinds of calls that were used last."""

    def __init__(self, dropped: Callable[[L], None]) -> None:
        self._dropped = dropped
        self._heats: OrderedDict[Kind, Heat[L]] = OrderedDict()
        self.after_fork()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """Take a lock of its own: the parent's may be held."""
        self._lock = RLock()

    def of(self, user: User, ask: Ask, now: float) -> Heat[L] | None:
        """Return how hot calls like this one are; None: one like this needs a reservation of its own."""
        kind = _kind(user, ask)
        if kind is None:
            return None
        old = None
        with self._lock:
            heat = self._heats.get(kind)
            if heat is None:
                heat = self._heats[kind] = Heat(now)
                if len(self._heats) > KINDS_MAX:
                    _, old = self._heats.popitem(last=False)
            else:
                self._heats.move_to_end(kind)
        if old is not None and old.lease is not None:
            self._dropped(old.lease)
        return heat

    def lease(self, heat: Heat[L], make: Callable[[], L]) -> L:
        """Return the lease of these calls, made if need be."""
        with self._lock:
            if heat.lease is None or heat.lease.closed:
                heat.lease = make()
            return heat.lease

    def __len__(self) -> int:
        return len(self._heats)


def _kind(user: User, ask: Ask) -> Kind | None:
    if ask.get("slots") or ask.get("builds") or ask.get("idempotency_key") is not None:
        return None
    return (
        user.id,
        str(ask.get("holder", "")),
        ttl_of(ask.get("ttl", TTL)),
        _text(ask.get("meta")),
        # A lease that was opened without one of these has none of it to give.
        bool(ask.get("tokens")),
        bool(ask.get("cost")),
        bool(ask.get("requests", 1)),
    )


def _text(meta: Mapping[str, object] | None) -> str:
    if meta is not None and not isinstance(meta, Mapping):
        raise InvalidInput(f"meta must be a mapping, not {meta!r}", field="meta")
    return "" if not meta else json.dumps(dict(meta), sort_keys=True, default=str)
