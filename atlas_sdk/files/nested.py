"""Find the memory files in the folders of a project, such as `packages/api/CLAUDE.md` in a monorepo.

The walk goes breadth first through the folders of a project. It leaves out the folders that git ignores, those of
`left_out.FOLDERS`, and every folder with a `.git` of its own: a nested repository, a submodule or a worktree is a
project of its own. Agents' folders (`.claude`) are entered although git may ignore them, because memory is often
ignored.

A folder costs about 15 µs and a file 0.3 µs, so a project of 200,000 files takes well below a second. At rest the walk
costs nothing: the watcher watches the folders with memory and the first `MOST_WATCHED` others, which are the nearest
ones. Of the rest it keeps device, inode and ctime, and compares them in its sweep, once a minute.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from attrs import define, field, frozen

from atlas_sdk.files.gitignore import Ignore, decide, read_rules
from atlas_sdk.files.left_out import FOLDERS
from atlas_sdk.files.paths import printable
from atlas_sdk.files.safe_open import open_folder
from atlas_sdk.files.scan import Stamp
from atlas_sdk.files.temporary import is_temporary
from atlas_sdk.files.walk import Walk, looks_like_memory

__all__ = ["MOST_WATCHED", "Nested", "border", "find_nested", "ignored"]

#: The most folders to search. Linux has 5,000 folders, Chromium 35,000.
_MOST_FOLDERS = 50_000
#: The longest search.
_MOST_S = 5.0
#: The most folders without memory to watch for a new file, the nearest ones first.
MOST_WATCHED: Final = 64
#: The files to look for in a folder that is left out, so that a file of this name is at least reported.
_LOOKALIKES: Final = ("CLAUDE.md", "AGENTS.md", "GEMINI.md")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IGNORE_FILE = ".gitignore"
_REPOSITORY = "is a repository of its own: run atlasctl init there"
_ENDINGS = frozenset({".md", ".MD", ".Md"})
#: Check the time once for this many entries of a folder.
_ENTRIES_A_CHECK = 4_096
#: The same for folders: the rules of many `.gitignore` files may decide about each one.
_FOLDERS_A_CHECK = 64


@frozen(kw_only=True)
class Nested:
    """The folders that the search for nested files has listed."""

    #: Each with its stamp from before it was listed, the nearest folders first.
    folders: dict[str, Stamp]
    #: One sentence when the search stopped at a limit.
    stopped: str | None


def find_nested(walk: Walk, names: frozenset[str]) -> Nested:
    """Add the nested files of a project to a walk.

    `names` are the first parts of the globs of nested files. The project's own folder is searched for folders only,
    because the walk has listed it already.
    """
    search = _Search(walk, names)
    with search.parents():
        search.run()
    return Nested(folders=search.folders, stopped=search.stopped)


@define
class _Listing:
    """The entries of one folder that matter."""

    #: Entries whose name begins a glob of nested files.
    memory: list["os.DirEntry[str]"] = field(factory=list)
    #: Files that look like memory.
    odd: list["os.DirEntry[str]"] = field(factory=list)
    folders: list[str] = field(factory=list)
    #: True if there is a `.git`, or a `.gitignore`.
    repository: bool = False
    rules: bool = False


class _Search:
    def __init__(self, walk: Walk, names: frozenset[str]) -> None:
        self.walk = walk
        self.names = names
        self.until = walk.clock() + _MOST_S
        self.folders: dict[str, Stamp] = {}
        self.stopped: str | None = None
        self.waiting: deque[tuple[str, tuple[Ignore, ...]]] = deque([("", ())])
        #: The open parent of the last folder, because the folders of one parent come one after the other.
        self.parent: tuple[str, int] | None = None

    @contextmanager
    def parents(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self.parent is not None:
                os.close(self.parent[1])

    def run(self) -> None:
        while self.waiting and self.stopped is None:
            if len(self.folders) >= _MOST_FOLDERS:
                self.stop(f"more than {_MOST_FOLDERS:,} folders")
            elif self.walk.clock() > self.until:
                self.stop(f"more than {_MOST_S:g} s")
            else:
                folder, ignores = self.waiting.popleft()
                try:
                    self.search(folder, ignores)
                except OSError:
                    # The folder is gone, or may not be read: agents that run as this user cannot read it either.
                    continue

    def stop(self, what: str) -> None:
        self.stopped = f"the search for nested memory files took {what}, the rest was not searched: exclude folders"

    def open(self, folder: str) -> int:
        parent, _, name = folder.rpartition("/")
        if not folder:
            return os.dup(self.walk.root.folder)
        if self.parent is None or self.parent[0] != parent:
            with open_folder(self.walk.root, parent) as descriptor:
                opened = os.dup(descriptor)
            if self.parent is not None:
                os.close(self.parent[1])
            self.parent = (parent, opened)
        return os.open(name, _FOLDER, dir_fd=self.parent[1])

    def search(self, folder: str, ignores: tuple[Ignore, ...]) -> None:
        descriptor = self.open(folder)
        try:
            found = os.fstat(descriptor)
            with os.scandir(descriptor) as entries:
                listing = self.read(entries)
                if folder and listing.repository:
                    self.report(folder, descriptor, _REPOSITORY)
                    return
                self.folders[folder] = (found.st_dev, found.st_ino, found.st_ctime_ns)
                if folder:
                    self.take(folder, listing)
            if listing.repository:
                ignores = _with(ignores, _exclude_file(self.walk))
            if listing.rules:
                ignores = _with(ignores, _ignore_file(descriptor, folder))
            for number, name in enumerate(sorted(listing.folders), start=1):
                if not number % _FOLDERS_A_CHECK and self.walk.clock() > self.until:
                    self.stop(f"more than {_MOST_S:g} s")
                    return
                self.enter(f"{folder}/{name}" if folder else name, name, descriptor, ignores)
        finally:
            os.close(descriptor)

    def read(self, entries: Iterable["os.DirEntry[str]"]) -> "_Listing":
        names, listing = self.names, _Listing()
        for number, entry in enumerate(entries, start=1):
            name = entry.name
            if name in names:
                listing.memory.append(entry)
            elif entry.is_dir(follow_symlinks=False):
                if name == ".git":
                    listing.repository = True
                else:
                    listing.folders.append(name)
            elif name[0] == ".":
                # A worktree and a submodule have a file `.git`.
                listing.repository = listing.repository or name == ".git"
                listing.rules = listing.rules or name == _IGNORE_FILE
                self.walk.leftovers = self.walk.leftovers or is_temporary(name)
            elif name[-3:] in _ENDINGS and looks_like_memory(name):
                listing.odd.append(entry)
            if not number % _ENTRIES_A_CHECK and self.walk.clock() > self.until:
                self.stop(f"more than {_MOST_S:g} s")
                break
        return listing

    def enter(self, path: str, name: str, parent: int, ignores: tuple[Ignore, ...]) -> None:
        """Let a folder wait for its search, unless it is left out."""
        if self.walk.rules.excluded.match(path):
            return
        reason = FOLDERS.get(name) or _reason(ignores, path)
        if reason is None:
            self.waiting.append((path, ignores))
            return
        try:
            descriptor = os.open(name, _FOLDER, dir_fd=parent)
        except OSError:
            return
        try:
            self.report(path, descriptor, reason)
        finally:
            os.close(descriptor)

    def take(self, folder: str, listing: "_Listing") -> None:
        walk, nested = self.walk, self.walk.rules.nested
        for entry in listing.memory:
            path = f"{folder}/{entry.name}"
            is_folder = entry.is_dir(follow_symlinks=False)
            if walk.rules.refuses(path):
                continue
            if is_folder and nested.leads(entry.name):
                walk.list_nested(folder, path)
            elif nested.match(entry.name):
                walk.take(entry, path, leads=None, wanted=True)
            elif entry.is_symlink():
                walk.add_lookalike(path, f"{printable(path)} is a symlink to a folder; Atlas does not follow those")
        for entry in listing.odd:
            walk.note_lookalike(entry, f"{folder}/{entry.name}")

    def report(self, folder: str, descriptor: int, reason: str) -> None:
        """Note the memory files directly in a folder that is not searched."""
        for name in _LOOKALIKES:
            path = f"{folder}/{name}"
            if not self.walk.rules.refuses(path) and _exists(name, descriptor):
                self.walk.add_lookalike(path, f"{printable(path)}: the folder {printable(folder)} {reason}")


def ignored(walk: Walk, path: str) -> tuple[str, str] | None:
    """Return the outermost folder of a path that the search leaves out, and the reason; None if it leaves out none."""
    ignores: tuple[Ignore, ...] = ()
    folder = ""
    for name in path.split("/")[:-1]:
        with open_folder(walk.root, folder) as descriptor:
            if not folder:
                ignores = _with(ignores, _exclude_file(walk))
            ignores = _with(ignores, _ignore_file(descriptor, folder))
        folder = f"{folder}/{name}" if folder else name
        reason = FOLDERS.get(name) or _reason(ignores, folder)
        if reason is not None:
            return folder, reason
        if border(walk, folder):
            return folder, _REPOSITORY
    return None


def border(walk: Walk, folder: str) -> bool:
    """Return whether a folder has a `.git` of its own."""
    with open_folder(walk.root, folder) as descriptor:
        return _exists(".git", descriptor)


def _reason(ignores: tuple[Ignore, ...], folder: str) -> str | None:
    found = decide(ignores, folder) if ignores else None
    if found is None:
        return None
    ignore, rule = found
    return f"is ignored by git: {printable(rule.text)}, line {rule.line} of {printable(ignore.file)}"


def _ignore_file(descriptor: int, folder: str) -> Ignore | None:
    file = f"{folder}/{_IGNORE_FILE}" if folder else _IGNORE_FILE
    return read_rules(descriptor, _IGNORE_FILE, file=file, base=folder)


def _exclude_file(walk: Walk) -> Ignore | None:
    try:
        with open_folder(walk.root, ".git/info") as descriptor:
            return read_rules(descriptor, "exclude", file=".git/info/exclude", base="")
    except OSError:
        # The project is no repository, or its `.git` is a file that leads out of the project.
        return None


def _with(ignores: tuple[Ignore, ...], more: Ignore | None) -> tuple[Ignore, ...]:
    return ignores if more is None else (*ignores, more)


def _exists(name: str, folder: int) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except OSError:
        return False
    return True
