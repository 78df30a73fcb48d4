"""Set owner and mode of files and folders that a restore creates.

A daemon that runs as root must not take files away from their users. So a new file belongs to the owner of its folder.
Another process may rename entries of that folder at the same time, so this module changes the owner of open files and
empty folders only.
"""

import os

from atlas_sdk.files.safe_open import FolderMaker

__all__ = ["folder_maker", "keep_owner"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def keep_owner(descriptor: int, owner: os.stat_result) -> None:
    """Set owner and group of an open file or folder to those of `owner`, if this process may do so."""
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid):
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except PermissionError:
            return


def folder_maker(modes: tuple[int, ...]) -> FolderMaker:
    """Return a function that creates one missing folder.

    `modes` are the permission bits by depth, those of the outermost folder first. A folder without a given mode gets
    the default of the umask. A folder that root creates belongs to the owner of the folder above it.
    """

    def make(folder: int, name: str, depth: int) -> None:
        mode = modes[depth] if depth < len(modes) else None
        try:
            os.mkdir(name, 0o777 if mode is None else mode, dir_fd=folder)
        except FileExistsError:
            return
        _finish(folder, name, mode=mode)
        os.fsync(folder)

    return make


def _finish(folder: int, name: str, *, mode: int | None) -> None:
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    try:
        # Another process may have replaced the folder. Only change an empty folder that belongs to this user.
        if os.fstat(descriptor).st_uid != os.geteuid() or os.listdir(descriptor):  # noqa: PTH208 - a descriptor has no Path
            return
        if os.geteuid() == 0:
            keep_owner(descriptor, os.fstat(folder))
        if mode is not None:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
