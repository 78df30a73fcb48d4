"""Write files under a temporary name, and find them again after a crash.

If the system can create a file without a name (`O_TMPFILE`, Linux 3.11), a process that is killed while it writes
leaves nothing behind. A process that is killed between two renames leaves a complete file under a temporary name, with
the new or the old content. A later restore removes such a leftover if the database has the content.
"""

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from atlas_sdk.files.ownership import keep_owner
from atlas_sdk.files.renameat2 import open_for_writing
from atlas_sdk.files.root import Root
from atlas_sdk.files.safe_open import open_folder

__all__ = [
    "Leftover",
    "hash_of",
    "is_temporary",
    "leftovers",
    "remove_leftover",
    "share",
    "temporary_name",
    "unlink",
    "write_beside",
]

_BLOCK_BYTES = 2**20
#: A name has at most 255 bytes. 48 letters have at most 192 bytes, and the rest of a temporary name has 24.
_NAME_LETTERS = 48
_NAME = re.compile(r"\..{1,48}\.atlas-[0-9a-f]{16}", re.DOTALL)
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Errors of file systems that cannot create a file without a name, and of a missing /proc, without which this module
#: cannot name such a file.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS, errno.EXDEV, errno.EPERM}


@frozen
class Leftover:
    """A complete file under a temporary name, left by a killed process."""

    path: str
    #: The hash of the content, 32 bytes.
    sha256: bytes


def temporary_name(name: str) -> str:
    """Return a new temporary name for a file beside `name`."""
    return f".{name[:_NAME_LETTERS]}.atlas-{os.urandom(8).hex()}"


def is_temporary(name: str) -> bool:
    """Return True if `temporary_name` may have made this name."""
    return ".atlas-" in name and _NAME.fullmatch(name) is not None


def write_beside(folder: int, name: str, content: bytes, *, mode: int, owner: os.stat_result) -> str:
    """Write a durable file with this content, mode and owner under a temporary name; return the name.

    Raises OSError; no file is left then.
    """
    temporary = temporary_name(name)
    if _write_nameless(folder, temporary, content, mode=mode, owner=owner):
        return temporary
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        try:
            _fill(descriptor, content, mode=mode, owner=owner)
        finally:
            os.close(descriptor)
    except BaseException:
        unlink(folder, temporary)
        raise
    return temporary


def _write_nameless(folder: int, temporary: str, content: bytes, *, mode: int, owner: os.stat_result) -> bool:
    """Write a file without a name, and name it when it is complete; return False where the system cannot do so."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    try:
        descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as exc:
        if exc.errno in _NO_TMPFILE:
            return False
        raise
    try:
        _fill(descriptor, content, mode=mode, owner=owner)
        try:
            # Name the file in the way that open(2) describes; the other way, AT_EMPTY_PATH, would need a capability.
            os.link(f"/proc/self/fd/{descriptor}", temporary, dst_dir_fd=folder, follow_symlinks=True)
        except OSError as exc:
            if exc.errno in _NO_TMPFILE:
                return False
            raise
    finally:
        os.close(descriptor)
    return True


def _fill(descriptor: int, content: bytes, *, mode: int, owner: os.stat_result) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    keep_owner(descriptor, owner)
    os.fchmod(descriptor, mode)
    os.fsync(descriptor)


def hash_of(folder: int, name: str, *, settled: bool = False) -> bytes | None:
    """Return the SHA-256 of a regular file; None if the name leads to no regular file.

    With `settled`, return None also if a process has the file open for writing.
    """
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except OSError as exc:
        if exc.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or (settled and open_for_writing(descriptor)):
            return None
        digest = hashlib.sha256()
        while block := os.read(descriptor, _BLOCK_BYTES):
            digest.update(block)
        return digest.digest()
    finally:
        os.close(descriptor)


def unlink(folder: int, name: str) -> None:
    """Remove a name if it exists."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def share(folder: int) -> None:
    """Take a shared lock that keeps `remove_leftover` out of an open folder until the descriptor is closed.

    If the lock is not available (the file system has no locks, or `remove_leftover` holds the lock), the caller goes on
    without it. If a temporary file is then removed too early, the caller's change fails, but nothing is lost.
    """
    with suppress(OSError):
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)


def leftovers(root: Path | Root, folder: str, *, limit_bytes: int) -> Iterator[Leftover]:
    """Yield the leftovers in a folder of a project; yield none if the folder does not exist.

    The path `""` is the project's own folder. Only regular files of at most `limit_bytes` count. Raises FileProblem
    when the project's folder cannot be opened.
    """
    with suppress(OSError), open_folder(root, folder) as descriptor:
        for name in sorted(os.listdir(descriptor)):  # noqa: PTH208 - a descriptor has no Path
            if not is_temporary(name):
                continue
            found = os.lstat(name, dir_fd=descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_size <= limit_bytes:
                sha256 = hash_of(descriptor, name)
                if sha256 is not None:
                    yield Leftover(f"{folder}/{name}" if folder else name, sha256)


def remove_leftover(root: Path | Root, leftover: Leftover) -> bool:
    """Remove a leftover whose content the database has; return False if the file is in use, changed or gone."""
    folder, _, name = leftover.path.rpartition("/")
    with suppress(OSError), open_folder(root, folder) as descriptor:
        # A process that writes in this folder holds a shared lock, which it took by `share`.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if hash_of(descriptor, name, settled=True) == leftover.sha256:
            os.unlink(name, dir_fd=descriptor)
            return True
    return False
