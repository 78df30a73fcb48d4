"""A table that all clients of one machine share, so that each sees when another one has written a file.

Every slot holds eight bytes that change with each version of the files that fall into it. A client notes the slot
before it reads or writes a file's newest version; as long as the slot is the same, nobody has written since, and that
costs a look into shared memory instead of a round trip.
"""

import fcntl
import hashlib
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from uuid import UUID

from atlas_sdk.home import open_private_file

__all__ = ["SharedVersions"]

_SLOTS = 4096
_SLOT_BYTES = 8
_SIZE_BYTES = _SLOTS * _SLOT_BYTES
#: What an open slot begins with, then some bytes that tell which file it is open for; a mark begins otherwise.
_OPEN = b"\xff"
_NAME_BYTES = 3
#: Open for several files, so for good.
_OPEN_FOR_ALL = _OPEN * _SLOT_BYTES


class _Turn:
    """Keeps the threads of this process apart; a record lock on the file keeps processes apart.

    One for all tables: a process that closes one of its descriptors loses all its record locks on that file.
    """

    def __init__(self) -> None:
        self.lock = Lock()

    def after_fork(self) -> None:
        """Start free in a child: another thread of the parent may have held it."""
        self.lock = Lock()


_TURN = _Turn()
os.register_at_fork(after_in_child=_TURN.after_fork)


class SharedVersions:
    """The shared table of one embedded server. Two files in one slot only cost a needless look.

    Raises FileProblem for a file that another OS user could change: a stale version would pass for the newest.
    """

    def __init__(self, file: Path) -> None:
        descriptor = open_private_file(file, os.O_RDWR | os.O_CREAT)
        try:
            if os.fstat(descriptor).st_size < _SIZE_BYTES:
                os.ftruncate(descriptor, _SIZE_BYTES)
            self._table = mmap.mmap(descriptor, _SIZE_BYTES)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go of the table. Idempotent."""
        with _TURN.lock:
            if not self._table.closed:
                self._table.close()
                os.close(self._descriptor)

    @staticmethod
    def _slot(project_id: UUID, path: str) -> slice:
        number = zlib.crc32(path.encode("utf-8", "surrogateescape"), zlib.crc32(project_id.bytes)) % _SLOTS
        return slice(number * _SLOT_BYTES, (number + 1) * _SLOT_BYTES)

    @staticmethod
    def _open_for(project_id: UUID, path: str) -> bytes:
        name = project_id.bytes + path.encode("utf-8", "surrogateescape")
        return _OPEN + hashlib.sha256(name).digest()[:_NAME_BYTES]

    @staticmethod
    def is_valid(mark: bytes) -> bool:
        """Tell whether a mark can be trusted: no writer has left the slot open."""
        return not mark.startswith(_OPEN)

    def read(self, project_id: UUID, path: str) -> bytes:
        """Return the file's mark: take it before the database is asked."""
        return self._table[self._slot(project_id, path)]

    def bump(self, project_id: UUID, path: str, *, seen: bytes | None) -> bytes | None:
        """Tell everybody that a version was committed.

        Returns the new mark when nobody else published since `seen` was read; None otherwise, for then the version just
        written need not be the newest.
        """
        slot, mark = self._slot(project_id, path), b"\0" + os.urandom(_SLOT_BYTES - 1)
        with self._turn(slot):
            found = self._table[slot]
            closes = found == seen and found.startswith(self._open_for(project_id, path))
            if not (self.is_valid(found) or closes):
                return None
            self._table[slot] = mark
            return mark if found == seen else None

    def invalidate(self, project_id: UUID, path: str) -> None:
        """Tell everybody that a version will be committed, or not, without another word."""
        slot, mine = self._slot(project_id, path), self._open_for(project_id, path)
        with self._turn(slot):
            found = self._table[slot]
            if self.is_valid(found) or found.startswith(mine):
                # Another one each time: who has seen an earlier one must not close this one.
                self._table[slot] = mine + os.urandom(_SLOT_BYTES - len(mine))
            else:
                self._table[slot] = _OPEN_FOR_ALL

    @contextmanager
    def _turn(self, slot: slice) -> Iterator[None]:
        with _TURN.lock:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, _SLOT_BYTES, slot.start)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _SLOT_BYTES, slot.start)
