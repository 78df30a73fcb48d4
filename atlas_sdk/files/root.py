"""The folder of a project: the one door to its files.

The stored path is walked from `/` one part at a time and never through a symlink, so that whoever may write in a
folder above cannot lead a more powerful user elsewhere. A pinned root also knows device and inode of the folder: what
was planned for one folder is refused in another one that took its name.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve, frozen

from atlas_sdk.errors import FileProblem
from atlas_sdk.files.problems import link_above, replaced_root, root_problem

__all__ = ["Root", "hold", "link_text", "pin"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A folder above the project may be one that can be passed but not listed. Without O_PATH it has to be listable.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


@frozen
class Root:
    """A project's folder, by its path without symlinks, and as far as known by device and inode."""

    path: Path
    #: Device and inode; None accepts whichever folder has the path.
    identity: tuple[int, int] | None = None
    #: The folder, open; only inside of `hold`.
    descriptor: int | None = None

    @property
    def folder(self) -> int:
        """Descriptor of the open folder, inside of `hold`."""
        if self.descriptor is None:
            message = "the project's folder is not held open"
            raise AssertionError(message)
        return self.descriptor


def pin(root: Path | Root) -> Root:
    """Return the root with device and inode of the folder that is there now.

    Raises FileProblem when the folder is out of reach or behind a symlink, or is not the one that `root` names.
    """
    with hold(root) as held:
        return evolve(held, descriptor=None)


@contextmanager
def hold(root: Path | Root) -> Iterator[Root]:
    """Open the folder once and keep it open: everything reached through the result is in this very folder.

    Raises FileProblem as `pin` does.
    """
    if isinstance(root, Root) and root.descriptor is not None:
        yield root
        return
    path, expected = (root.path, root.identity) if isinstance(root, Root) else (root, None)
    try:
        descriptor = _open(path)
    except OSError as exc:
        raise root_problem(path, exc) from exc
    try:
        found = os.fstat(descriptor)
        identity = (found.st_dev, found.st_ino)
        if expected not in {None, identity}:
            raise replaced_root(path)
        yield Root(path, identity, descriptor)
    finally:
        os.close(descriptor)


def link_text(folder: int, name: str) -> str | None:
    """Return what the symlink of this name in an open folder says; None when there is none."""
    try:
        return os.readlink(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            return None
        raise


def _open(path: Path) -> int:
    """Open a folder; FileProblem when a part of its path is a symlink."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - `Path.resolve` would follow links
    if hasattr(os, "O_NOFOLLOW_ANY"):  # macOS refuses every link by itself
        return os.open(absolute, _FOLDER | os.O_NOFOLLOW_ANY)
    parts = [part for part in absolute.split("/") if part]
    descriptor = os.open("/", _PASS if parts else _FOLDER)
    try:
        for number, part in enumerate(parts, start=1):
            deeper = _enter(descriptor, part, _FOLDER if number == len(parts) else _PASS, path=path)
            os.close(descriptor)
            descriptor = deeper
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _enter(folder: int, name: str, flags: int, *, path: Path) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as exc:
        target = link_text(folder, name) if exc.errno in {errno.ENOTDIR, errno.ELOOP} else None
        if target is None:
            raise
        problem: FileProblem = link_above(path, name, target)
        raise problem from exc
