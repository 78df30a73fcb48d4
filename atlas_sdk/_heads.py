"""The newest versions that a client knows, so that unchanged content costs no round trip."""

from collections import OrderedDict
from threading import Lock
from uuid import UUID

from atlas_sdk.model.memory import Head

__all__ = ["Heads", "Key"]

#: Project and path.
Key = tuple[UUID, str]


class Heads:
    """A bounded map from a file to its newest version; the least recently used go first.

    It is a cache, never the truth: a writer that relies on a stale head finds that its statement changed no row,
    forgets the head and reads the real one.
    """

    def __init__(self, *, limit_bytes: int = 64 * 2**20, of_transaction: bool = False) -> None:
        self._limit_bytes = limit_bytes
        #: Whether to remember what was forgotten, for `adopt`.
        self._of_transaction = of_transaction
        self._heads: OrderedDict[Key, Head] = OrderedDict()
        self._bytes = 0
        self._dropped: set[Key] = set()
        self._lock = Lock()

    def get(self, key: Key) -> Head | None:
        """Return the known head, if any."""
        with self._lock:
            head = self._heads.get(key)
            if head is not None:
                self._heads.move_to_end(key)
            return head

    def put(self, key: Key, head: Head) -> None:
        """Remember a head; one whose content alone is over the limit is not remembered."""
        with self._lock:
            self._drop(key)
            self._heads[key] = head
            self._bytes += len(head.content or b"")
            while self._bytes > self._limit_bytes:
                self._drop(next(iter(self._heads)))

    def drop(self, key: Key) -> None:
        """Forget a head."""
        with self._lock:
            self._drop(key)
            if self._of_transaction:
                self._dropped.add(key)

    def _drop(self, key: Key) -> None:
        head = self._heads.pop(key, None)
        if head is not None:
            self._bytes -= len(head.content or b"")

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            if self._of_transaction:
                self._dropped |= set(self._heads)
            self._heads.clear()
            self._bytes = 0

    def dropped(self) -> set[Key]:
        """Return the files that were ever forgotten here."""
        with self._lock:
            return set(self._dropped)

    def items(self) -> list[tuple[Key, Head]]:
        """Return what is known, the least recently used first."""
        with self._lock:
            return list(self._heads.items())

    def adopt(self, other: "Heads") -> None:
        """Take over what a committed transaction learned, and forget what it forgot."""
        for key in other.dropped():
            self.drop(key)
        for key, head in other.items():
            self.put(key, head)
