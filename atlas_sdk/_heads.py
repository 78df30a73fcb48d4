"""A cache of the newest versions that a client knows, so that unchanged content costs no round trip."""

from collections import OrderedDict
from threading import Lock
from uuid import UUID

from attrs import evolve

from atlas_sdk._forks import reset_in_children
from atlas_sdk._shared_versions import SharedVersions
from atlas_sdk.model.memory import Head

__all__ = ["HeadCache", "Key"]

#: User, project and path. The user id is part of the key, so a forged project id finds nothing.
Key = tuple[UUID, UUID, str]


class HeadCache:
    """A bounded map from a file to its newest version; a full map drops the least recently used entries.

    A cached head may be old. If a writer uses an old head, its statement changes no row. Then the writer forgets the
    head and reads the newest one. With the stamps that all clients of one machine share, the cache also knows whether a
    head is still the newest.
    """

    def __init__(self, *, versions: SharedVersions | None = None, limit_bytes: int = 64 * 2**20) -> None:
        self._versions = versions
        self._limit_bytes = limit_bytes
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Start empty in a forked child: another thread of the parent may have held the lock."""
        self._lock = Lock()
        self._heads: OrderedDict[Key, Head] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> Head | None:
        """Return the known head of a file, or None."""
        with self._lock:
            head = self._heads.get(key)
            if head is not None:
                self._heads.move_to_end(key)
            return head

    def stamp(self, key: Key) -> bytes | None:
        """Return the file's shared stamp. Call this before the statement that reads or writes the head."""
        return None if self._versions is None else self._versions.read(*key[1:])

    def is_newest(self, key: Key, head: Head) -> bool:
        """Return whether no client of this machine changed the file since the head was read; False when unknown."""
        if self._versions is None or head.stamp is None:
            return False
        return self._versions.is_valid(head.stamp) and head.stamp == self._versions.read(*key[1:])

    def put(self, key: Key, head: Head) -> None:
        """Keep a head that was read, unless a newer head is known or the head is larger than the cache."""
        with self._lock:
            known = self._heads.get(key)
            if known is not None and known.seq > head.seq:
                return
            self._drop(key)
            self._heads[key] = head
            self._bytes += len(head.content or b"")
            while self._bytes > self._limit_bytes:
                self._drop(next(iter(self._heads)))

    def written(self, key: Key, head: Head, *, seen: bytes | None) -> None:
        """Keep a head that was just written, and tell other clients; `seen` is the stamp from before the statement."""
        stamp = self._publish(key, seen)
        self.put(key, head if stamp == head.stamp else evolve(head, stamp=stamp))

    def deleted(self, key: Key) -> None:
        """Forget the head of a file that was just recorded as deleted, and tell other clients."""
        self.drop(key)
        self._publish(key, None)

    def drop(self, key: Key) -> None:
        """Forget the head of a file, if any is known."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Forget all heads."""
        with self._lock:
            self._heads.clear()
            self._bytes = 0

    def begin(self) -> "HeadCache":
        """Return an empty cache for a transaction. Other clients learn nothing of the transaction before `adopt`."""
        return _TransactionHeads()

    def join(self) -> "HeadCache":
        """Return an empty cache for a transaction that the caller commits without telling us."""
        return _JoinedHeads(versions=self._versions)

    def adopt(self, other: "HeadCache") -> None:
        """Take over the heads that a committed transaction learned or forgot, and tell other clients."""
        learned, dropped = other.learned()
        for key in dropped:
            self.deleted(key)
        for key, head in learned:
            self.written(key, head, seen=None)

    def learned(self) -> tuple[list[tuple[Key, Head]], set[Key]]:
        """Return the known heads, the least recently used first, and the keys that a transaction forgot."""
        with self._lock:
            return list(self._heads.items()), set()

    def _publish(self, key: Key, seen: bytes | None) -> bytes | None:
        return None if self._versions is None else self._versions.bump(*key[1:], seen=seen)

    def _drop(self, key: Key) -> None:
        head = self._heads.pop(key, None)
        if head is not None:
            self._bytes -= len(head.content or b"")


class _TransactionHeads(HeadCache):
    """The heads of one transaction. The cache tells other clients nothing, and keeps the forgotten keys for `adopt`."""

    def __init__(self) -> None:
        super().__init__()
        self._dropped: set[Key] = set()

    def drop(self, key: Key) -> None:
        super().drop(key)
        self._dropped.add(key)

    def clear(self) -> None:
        self._dropped |= set(self._heads)
        super().clear()

    def learned(self) -> tuple[list[tuple[Key, Head]], set[Key]]:
        return super().learned()[0], self._dropped


class _JoinedHeads(HeadCache):
    """The heads of a caller's transaction, whose end we do not see. Each file written in it gets an invalid stamp."""

    def _publish(self, key: Key, seen: bytes | None) -> None:  # noqa: ARG002  # the stamp from before is of no use here
        if self._versions is not None:
            self._versions.invalidate(*key[1:])
