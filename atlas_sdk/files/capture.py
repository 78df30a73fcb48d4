"""Read one consistent state of a file, although other programs may write to the file."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from attrs import evolve, frozen

from atlas_sdk.files.problems import not_a_regular_file, problem, too_large
from atlas_sdk.files.root import Root, hold
from atlas_sdk.files.safe_open import Place, locate, opened, trace

__all__ = ["FileState", "Signature", "entry", "is_gone", "link_target", "read_file", "signature"]

T = TypeVar("T")

_BLOCK_BYTES = 2**20
#: The size of the largest file that Atlas reads and hashes: an agent can create a sparse file of any size. The size
#: limit of kept files is never higher.
_MOST_HASHED_BYTES = 256 * 2**20
#: Attempts to read a file while other programs write to it. After the last attempt `read_file` returns the content with
#: `torn` set.
_ATTEMPTS = 5


@frozen(kw_only=True)
class Signature:
    """The `stat` fields of a file. If two signatures are equal, no program wrote to the file in between.

    All five fields are needed: a file that is deleted and created again often gets the same inode number, and any
    program can set `mtime` back. On file systems with coarse times (NFS, FAT), two writes within the same clock tick
    may give the same signature.
    """

    mtime_ns: int
    ctime_ns: int
    size: int
    ino: int
    dev: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Signature":
        """Return the five fields of a `stat` result."""
        return cls(
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
            size=found.st_size,
            ino=found.st_ino,
            dev=found.st_dev,
        )


@frozen(kw_only=True)
class FileState:
    """The result of reading a file. For a symlink, all fields but `path` and `link` describe the target file."""

    path: str
    #: None if the file is over the size limit.
    content: bytes | None
    #: The hash of the whole file, 32 bytes.
    sha256: bytes
    size: int
    #: The nine permission bits.
    mode: int
    #: The symlink's text if the path is a symlink, else None. The target is inside the project.
    link: str | None
    #: The permission bits of the folders between the project's folder and the file, the outermost folder first.
    folder_modes: tuple[int, ...] = ()
    signature: Signature
    #: The number of names of the file (hard links).
    names: int = 1
    #: True if another program wrote during every attempt: the content may mix two versions, so read the file again.
    torn: bool


def read_file(root: Path | Root, path: str, *, limit_bytes: int) -> FileState | None:
    """Read a file of the project; return None when there is no file.

    The call compares three signatures: of the file before the read, of the file after the read, and of the file that
    the path leads to afterwards. If they differ, another program wrote to the file, and the call reads again. After
    five attempts it returns the last content, with `torn` set. For a file over `limit_bytes` it returns the hash
    without the content. Raises `OutsideProject` for a symlink that leaves the project. Raises `FileProblem` if the path
    is not a regular file, cannot be read or has more than 256 MiB, or if the project's folder is gone.
    """
    last: FileState | None = None
    with hold(root) as held:
        for _ in range(_ATTEMPTS):
            try:
                state = _read_once(held, path, limit_bytes=limit_bytes)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as exc:
                if exc.errno != errno.ELOOP:
                    raise problem("read", path, exc) from exc
                loop = exc
                continue
            if not state.torn:
                return state
            last = state
    if last is None:
        raise problem("read", path, loop) from loop
    return last


def signature(root: Path | Root, path: str) -> Signature | None:
    """Return the signature of the file that a path leads to, or None when there is no file.

    The call walks the path as `read_file` does, and raises the same errors.
    """
    found = _look(root, path, lambda place: os.lstat(place.name, dir_fd=place.folder))
    if found is None:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise not_a_regular_file(path, found.st_mode)
    return Signature.of(found)


def entry(root: Path | Root, path: str) -> os.stat_result | None:
    """Return the `lstat` result of a path of the project, without following a symlink; None when nothing is there.

    Raises FileProblem, OutsideProject.
    """
    return _look(root, path, lambda place: os.lstat(place.name, dir_fd=place.folder), follow=False)


def is_gone(root: Path | Root, path: str) -> bool:
    """Return True if a recorded file is gone: nothing is at its path, or a folder or a special file.

    Raises FileProblem, OutsideProject when the call cannot tell.
    """
    way = trace(root, path)
    if way.blocked is not None:
        raise way.blocked
    return way.found is None or not stat.S_ISREG(way.found.st_mode)


def link_target(root: Path | Root, path: str) -> str | None:
    """Return the path in the project that a symlink finally leads to; None if `path` is not a symlink.

    The target need not exist. Raises FileProblem, OutsideProject.
    """
    return _look(root, path, lambda place: None if place.link is None else place.path)


def _look(root: Path | Root, path: str, at: Callable[[Place], T], *, follow: bool = True) -> T | None:
    """Walk to a path, and return the result of `at` for the place; return None when the path does not exist."""
    try:
        with locate(root, path, follow=follow) as place:
            return at(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise problem("look at", path, exc) from exc


def _read_once(root: Root, path: str, *, limit_bytes: int) -> FileState:
    with opened(root, path) as (descriptor, place):
        found = os.fstat(descriptor)
        before = Signature.of(found)
        if before.size > _MOST_HASHED_BYTES:
            raise too_large(path, before.size, most=_MOST_HASHED_BYTES)
        content, sha256, size = _read(descriptor, size=before.size, limit_bytes=limit_bytes)
        after = Signature.of(os.fstat(descriptor))
        folder_modes = _folder_modes(place)
    state = FileState(
        path=path,
        content=content,
        sha256=sha256,
        size=size,
        mode=stat.S_IMODE(found.st_mode) & 0o777,
        link=place.link,
        folder_modes=folder_modes,
        # Use the signature from before the read, so that a later write differs from it.
        signature=before,
        names=found.st_nlink,
        torn=False,
    )
    with locate(root, path) as again:
        named = Signature.of(os.lstat(again.name, dir_fd=again.folder))
        same = before == after == named and size == before.size and again.link == place.link
    return state if same else evolve(state, torn=True)


def _folder_modes(place: Place) -> tuple[int, ...]:
    return tuple(stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777 for descriptor in place.above)


def _read(descriptor: int, *, size: int, limit_bytes: int) -> tuple[bytes | None, bytes, int]:
    """Return the content (None if it exceeds `limit_bytes`), the SHA-256 and the length of an open file.

    The call reads at most `size` + 1 bytes. The extra byte shows that the file has grown. Without a limit, the read of
    a growing file might never end.
    """
    digest = hashlib.sha256()
    blocks: list[bytes] = []
    total = 0
    while total <= size:
        block = _read_block(descriptor, min(_BLOCK_BYTES, size + 1 - total))
        if not block:
            break
        digest.update(block)
        total += len(block)
        if total <= limit_bytes:
            blocks.append(block)
        else:
            blocks.clear()
    return (b"".join(blocks) if total <= limit_bytes else None), digest.digest(), total


def _read_block(descriptor: int, size: int) -> bytes:
    return os.read(descriptor, size)
