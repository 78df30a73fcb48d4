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
from atlas_sdk.files.ownership import folder_maker
from atlas_sdk.files.paths import printable
from atlas_sdk.files.problems import not_a_regular_file, translated
from atlas_sdk.files.renameat2 import exchange, rename_new
from atlas_sdk.files.root import Root
from atlas_sdk.files.safe_open import FolderMaker, Place, locate
from atlas_sdk.files.temporary import hash_of, share, temporary_name, unlink, write_beside

__all__ = ["remove_file", "replace_file"]

_AGAIN = "look at it, then plan the restore again"


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

    `expect` is the SHA-256 of what must be there now, None when nothing may be there. Otherwise, or when another
    program has the file open for writing, `RestoreRefused` is raised and nothing is changed. Missing folders are made,
    with `folder_modes` as far as given, outermost first. Owner and group of a replaced file stay; for root, a new file
    or folder belongs to the owner of the folder that it is made in.

    A symlink inside the project is kept and its target written. When `path` does not exist and `link` is given, the
    symlink is made first; if its target is there already it must have this very content (or `expect`). A `link` that
    would leave the project is not made: the content becomes a regular file.

    Raises `FileProblem` (disk full, read-only, no permission) with the old file untouched and nothing left behind.
    """
    with translated("write", path):
        try:
            # Folders are made only for a file that is new: where one must be, its folder is there.
            make = None if expect is not None else folder_maker(folder_modes)
            _replace(root, path, content, mode=mode & 0o777, link=link, expect=expect, make=make)
        except FileNotFoundError:
            if expect is None:
                raise
            raise _refused(path, "is gone") from None


def remove_file(root: Path | Root, path: str, *, expect: bytes) -> None:
    """Remove a file of the project if its SHA-256 is `expect`; otherwise refuse, and change nothing.

    Of a symlink inside the project the target's content is compared, and the symlink alone is removed.
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
        return self.expect is None and hash_of(self.folder, self.name) == hashlib.sha256(self.content).digest()

    def check(self) -> os.stat_result | None:
        """Refuse early, before anything is touched; return what is there."""
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
            # The name was not taken, so what stands under the temporary name is still our own.
            unlink(self.folder, temporary)
            raise
        if swapped:
            if not _settled(self.folder, temporary, self.expect):
                self._swap_back(temporary)
            unlink(self.folder, temporary)
        _sync(self.folder)

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
        if hash_of(self.folder, self.name) != self.expect:
            raise _refused(self.path, "has changed")
        os.rename(temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        return False

    def _swap_back(self, temporary: str) -> NoReturn:
        """Undo a swap that brought out bytes which nobody expected, and refuse."""
        try:
            exchange(self.folder, temporary, self.name)
            if _settled(self.folder, temporary, hashlib.sha256(self.content).digest()):
                unlink(self.folder, temporary)
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
    """Make the symlink if nothing has the name and its target is inside; tell whether it was made."""
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
        return hash_of(folder, name, settled=True) == sha256
    except OSError:
        return False


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as exc:
        # Some network file systems have no fsync for folders.
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
