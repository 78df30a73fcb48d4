"""The newest versions that a client knows, so that unchanged content costs no round trip."""

import os
from collections import OrderedDict
from threading import Lock
from uuid import UUID
from weakref import WeakSet

from attrs import evolve

from atlas_sdk._shared_versions import SharedVersions
from atlas_sdk.model.memory import Head

__all__ = ["HeadCache", "Key"]

#: User, project and path: nobody who makes up a project of another user's finds anything.
Key = tuple[UUID, UUID, str]


class HeadCache:
    """A bounded map from a file to its newest version; the least recently used go first.

    It is a cache, never the truth: a writer that relies on a stale head finds that its statement changed no row,
    forgets the head and reads the real one. With the versions that all clients of one machine share, the cache also
    knows whether a head is still the newest.
    """

    def __init__(
        self,
        *,
        limit_bytes: int = 64 * 2**20,
        versions: SharedVersions | None = None,
        of_transaction: bool = False,
        joined: bool = False,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._versions = versions
        #: It is a transaction of somebody who commits it without a word.
        self._joined = joined
        #: Whether to remember what was forgotten, for `adopt`; nothing is published before that.
        self._of_transaction = of_transaction
        self._heads: OrderedDict[Key, Head] = OrderedDict()
        self._bytes = 0
        self._dropped: set[Key] = set()
        self._lock = Lock()
        _ALL.add(self)

    def get(self, key: Key) -> Head | None:
        """Return the known head, if any."""
        with self._lock:
            head = self._heads.get(key)
            if head is not None:
                self._heads.move_to_end(key)
            return head

    def stamp(self, key: Key) -> bytes | None:
        """Return the file's shared mark: take it before the database is asked."""
        return None if self._versions is None else self._versions.read(*key[1:])

    def is_newest(self, key: Key, head: Head) -> bool:
        """Tell whether the file is unchanged on this machine since the head was read; False when unknown."""
        if self._versions is None or head.stamp is None:
            return False
        return self._versions.is_valid(head.stamp) and head.stamp == self._versions.read(*key[1:])

    def put(self, key: Key, head: Head) -> None:
        """Remember a head that was read; never an older one in the place of a newer. A very large one is left out."""
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
        """Remember a head that was just written, and tell the others; `seen` is the mark from before."""
        self.put(key, evolve(head, stamp=self._tell(key, seen)))

    def deleted(self, key: Key) -> None:
        """Forget the head of a file that was just recorded as deleted, and tell the others."""
        self.drop(key)
        self._tell(key, None)

    def _tell(self, key: Key, seen: bytes | None) -> bytes | None:
        if self._versions is None or (self._of_transaction and not self._joined):
            return None
        if self._joined:
            self._versions.invalidate(*key[1:])
            return None
        return self._versions.bump(*key[1:], seen=seen)

    def of_joined(self) -> "HeadCache":
        """Return what a transaction uses that somebody else commits."""
        return HeadCache(versions=self._versions, of_transaction=True, joined=True)

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

    def adopt(self, other: "HeadCache") -> None:
        """Take over what a committed transaction learned, forget what it forgot, and tell the others of both."""
        learned, dropped = other.learned()
        for key in dropped:
            self.deleted(key)
        for key, head in learned:
            self.written(key, head, seen=None)

    def learned(self) -> tuple[list[tuple[Key, Head]], set[Key]]:
        """Return what is known, the least recently used first, and what was forgotten."""
        with self._lock:
            return list(self._heads.items()), set(self._dropped)

    def after_fork(self) -> None:
        """Start empty in a child: another thread of the parent may have held the lock."""
        self._lock = Lock()
        self._heads = OrderedDict()
        self._bytes = 0


_ALL: WeakSet[HeadCache] = WeakSet()


def _after_fork() -> None:
    for heads in list(_ALL):
        heads.after_fork()


os.register_at_fork(after_in_child=_after_fork)
