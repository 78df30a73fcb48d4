"""flock(2): the kernel drops a lock with its last holder, however that holder ended.

A lock belongs to the open file, so threads that open for themselves exclude each other, and a forked child holds what
its parent held. Nothing here ever unlocks explicitly: closing in one process must not unlock for the other.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["exclusive", "is_held", "polling", "shared", "try_exclusive"]


def shared(path: Path) -> int:
    """Wait for a shared lock; return the descriptor whose closing gives it back."""
    return _locked(path, fcntl.LOCK_SH)


def try_exclusive(path: Path) -> int | None:
    """Take the exclusive lock now; None when somebody holds it."""
    try:
        return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def is_held(path: Path) -> bool:
    """Tell whether a process holds the exclusive lock."""
    try:
        os.close(_locked(path, fcntl.LOCK_SH | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    return False


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the exclusive lock, waiting for it."""
    descriptor = _locked(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def polling(seconds: float) -> Iterator[None]:
    """Yield at once and then ever less often until `seconds` are over.

    For conditions that the system cannot wake us for: a file's content, a socket of somebody else's process.
    """
    deadline = time.monotonic() + seconds
    pause_s = 0.002
    while True:
        yield
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, 0.2)


def _locked(path: Path, operation: int) -> int:
    # Python opens with O_CLOEXEC, so no program that we or others start inherits it unasked.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
