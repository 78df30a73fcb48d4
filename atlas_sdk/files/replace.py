"""Put a file in place in one step, and only over what the caller knows.

The new content is written beside the file and made durable before it gets the name. Where the system can swap two
names, the old file is hashed *after* the swap, when no name leads to it any more: a write that came between the check
and the rename is seen and put back. No path through this module deletes bytes that it was not told about.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from attrs import frozen

from atlas_sdk.errors import AtlasError, OutsideProject, RestoreRefused
from atlas_sdk.files.confined import Place, locate
from atlas_sdk.files.exchange import exchange, open_for_writing, rename_new
from atlas_sdk.files.paths import printable
from atlas_sdk.files.problems import odd_type, translated

__all__ = ["remove_file", "replace_file"]

_BLOCK_BYTES = 2**20
#: A name has 255 bytes at most; 48 letters have at most 192, and the rest of a temporary name has 24.
_NAME_LETTERS = 48
_AGAIN = "look at it, then plan the restore again"


def replace_file(
    root: Path, path: str, content: bytes, *, mode: int, link: str | None = None, expect: bytes | None
) -> None:
    """Write a file of the project in one step: readers see the old content or the new, never a part of it.

    `expect` is the SHA-256 of what must be there now, None when nothing may be there. Otherwise, or when another
    program has the file open for writing, `RestoreRefused` is raised and nothing is changed. Missing folders are made.

    A symlink inside the project is kept and its target written. When `path` does not exist and `link` is given, the
    symlink is made first; if its target is there already it must have this very content (or `expect`). A `link` that
    would leave the project is not made: the content becomes a regular file.

    Raises `FileProblem` (disk full, read-only, no permission) with the old file untouched and nothing left behind.
    """
    with translated("write", path):
        try:
            _replace(root, path, content, mode=mode & 0o777, link=link, expect=expect)
        except FileNotFoundError:
            if expect is None:
                raise
            raise _refused(path, "is gone") from None


def remove_file(root: Path, path: str, *, expect: bytes) -> None:
    """Remove a file of the project if its SHA-256 is `expect`; otherwise refuse, and change nothing.

    Of a symlink inside the project the target's content is compared, and the symlink alone is removed.
    """
    with translated("remove", path):
        try:
            _remove(root, path, expect=expect)
        except FileNotFoundError:
            raise _refused(path, "is gone") from None


def _replace(root: Path, path: str, content: bytes, *, mode: int, link: str | None, expect: bytes | None) -> None:
    # Folders are made only for a file that is new: where one must be, its folder is there.
    made = link is not None and _make_link(root, path, link, make_parents=expect is None)
    try:
        with locate(root, path, make_parents=expect is None) as place:
            change = _Change(path=path, place=place, content=content, expect=expect)
            if not (made and change.is_there_already()):
                change.write(mode=mode)
    except BaseException:
        if made and link is not None:
            _unmake_link(root, path, link)
        raise


def _remove(root: Path, path: str, *, expect: bytes) -> None:
    with locate(root, path) as place:
        _Change(path=path, place=place, content=b"", expect=expect).check()
        link = place.link
        if link is None:
            _take_away(path, place, lambda temporary: _settled(place.folder, temporary, expect))
            return
        with locate(root, path, follow=False) as own:
            _take_away(path, own, lambda temporary: _says(own.folder, temporary, link))


@frozen(kw_only=True)
class _Change:
    """One change of one name in one open folder."""

    path: str
    place: Place
    content: bytes
    expect: bytes | None

    @property
    def folder(self) -> int:
        return self.place.folder

    @property
    def name(self) -> str:
        return self.place.name

    def is_there_already(self) -> bool:
        return self.expect is None and _hash(self.folder, self.name) == hashlib.sha256(self.content).digest()

    def check(self) -> os.stat_result | None:
        """Refuse early, before anything is touched; return what is there."""
        try:
            found = os.lstat(self.name, dir_fd=self.folder)
        except FileNotFoundError:
            if self.expect is None:
                return None
            raise _refused(self.path, "is gone") from None
        if not stat.S_ISREG(found.st_mode):
            raise odd_type(self.path, found.st_mode)
        if self.expect is None:
            raise _refused(self.path, "exists by now")
        if _hash(self.folder, self.name) != self.expect:
            raise _refused(self.path, "has changed")
        return found

    def write(self, *, mode: int) -> None:
        found = self.check()
        temporary = self._write_beside(mode=mode, owner=found)
        try:
            swapped = self._take_name(temporary)
        except (OSError, RestoreRefused):
            # The name was not taken, so what stands under the temporary name is still our own.
            _unlink(self.folder, temporary)
            raise
        if swapped:
            if not _settled(self.folder, temporary, self.expect):
                self._swap_back(temporary)
            _unlink(self.folder, temporary)
        _sync(self.folder)

    def _write_beside(self, *, mode: int, owner: os.stat_result | None) -> str:
        temporary = _temporary(self.name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=self.folder)
        try:
            try:
                rest = memoryview(self.content)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                _keep_owner(descriptor, owner)
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            _unlink(self.folder, temporary)
            raise
        return temporary

    def _take_name(self, temporary: str) -> bool:
        """Give our file the name; True when the file that had it now has the temporary name."""
        try:
            if self.expect is None:
                rename_new(self.folder, temporary, self.name)
                return False
            if exchange(self.folder, temporary, self.name):
                return True
        except FileExistsError:
            raise _refused(self.path, "exists by now") from None
        except FileNotFoundError:
            raise _refused(self.path, "is gone") from None
        # No swapping here: look once more, as late as possible.
        if _hash(self.folder, self.name) != self.expect:
            raise _refused(self.path, "has changed")
        os.rename(temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        return False

    def _swap_back(self, temporary: str) -> NoReturn:
        """Undo a swap that brought out bytes which nobody expected, and refuse."""
        try:
            exchange(self.folder, temporary, self.name)
            if _settled(self.folder, temporary, hashlib.sha256(self.content).digest()):
                _unlink(self.folder, temporary)
                raise _refused(self.path, "was being written")
            # A second write came while the first was out: the later one gets the name, the earlier stays beside it.
            exchange(self.folder, temporary, self.name)
        except FileNotFoundError:
            # Somebody removed the file in between; what came out is the only one there is.
            _give_back(self.path, self.folder, temporary, self.name)
        except OSError as exc:
            raise _kept(self.path, temporary) from exc
        raise _kept(self.path, temporary)


def _take_away(path: str, place: Place, is_known: Callable[[str], bool]) -> None:
    """Remove a name: move it aside first, and delete only what is known once no other name leads to it."""
    temporary = _temporary(place.name)
    try:
        rename_new(place.folder, place.name, temporary)
    except FileNotFoundError:
        raise _refused(path, "is gone") from None
    if not is_known(temporary):
        _give_back(path, place.folder, temporary, place.name)
    os.unlink(temporary, dir_fd=place.folder)
    _sync(place.folder)


def _give_back(path: str, folder: int, temporary: str, name: str) -> NoReturn:
    try:
        rename_new(folder, temporary, name)
    except OSError as exc:
        raise _kept(path, temporary) from exc
    raise _refused(path, "was being written")


def _make_link(root: Path, path: str, link: str, *, make_parents: bool) -> bool:
    """Make the symlink if nothing has the name and its target is inside; tell whether it was made."""
    with locate(root, path, follow=False, make_parents=make_parents) as own:
        try:
            os.lstat(own.name, dir_fd=own.folder)
        except FileNotFoundError:
            pass
        else:
            return False
        try:
            with locate(root, path, as_link=link):
                pass
        except OutsideProject:
            return False
        try:
            os.symlink(link, own.name, dir_fd=own.folder)
        except FileExistsError:
            return False
        _sync(own.folder)
    return True


def _unmake_link(root: Path, path: str, link: str) -> None:
    # Whatever goes wrong here, the first error is the one to report.
    with suppress(OSError, AtlasError), locate(root, path, follow=False) as own:
        _take_away(path, own, lambda temporary: _says(own.folder, temporary, link))


def _says(folder: int, name: str, link: str) -> bool:
    try:
        return os.readlink(name, dir_fd=folder) == link
    except OSError:
        return False


def _settled(folder: int, name: str, sha256: bytes | None) -> bool:
    """Tell whether a file that no other name leads to has this hash, and nobody left who could still change it."""
    try:
        return _hash(folder, name, settled=True) == sha256
    except OSError:
        return False


def _hash(folder: int, name: str, *, settled: bool = False) -> bytes | None:
    """Return the SHA-256 of a regular file; None for anything else, and for one being written if it must be settled."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
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


def _temporary(name: str) -> str:
    return f".{name[:_NAME_LETTERS]}.atlas-{os.urandom(8).hex()}"


def _keep_owner(descriptor: int, owner: os.stat_result | None) -> None:
    """Give the new file the old one's owner: a daemon that runs as root must not take files away from their user."""
    if owner is None:
        return
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid):
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except PermissionError:
            return


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as exc:
        # Some network file systems have no fsync for folders.
        if exc.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _refused(path: str, what: str) -> RestoreRefused:
    return RestoreRefused(f"{printable(path)} {what}; nothing was changed: {_AGAIN}", paths=(path,))


def _kept(path: str, temporary: str) -> RestoreRefused:
    return RestoreRefused(
        f"{printable(path)} was written twice during the restore; the later content is in place and the earlier one "
        f"beside it in {printable(temporary)}: {_AGAIN}",
        paths=(path,),
    )
