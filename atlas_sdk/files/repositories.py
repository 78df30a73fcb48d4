"""Find git repositories and worktrees: a `.git` below a project's folder is a border that the project ends at.

Nothing here runs git, and nothing is read outside of the folder that is asked about.
"""

import os
import re
import stat
from pathlib import Path

from attrs import frozen

from atlas_sdk.errors import AtlasError, FileProblem
from atlas_sdk.files.capture import read_file
from atlas_sdk.files.safe_open import opened

__all__ = ["Repository", "first_commit", "has_repository", "real_folders", "repository", "repository_root"]

#: The longest `.git` file to read, in bytes: it holds one path, and Linux paths have at most 4,096 bytes.
_LONGEST = 8192
#: The beginning of an entry of the log (git-reflog): the old and the new commit, in SHA-1 or SHA-256.
_ENTRY = re.compile(rb"[0-9a-f]{40,64} ([0-9a-f]{40}|[0-9a-f]{64}) ")
_LOG_ENTRY = 160


@frozen(kw_only=True)
class Repository:
    """The git repository that a folder is the root of."""

    #: The folder with the objects and branches, which all worktrees of a repository share (git: the common directory).
    common: str
    #: True if the folder was made by `git worktree add`.
    is_worktree: bool = False

    @property
    def main(self) -> str:
        """The folder of the main worktree; for a bare repository, the repository."""
        return self.common.removesuffix("/.git") or "/"


def has_repository(folder: str) -> bool:
    """Return whether a folder has an entry `.git`: a folder, or the file of a worktree or submodule."""
    return os.path.lexists(os.path.join(folder, ".git"))  # noqa: PTH118 - called for every folder of a path


def repository_root(path: str) -> str | None:
    """Return the innermost folder with a `.git` among this absolute path and the folders above; None without one."""
    return next((folder for folder in (path, *map(str, Path(path).parents)) if has_repository(folder)), None)


def real_folders(path: str) -> tuple[list[str], list[str]]:
    """Return the folders that a path is in, the innermost first: those up to a repository's root, and those outside.

    The path is resolved first, and comes first itself. Without a repository all folders are in the first list.
    """
    real = os.path.realpath(Path(path).expanduser())
    around = [real, *map(str, Path(real).parents)]
    border = repository_root(real)
    inside = len(around) if border is None else around.index(border) + 1
    return around[:inside], around[inside:]


def repository(folder: str) -> Repository | None:
    """Return the repository that a folder is the root of; None if the folder has no `.git` that can be read."""
    try:
        found = os.lstat(os.path.join(folder, ".git"))  # noqa: PTH118 - as above
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return Repository(common=f"{folder.rstrip('/')}/.git")
    try:
        state = read_file(Path(folder), ".git", limit_bytes=_LONGEST)
    except FileProblem:
        return None
    text = b"" if state is None or state.content is None else state.content
    if not text.startswith(b"gitdir: "):
        return None
    # The path may be relative to the folder (`worktree.useRelativePaths`, and always in submodules).
    place = os.path.normpath(os.path.join(folder, os.fsdecode(text.removeprefix(b"gitdir: ").rstrip(b"\n"))))  # noqa: PTH118 - the path may have any form
    common, _, name = place.rpartition("/worktrees/")
    if common and "/" not in name:
        return Repository(common=common, is_worktree=True)
    return Repository(common=place)


def first_commit(folder: str) -> str | None:
    """Return the first commit in the log of the repository of a folder, or None.

    After `git init` this is the first commit of the repository, and after `git clone` the commit that was cloned. A
    worktree has its log outside of the folder, so the result is None.
    """
    try:
        with opened(Path(folder), ".git/logs/HEAD") as (descriptor, _):
            line = os.pread(descriptor, _LOG_ENTRY, 0)
    except (AtlasError, OSError):
        return None
    found = _ENTRY.match(line)
    return None if found is None else found[1].decode()
