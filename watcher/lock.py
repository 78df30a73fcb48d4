"""One daemon per home, by flock(2). The kernel releases the lock when its holder ends, even after a crash."""

import fcntl
import os
from pathlib import Path

from atlas_sdk import FileProblem
from atlas_sdk.home import open_private_file, prepare_home, private_folder

#: The lock file, below the home folder. It holds the daemon's process id.
LOCK = Path("watcher/lock")
#: Attempts to take the lock. A process that only asks for the holder has the lock for microseconds.
_ATTEMPTS = 1000


class AlreadyRunning(Exception):
    """Another daemon has this home."""

    def __init__(self, home: Path, pid: int) -> None:
        super().__init__(f"a watcher for {home} runs already, process {pid}; stop it first, or use another ATLAS_HOME")


def take(home: Path) -> int:
    """Take the lock and write this process's id in it; return the descriptor to close at the end.

    Raises AlreadyRunning, and FileProblem when the home, the folder or the lock is not this OS user's alone.
    """
    path = prepare_home(home) / LOCK
    private_folder(path.parent)
    descriptor = open_private_file(path, os.O_RDWR | os.O_CREAT)
    if _is_ours(descriptor):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor
    pid = _pid(descriptor)
    os.close(descriptor)
    raise AlreadyRunning(home, pid)


def _is_ours(descriptor: int) -> bool:
    for _ in range(_ATTEMPTS):
        if _try(descriptor, fcntl.LOCK_EX):
            return True
        if not _try(descriptor, fcntl.LOCK_SH):
            return False
        # The lock can be shared, so the other process was no daemon and only asked for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.sched_yield()
    return False


def holder(path: Path) -> int | None:
    """Return the process that has the lock, 0 before it has written its id, None when no process has the lock.

    A lock that another OS user could have made is ignored.
    """
    try:
        descriptor = open_private_file(path, os.O_RDONLY)
    except (OSError, FileProblem):
        return None
    try:
        return None if _try(descriptor, fcntl.LOCK_SH) else _pid(descriptor)
    finally:
        os.close(descriptor)


def _try(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(descriptor: int) -> int:
    text = os.pread(descriptor, 20, 0).strip()
    return int(text) if text.isdigit() else 0
