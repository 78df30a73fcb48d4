"""Rename without overwriting, swap two names, and detect writers, where the system supports it.

`renameat2` (Linux 3.15, glibc 2.28) swaps two names in one step, or renames without overwriting. On other systems, and
on file systems that answer EINVAL, `rename_new` checks first and renames afterwards, and `exchange` does nothing.
"""

import errno
import fcntl
import os
import signal
from collections.abc import Callable
from functools import cache

__all__ = ["exchange", "open_for_writing", "rename_new"]

#: The flags of `renameat2`, from <linux/fs.h>.
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(folder: int, one: str, other: str) -> bool:
    """Swap two names of a folder in one step; do nothing and return False where the system cannot swap names."""
    return _rename(folder, one, other, _RENAME_EXCHANGE)


def rename_new(folder: int, old: str, new: str) -> None:
    """Rename within a folder. Raises `FileExistsError` when the new name is taken."""
    if _rename(folder, old, new, _RENAME_NOREPLACE):
        return
    try:
        os.lstat(new, dir_fd=folder)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)


def open_for_writing(descriptor: int) -> bool:
    """Return True if a process has this file open for writing; False also where the system cannot detect writers.

    The kernel grants a read lease only if there is no writer. This call gives the lease back at once.
    """
    try:
        # A broken lease sends SIGIO by default, which ends the process. Choose SIGURG instead, which is ignored by
        # default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except AttributeError:
        return False
    except OSError as exc:
        return exc.errno == errno.EAGAIN
    return False


def _rename(folder: int, old: str, new: str, flags: int) -> bool:
    call = _renameat2()
    if call is None:
        return False
    code = call(folder, os.fsencode(old), os.fsencode(new), flags)
    if code in _UNSUPPORTED:
        return False
    if code:
        raise OSError(code, os.strerror(code), new)
    return True


@cache
def _renameat2() -> Callable[[int, bytes, bytes, int], int] | None:
    """Return a function that calls renameat2 and returns 0 or an errno; None if the C library does not have it."""
    # Import `ctypes` at the first write, because most commands only read.
    import ctypes  # noqa: PLC0415

    try:
        raw = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    raw.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    raw.restype = ctypes.c_int

    def call(folder: int, old: bytes, new: bytes, flags: int) -> int:
        return ctypes.get_errno() if raw(folder, old, folder, new, flags) else 0

    return call
