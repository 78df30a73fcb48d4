"""Walk the folders of a project that can hold tracked files."""

import os
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from attrs import frozen

from atlas_sdk.errors import FileProblem
from atlas_sdk.files.capture import Signature
from atlas_sdk.files.globs import Excluded, Globs
from atlas_sdk.files.left_out import temporary_of
from atlas_sdk.files.paths import named, printable
from atlas_sdk.files.problems import not_a_regular_file, problem
from atlas_sdk.files.root import Root
from atlas_sdk.files.safe_open import open_folder, trace
from atlas_sdk.files.scan import Skipped
from atlas_sdk.files.settings import SETTINGS
from atlas_sdk.files.temporary import is_temporary

__all__ = ["MOST_LOOKALIKES", "Rules", "Walk", "looks_like_memory"]

#: Listing a folder takes about 30 µs, so a walk of this many folders ends within a second.
_MOST_FOLDERS = 20_000
#: The longest walk. A slow project (a folder with millions of files, a failing disk) must not delay the others.
_MOST_S = 5.0
#: The most files to report that look like memory and are not tracked.
MOST_LOOKALIKES: Final = 100
#: Names that are memory for every agent, whatever their case.
_NAMES: Final = frozenset({"claude.md", "claude.local.md", "agents.md", "gemini.md"})
_MARKDOWN: Final = (".md", ".mdc")
#: The endings of the files that a user's symlink may lead to. Commands of agents are TOML, but tools keep tokens in
#: such files: the symlink must have that ending too.
_TEXT: Final = (*_MARKDOWN, ".txt")
_COMMAND: Final = ".toml"


@frozen(kw_only=True)
class Rules:
    """The part of the rules of a project that decides about paths."""

    wanted: Globs
    #: The globs of nested files, relative to the folder that an agent works in.
    nested: Globs
    excluded: Excluded
    #: The folders of agents, such as `.claude`: Markdown in them looks like memory.
    agents: frozenset[str]
    #: True for the files of a user: their symlinks must lead to text.
    user: bool = False

    def refuses(self, path: str) -> bool:
        """Return True for a file that is never tracked, whatever the globs say."""
        return self.excluded.match(path) or temporary_of(path.rpartition("/")[2]) is not None

    def may_lead(self, path: str, target: str) -> bool:
        """Return True if the symlink at a path may lead to a target: for the files of a user, only to text."""
        return not self.user or target.endswith((*_TEXT, _COMMAND) if path.endswith(_COMMAND) else _TEXT)


