"""Errors for files that cannot be read, kept or written."""

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
    errno.ENOENT: "create its folder, then try again",
    errno.ENOTDIR: "move the file that is in the place of a folder",
    errno.EISDIR: "move the folder that is in the place of the file",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ELOOP: "it changes between a file and a symlink: stop the program that changes it, then try again",
    errno.EMFILE: "raise the limit on open files (ulimit -n), then try again",
    errno.ENFILE: "raise the limit on open files (fs.file-max), then try again",
}


def problem(doing: str, path: str, error: OSError) -> FileProblem:
    """Return an error that says what failed on a file, why, and what to do."""
    code = error.errno or errno.EIO
    advice = _ADVICE.get(code, "check the disk, then try again")
    return FileProblem(f"cannot {doing} {named(path)}: {os.strerror(code).lower()}; {advice}", path=path)


def root_problem(root: Path, error: OSError) -> FileProblem:
    """Return the error for a project whose folder cannot be opened. Its files must not count as deleted."""
    code = error.errno or errno.EIO
    reason = os.strerror(code).lower()
    advice = "mount or restore it, or register the project where it is now"
    if code in {errno.EACCES, errno.EPERM}:
        advice = _OWNERSHIP
    return FileProblem(f"cannot open the project {named(str(root))}: {reason}; {advice}", path=str(root))


def link_above(root: Path, name: str, target: str) -> FileProblem:
    """Return the error for a project whose path goes through a symlink, which may lead anywhere."""
    return FileProblem(
        f"cannot open the project {named(str(root))}: {named(name)} in its path is a symlink to {named(target)}, "
        "and Atlas does not follow it; if the project moved, register it where it is now",
        path=str(root),
    )


def replaced_root(root: Path) -> FileProblem:
    """Return the error for a project whose folder was replaced since the last look."""
    return FileProblem(
        f"{named(str(root))} is another folder than a moment ago: it was moved or replaced; nothing was done: "
        "check it, then try again",
        path=str(root),
    )


def not_a_regular_file(path: str, mode: int) -> FileProblem:
    """Return the error for a path that is not a regular file."""
    return FileProblem(
        f"{named(path)} is {noun(mode)}; Atlas keeps regular files only: move it away or exclude it", path=path
    )


def too_large(path: str, size: int, *, most: int) -> FileProblem:
    """Return the error for a file that is too large to be read."""
    return FileProblem(
        f"{named(path)} has {size:,} bytes; Atlas reads at most {most:,}: make it smaller or exclude it", path=path
    )


def noun(mode: int) -> str:
    """Return the file type of `st_mode` in words, with an article."""
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
    """Return the error for a path with a symlink that leaves the project."""
    return OutsideProject(
        f"{named(link)} is a symlink to {named(target)}, outside the project; Atlas does not follow it: "
        "replace it with a copy, or track the target's own project",
        path=path,
    )


@contextmanager
def translated(doing: str, path: str) -> Iterator[None]:
    """Turn an OSError of the body into a `FileProblem`."""
    try:
        yield
    except OSError as exc:
        raise problem(doing, path, exc) from exc
