"""Which lease a keeper looks after, and when."""

from math import inf
from typing import Generic, Protocol, TypeVar

__all__ = ["Rounds"]

#: A lease that waits to be told is looked at all the same after so long.
_AT_LAST_S = 5.0
#: Looks are bundled: with a thousand leases the next is always due at once.
_PAUSE_MIN_S = 0.05


class _Kept(Protocol):
    @property
    def empty(self) -> bool: ...


L = TypeVar("L", bound=_Kept)


class Rounds(Generic[L]):
    """The leases that have something to look after."""

    def __init__(self) -> None:
        self._due: dict[L, float] = {}

    def call(self, lease: L) -> None:
        """Look at this one as soon as possible."""
        self._due[lease] = -inf

    def due(self, now: float) -> list[L]:
        """Return those to look at now; each is looked at once."""
        found = [lease for lease, at in self._due.items() if at <= now]
        for lease in found:
            self._due[lease] = now + _AT_LAST_S
        return found

    def seen(self, lease: L, now: float, again_s: float | None) -> None:
        """Note that this one was looked at, and when to look again; one that is empty needs no look."""
        if lease.empty:
            self._due.pop(lease, None)
        elif self._due.get(lease, 0.0) > now and again_s is not None:
            # Not when it was called meanwhile.
            self._due[lease] = now + again_s

    def wait_s(self, now: float) -> float:
        """Return how long nothing is due."""
        return max(min(self._due.values(), default=now) - now, _PAUSE_MIN_S)

    def all(self) -> list[L]:
        """Return every lease that has something to look after."""
        return list(self._due)

    def __len__(self) -> int:
        return len(self._due)
