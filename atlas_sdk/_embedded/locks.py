"""Locks by flock(2). The kernel releases a lock when its last holder ends, even after a crash.

A lock belongs to the open file. So threads that open the file separately exclude each other, and a forked child shares
the locks of its parent. This module never unlocks explicitly, because parent and child would both lose the lock.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["exclusive", "is_held", "polling", "shared", "try_exclusive"]


def shared(path: Path) -> int:
    """Wait for a shared lock; return the open file descriptor. Closing the descriptor releases the lock."""
    return _locked(path, fcntl.LOCK_SH)


def try_exclusive(path: Path) -> int | None:
    """Take the exclusive lock without waiting; return the open file descriptor, or None if the lock is not free."""
    try:
        return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def is_held(path: Path) -> bool:
    """Return True if a process holds the exclusive lock."""
    try:
        os.close(_locked(path, fcntl.LOCK_SH | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    return False


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for the exclusive lock, and hold it in the body."""
    descriptor = _locked(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def polling(seconds: float) -> Iterator[None]:
    """Yield at once, and then at growing intervals until `seconds` are over.

    Use it to wait for something that sends no signal: the content of a file, the socket of another process.
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
    # Python opens with O_CLOEXEC, so started programs do not inherit the lock by accident.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
