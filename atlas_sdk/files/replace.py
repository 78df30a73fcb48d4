"""Replace a file in one step, and only if its content is the one that the caller expects.

This module writes the new content to a temporary file, makes that file durable, and then gives the file its final name.
If the system can swap two names, the module hashes the old file *after* the swap, when only the temporary name leads to
the old file. So the module notices a write between the check and the swap, and undoes the swap. It never deletes
content that the caller did not expect.
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
from atlas_sdk.files.ownership import folder_maker
from atlas_sdk.files.paths import printable
from atlas_sdk.files.problems import not_a_regular_file, translated
from atlas_sdk.files.renameat2 import exchange, rename_new
from atlas_sdk.files.root import Root
from atlas_sdk.files.safe_open import FolderMaker, Place, locate
from atlas_sdk.files.temporary import hash_of, share, temporary_name, unlink, write_beside

__all__ = ["remove_file", "replace_file"]

_AGAIN = "check it, then plan the restore again"


def replace_file(
    root: Path | Root,
    path: str,
    content: bytes,
    *,
    mode: int,
    link: str | None = None,
    expect: bytes | None,
    folder_modes: tuple[int, ...] = (),
) -> None:
    """Write a file of the project in one step: readers see the old content or the new, never a part of it.

    `expect` is the SHA-256 of the present content, or None if there must be no file. If the file does not match, or if
    another program has it open for writing, the call raises `RestoreRefused` and changes nothing. It creates missing
    folders with the modes of `folder_modes`, the outermost folder first. A replaced file keeps its owner and group. If
    root creates a file or folder, it belongs to the owner of the folder above it.

    If `path` is a symlink inside the project, the symlink stays, and the call writes its target. If `path` does not
    exist and `link` is given, the call creates the symlink first; an existing target must already have `content`, or
    match `expect`. A `link` that would leave the project is not created, and the content becomes a regular file.

    Raises `FileProblem` (disk full, read-only, no permission). The old file is then unchanged, and no temporary file is
    left.
    """
    with translated("write", path):
        try:
            # Create folders for a new file only; the folder of an existing file exists.
            make = None if expect is not None else folder_maker(folder_modes)
            _replace(root, path, content, mode=mode & 0o777, link=link, expect=expect, make=make)
        except FileNotFoundError:
            if expect is None:
                raise
            raise _refused(path, "is gone") from None


def remove_file(root: Path | Root, path: str, *, expect: bytes) -> None:
    """Remove a file of the project if its SHA-256 is `expect`; otherwise raise RestoreRefused and change nothing.

    For a symlink inside the project, the call compares the target's content and removes the symlink only.
    """
    with translated("remove", path):
        try:
            _remove(root, path, expect=expect)
        except FileNotFoundError:
            raise _refused(path, "is gone") from None


def _replace(
    root: Path | Root,
    path: str,
    content: bytes,
    *,
    mode: int,
    link: str | None,
    expect: bytes | None,
    make: FolderMaker | None,
) -> None:
    made = link is not None and _make_link(root, path, link, make=make)
    try:
        with locate(root, path, make=make) as place:
            change = _Change(path=path, place=place, content=content, expect=expect)
            if not (made and change.is_there_already()):
                change.write(mode=mode)
    except BaseException:
        if made and link is not None:
            _unmake_link(root, path, link)
        raise


def _remove(root: Path | Root, path: str, *, expect: bytes) -> None:
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
    """The replacement or removal of one file: its place, the new content, and the hash of the expected old content."""

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
        return self.expect is None and hash_of(self.folder, self.name) == hashlib.sha256(self.content).digest()

    def check(self) -> os.stat_result | None:
        """Raise RestoreRefused if the file does not match `expect`; else return its `stat`, or None for no file."""
        try:
            found = os.lstat(self.name, dir_fd=self.folder)
        except FileNotFoundError:
            if self.expect is None:
                return None
            raise _refused(self.path, "is gone") from None
        if not stat.S_ISREG(found.st_mode):
            raise not_a_regular_file(self.path, found.st_mode)
        if self.expect is None:
            raise _refused(self.path, "exists by now")
        if hash_of(self.folder, self.name) != self.expect:
            raise _refused(self.path, "has changed")
        return found

    def write(self, *, mode: int) -> None:
        found = self.check()
        owner = os.fstat(self.folder) if found is None else found
        share(self.folder)
        temporary = write_beside(self.folder, self.name, self.content, mode=mode, owner=owner)
        try:
            swapped = self._take_name(temporary)
        except (OSError, RestoreRefused):
            # The rename failed, so the temporary name still leads to our own file.
            unlink(self.folder, temporary)
            raise
        if swapped:
            if not _settled(self.folder, temporary, self.expect):
                self._swap_back(temporary)
            unlink(self.folder, temporary)
        _sync(self.folder)

    def _take_name(self, temporary: str) -> bool:
        """Give the new file its final name; return True if the old file now has the temporary name."""
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
        # The system cannot swap names: check once more, as late as possible.
        if hash_of(self.folder, self.name) != self.expect:
            raise _refused(self.path, "has changed")
        os.rename(temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        return False

    def _swap_back(self, temporary: str) -> NoReturn:
        """Undo the swap, because the old file has unexpected content, and raise RestoreRefused."""
        try:
            exchange(self.folder, temporary, self.name)
            if _settled(self.folder, temporary, hashlib.sha256(self.content).digest()):
                unlink(self.folder, temporary)
                raise _refused(self.path, "was being written")
            # A program wrote to the new file too. This later content gets the final name again, and the content of the
            # old file stays under the temporary name.
            exchange(self.folder, temporary, self.name)
        except FileNotFoundError:
            # Another process removed the file in between, so the swapped-out file is the only copy.
            _give_back(self.path, self.folder, temporary, self.name)
        except OSError as exc:
            raise _kept(self.path, temporary) from exc
        raise _kept(self.path, temporary)


def _take_away(path: str, place: Place, is_known: Callable[[str], bool]) -> None:
    """Rename a file or symlink to a temporary name; delete it if `is_known` accepts it there, else rename it back."""
    temporary = temporary_name(place.name)
    share(place.folder)
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


def _make_link(root: Path | Root, path: str, link: str, *, make: FolderMaker | None) -> bool:
    """Create the symlink if the name is free and the target is inside the project; return True if it was created."""
    with locate(root, path, follow=False, make=make) as own:
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


def _unmake_link(root: Path | Root, path: str, link: str) -> None:
    # Ignore errors here: the first error is the one to report.
    with suppress(OSError, AtlasError), locate(root, path, follow=False) as own:
        _take_away(path, own, lambda temporary: _says(own.folder, temporary, link))


def _says(folder: int, name: str, link: str) -> bool:
    try:
        return os.readlink(name, dir_fd=folder) == link
    except OSError:
        return False


def _settled(folder: int, name: str, sha256: bytes | None) -> bool:
    """Return True if a file has this hash and no process has it open for writing. Only this name leads to the file."""
    try:
        return hash_of(folder, name, settled=True) == sha256
    except OSError:
        return False


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as exc:
        # Some network file systems do not support fsync for folders.
        if exc.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise


def _refused(path: str, what: str) -> RestoreRefused:
    return RestoreRefused(f"{printable(path)} {what}; nothing was changed: {_AGAIN}", paths=(path,))


def _kept(path: str, temporary: str) -> RestoreRefused:
    return RestoreRefused(
        f"{printable(path)} was written twice during the restore; the later content is in place and the earlier one "
        f"beside it in {printable(temporary)}: {_AGAIN}",
        paths=(path,),
    )
