"""Open the folder of a project. All access to its files goes through this module.

This module walks the stored path from `/`, one part at a time and never through a symlink. So a user who may write to a
folder above the project cannot lead the process of a more powerful user to another folder. A pinned root also has the
device and inode of the folder. So Atlas refuses a plan for one folder if another folder is now at the same path.
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
# With O_PATH, folders above the project need no read permission.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


@frozen
class Root:
    """A project's folder: its path without symlinks, and its device and inode if known."""

    path: Path
    #: Device and inode; None accepts any folder at the path.
    identity: tuple[int, int] | None = None
    #: The descriptor of the open folder inside of `hold`, else None.
    descriptor: int | None = None

    @property
    def folder(self) -> int:
        """The descriptor of the open folder, inside of `hold`."""
        if self.descriptor is None:
            message = "the project's folder is not open"
            raise AssertionError(message)
        return self.descriptor


def pin(root: Path | Root) -> Root:
    """Return the root with device and inode of its present folder.

    Raises FileProblem when the folder cannot be opened, is behind a symlink, or is not the folder that `root` is pinned
    to.
    """
    with hold(root) as held:
        return evolve(held, descriptor=None)


@contextmanager
def hold(root: Path | Root) -> Iterator[Root]:
    """Open the folder once and keep it open, so that every access through the result stays in this folder.

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
    """Return the text of the symlink with this name in an open folder; None if there is none."""
    try:
        return os.readlink(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            return None
        raise


def _open(path: Path) -> int:
    """Open a folder. Raises FileProblem if a part of its path is a symlink."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - `Path.resolve` would follow links
    if hasattr(os, "O_NOFOLLOW_ANY"):  # macOS refuses symlinks in all parts
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