class Walk:
    """One walk over the folders that can hold tracked files. It lists folders below a fixed prefix first."""

    def __init__(self, root: Root, rules: Rules, clock: Callable[[], float]) -> None:
        """Create the walk; `run` starts it. The time limit begins now."""
        self.root = root
        self.rules = rules
        self.clock = clock
        self.until = clock() + _MOST_S
        self.paths: list[str] = []
        self.skipped: list[Skipped] = []
        self.lookalikes: list[Skipped] = []
        self.folders: list[str] = []
        self.waiting: dict[str, deque[str]] = {"near": deque([""]), "far": deque()}
        #: The reasons why the search was not complete.
        self.given_up: list[str] = []
        self.leftovers = False
        self.awaited: set[str] = set()
        self.dangling: list[Skipped] = []
        self.targets: dict[str, str] = {}
        self.linked: dict[tuple[int, int], list[str]] = {}
        self.seen: dict[str, Signature] = {}

    def run(self) -> None:
        """List the waiting folders, and those in them."""
        while not self.given_up and any(self.waiting.values()):
            if len(self.folders) >= _MOST_FOLDERS:
                self.give_up(f"more than {_MOST_FOLDERS:,} folders")
                return
            folder = (self.waiting["near"] or self.waiting["far"]).popleft()
            self.list_one(folder)

    def list_nested(self, base: str, folder: str) -> None:
        """List an agent's folder inside of `base`, and the folders in it."""
        waiting = deque([folder])
        while waiting and not self.given_up:
            if len(self.folders) >= _MOST_FOLDERS:
                return
            self.list_one(waiting.popleft(), base=base, waiting=waiting)

    def list_one(self, folder: str, *, base: str | None = None, waiting: deque[str] | None = None) -> None:
        """List one folder; note a folder that cannot be listed."""
        try:
            self.list_folder(folder, base, waiting)
        except (FileNotFoundError, NotADirectoryError):
            # The folder was removed, or replaced by a symlink, after its parent was listed.
            return
        except OSError as exc:
            self.skip(folder, problem("list", folder or str(self.root.path), exc))

    def give_up(self, what: str) -> None:
        """Stop the walk, and note the reason."""
        advice = f"give the globs under include in {SETTINGS} a fixed first folder"
        self.given_up.append(f"{what}, the rest was not searched: {advice}")

    def list_folder(self, folder: str, base: str | None, waiting: deque[str] | None) -> None:
        """Take the entries of a folder. With `base`, the globs of nested files decide, relative to `base`."""
        of_agent = folder.rpartition("/")[2] in self.rules.agents or folder.partition("/")[0] in self.rules.agents
        globs = self.rules.wanted if base is None else self.rules.nested
        start = 0 if base is None else len(base) + 1
        with open_folder(self.root, folder) as descriptor, os.scandir(descriptor) as entries:
            self.folders.append(folder)
            for entry in entries:
                if self.clock() > self.until:
                    self.give_up(f"the search took more than {_MOST_S:g} s")
                    return
                self.leftovers = self.leftovers or is_temporary(entry.name)
                path = f"{folder}/{entry.name}" if folder else entry.name
                relative = path[start:]
                leads = globs.leads(relative)
                wanted = globs.match(relative)
                if leads or wanted:
                    if self.rules.excluded.match(path):
                        continue
                    wanted = wanted and temporary_of(entry.name) is None
                    if waiting is None:
                        self.take(entry, path, leads=leads, wanted=wanted)
                    else:
                        self.take_nested(entry, path, leads=leads is not None, wanted=wanted, waiting=waiting)
                elif (of_agent or not folder) and looks_like_memory(entry.name, of_agent=of_agent):
                    self.note_lookalike(entry, path)

    def take_nested(
        self, entry: "os.DirEntry[str]", path: str, *, leads: bool, wanted: bool, waiting: deque[str]
    ) -> None:
        """Take a file of an agent's nested folder, or add a folder to the waiting ones."""
        if leads and entry.is_dir(follow_symlinks=False):
            waiting.append(path)
        else:
            self.take(entry, path, leads=None, wanted=wanted)

    def take(self, entry: "os.DirEntry[str]", path: str, *, leads: str | None, wanted: bool) -> None:
        """Take an entry that is tracked or leads to tracked files."""
        try:
            if entry.is_symlink():
                self.take_symlink(entry, path, wanted=wanted)
            elif leads and entry.is_dir():
                self.waiting[leads].append(path)
            elif wanted:
                self.take_file(path, entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return
        except OSError as exc:
            self.skip(path, problem("look at", path, exc))

    def take_symlink(self, entry: "os.DirEntry[str]", path: str, *, wanted: bool) -> None:
        """Take a symlink that leads to a file of the project."""
        folder = False
        with suppress(OSError):
            folder = entry.is_dir()
        if folder:
            reason = (
                f"{printable(path)} is a symlink to a folder; Atlas does not follow those: replace it with a folder"
            )
            if self.rules.user:
                # Installers of skills link folders of one agent into those of others; that is no fault of a file.
                self.add_lookalike(path, reason)
            else:
                self.skipped.append(Skipped(path=path, reason=reason))
        elif wanted:
            self.follow_symlink(path)

    def follow_symlink(self, path: str) -> None:
        """Take the file that a symlink leads to."""
        way = trace(self.root, path)
        self.awaited.update(way.links[1:])
        if way.blocked is not None:
            self.skip(path, way.blocked)
        elif not self.rules.may_lead(path, way.path):
            reason = f"{printable(path)} is a symlink to {printable(way.path)}, which is no text of an agent"
            self.add_lookalike(path, reason)
        elif way.found is None:
            self.awaited.add(way.path)
            reason = f"{printable(path)} is a symlink that leads to no file: {named(way.path)} does not exist"
            self.dangling.append(Skipped(path=path, reason=reason))
        else:
            self.targets[path] = way.path
            self.take_file(path, way.found)

    def take_file(self, path: str, found: os.stat_result) -> None:
        """Take a regular file; skip anything else."""
        if stat.S_ISREG(found.st_mode):
            self.paths.append(path)
            self.note(path, found)
        else:
            self.skip(path, not_a_regular_file(path, found.st_mode))

    def note(self, path: str, found: os.stat_result) -> None:
        """Note the signature of a tracked file, and its other names."""
        self.seen[path] = Signature.of(found)
        if found.st_nlink > 1:
            self.linked.setdefault((found.st_dev, found.st_ino), []).append(path)

    def note_lookalike(self, entry: "os.DirEntry[str]", path: str) -> None:
        """Note a file that looks like memory and is not tracked."""
        with suppress(OSError):
            # A file with the right name is one whose preset the user has switched off.
            usual = _usual(entry.name)
            if usual == entry.name or self.rules.refuses(path) or not entry.is_file():
                return
            if usual is not None:
                self.add_lookalike(path, f"{printable(path)}: agents look for {usual}; rename it, or include it")
            else:
                self.add_lookalike(path, f"{printable(path)}: no preset names it; add it under include in {SETTINGS}")

    def add_lookalike(self, path: str, reason: str) -> None:
        """Note why a path is not tracked, up to 100 of them."""
        if len(self.lookalikes) < MOST_LOOKALIKES:
            self.lookalikes.append(Skipped(path=path, reason=reason))

    def skip(self, path: str, reason: FileProblem) -> None:
        """Note a file that should be tracked, but cannot be."""
        self.skipped.append(Skipped(path=path, reason=str(reason)))


def looks_like_memory(name: str, *, of_agent: bool = False) -> bool:
    """Return whether a file that no glob names may be memory: by its name, or as Markdown in an agent's folder."""
    lower = name.lower()
    return lower in _NAMES or (of_agent and lower.endswith(_MARKDOWN) and lower != "readme.md")


def _usual(name: str) -> str | None:
    """Return the way in which agents write one of `_NAMES`; None for any other name."""
    if name.lower() not in _NAMES:
        return None
    stem, *rest = name.split(".")
    return ".".join((stem.upper(), *(part.lower() for part in rest)))
