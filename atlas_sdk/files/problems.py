"""The sentences for files that cannot be read, kept or written."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas_sdk.errors import FileProblem, OutsideProject
from atlas_sdk.files.paths import named

__all__ = [
    "leaves",
    "link_above",
    "not_a_regular_file",
    "noun",
    "problem",
    "replaced_root",
    "root_problem",
    "too_large",
    "translated",
]

_OWNERSHIP = "let the user who runs Atlas have access to it and to its folder"
_SPACE = "free some space, then try again"
_ADVICE = {
    errno.EACCES: _OWNERSHIP,
    errno.EPERM: _OWNERSHIP,
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), then try again",
    errno.EROFS: "mount the file system writable, then try again",
    errno.ENOENT: "make its folder, then try again",
    errno.ENOTDIR: "move the file that stands where a folder should be",
    errno.EISDIR: "move the folder that stands where a file should be",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ELOOP: "it changes between a file and a symlink: stop what changes it, then try again",
    errno.EMFILE: "raise the limit on open files (ulimit -n), then try again",
    errno.ENFILE: "raise the limit on open files (fs.file-max), then try again",
}


def problem(doing: str, path: str, error: OSError) -> FileProblem:
    """Say in one sentence what failed on a file, why, and what to do about it."""
    code = error.errno or errno.EIO
    advice = _ADVICE.get(code, "check the disk, then try again")
    return FileProblem(f"cannot {doing} {named(path)}: {os.strerror(code).lower()}; {advice}", path=path)


def root_problem(root: Path, error: OSError) -> FileProblem:
    """Say that the project's folder itself is out of reach: none of its files may be taken for deleted."""
    code = error.errno or errno.EIO
    reason = os.strerror(code).lower()
    advice = "mount or restore it, or register the project where it is now"
    if code in {errno.EACCES, errno.EPERM}:
        advice = _OWNERSHIP
    return FileProblem(f"cannot open the project {named(str(root))}: {reason}; {advice}", path=str(root))


def link_above(root: Path, name: str, target: str) -> FileProblem:
    """Say that a part of a project's own path is a symlink now: it may lead anywhere."""
    return FileProblem(
        f"cannot open the project {named(str(root))}: {named(name)} on the way to it is a symlink to "
        f"{named(target)}, and Atlas follows none there; if the project moved, register it where it is now",
        path=str(root),
    )


def replaced_root(root: Path) -> FileProblem:
    """Say that another folder has the project's name since it was last looked at."""
    return FileProblem(
        f"{named(str(root))} is another folder than a moment ago: it was moved or replaced; nothing was done: "
        "look at it, then try again",
        path=str(root),
    )


def not_a_regular_file(path: str, mode: int) -> FileProblem:
    """Say that something is in the place of a file which is none."""
    return FileProblem(
        f"{named(path)} is {noun(mode)}; Atlas keeps regular files only: move it away or exclude it", path=path
    )


def too_large(path: str, size: int, *, most: int) -> FileProblem:
    """Say that a file is so large that it is not read at all."""
    return FileProblem(
        f"{named(path)} has {size:,} bytes; nothing above {most:,} is read as memory: make it smaller or exclude it",
        path=path,
    )


def noun(mode: int) -> str:
    """Name what `st_mode` describes, with its article."""
    for test, word in (
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a symlink"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return word
    return "something unknown"


def leaves(path: str, *, link: str, target: str) -> OutsideProject:
    """Say that a symlink on the way of `path` leaves the project."""
    return OutsideProject(
        f"{named(link)} is a symlink to {named(target)}, outside the project; Atlas does not follow it: "
        "replace it with a copy, or track the target's own project",
        path=path,
    )


@contextmanager
def translated(doing: str, path: str) -> Iterator[None]:
    """Turn what the operating system raises into a `FileProblem`."""
    try:
        yield
    except OSError as exc:
        raise problem(doing, path, exc) from exc
