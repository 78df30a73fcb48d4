"""Decide which files of a project are memory, and find those that exist."""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import field, frozen

from atlas_sdk.errors import FileProblem
from atlas_sdk.files.capture import signature
from atlas_sdk.files.globs import Excluded, Globs, Leads, check_globs
from atlas_sdk.files.imports import follow
from atlas_sdk.files.paths import printable
from atlas_sdk.files.presets import PRESETS, TEMPORARY, Kind
from atlas_sdk.files.problems import not_a_regular_file, problem
from atlas_sdk.files.root import Root, hold
from atlas_sdk.files.safe_open import open_folder
from atlas_sdk.files.settings import SETTINGS, check_presets, read_settings
from atlas_sdk.files.temporary import is_temporary

__all__ = ["SETTINGS", "Scan", "Skipped", "Tracking"]

_DEFAULT_LIMIT_BYTES = 8 * 2**20
#: Listing a folder takes about 30 µs, so a walk of this many folders ends within a second.
_MOST_FOLDERS = 20_000
#: The longest walk. A slow project (a folder with millions of files, a failing disk) must not delay the others.
_MOST_S = 5.0
_INSTRUCTIONS = tuple(glob for one in PRESETS.values() if one.kind == "claude_md" for glob in one.globs)


@frozen(kw_only=True)
class Skipped:
    """A file that should be tracked, but cannot be."""

    path: str
    #: The problem and the advice, in one sentence.
    reason: str


@frozen(kw_only=True)
class Scan:
    """The tracked files of a project at one time, sorted."""

    #: The tracked files that exist, imports included.
    paths: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    #: The folders to watch, `""` for the project's own.
    directories: tuple[str, ...]
    #: False if the search reached a limit: a file that is missing here may exist.
    complete: bool = True
    #: True if a killed restore left a temporary file.
    leftovers: bool = False


@frozen(kw_only=True)
class Tracking:
    """The rules of one project: presets, the globs of its settings, and a size limit."""

    presets: tuple[str, ...] = tuple(PRESETS)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: Larger files are hashed but not kept.
    limit_bytes: int = _DEFAULT_LIMIT_BYTES
    _wanted: Globs = field(init=False, eq=False, repr=False)
    _excluded: Excluded = field(init=False, eq=False, repr=False)

    @_wanted.default
    def _compile_wanted(self) -> Globs:
        check_presets(self.presets)
        check_globs(self.include)
        presets = dict.fromkeys(self.presets)
        return Globs.of((*(glob for name in presets for glob in PRESETS[name].globs), *self.include))

    @_excluded.default
    def _compile_excluded(self) -> Excluded:
        check_globs(self.exclude)
        return Excluded.of(self.exclude)

    @classmethod
    def load(cls, root: Path | Root) -> "Tracking":
        """Read the project's `.atlas.toml`; without the file every preset is on.

        Raises `InvalidInput` that names the wrong key, `FileProblem` when the file or the project cannot be read.
        """
        return cls(**read_settings(root))

    def wants(self, path: str) -> bool:
        """Return True if a glob tracks a file with this path; False for an imported file that no glob matches."""
        return self._wanted.match(path) and not self._refuses(path)

    def kind(self, path: str) -> Kind:
        """Return `claude_md` for instructions, also in nested folders, and for imports; `scratch` for other notes."""
        instructions = Globs.of(_INSTRUCTIONS)
        if instructions.match(path) or instructions.match(path.rpartition("/")[2]):
            return "claude_md"
        return "scratch" if self._wanted.match(path) else "claude_md"

    def scan(self, root: Path | Root, *, clock: Callable[[], float] = time.monotonic) -> Scan:
        """Find the tracked files that exist now. A file that cannot be tracked is skipped and reported.

        `.gitignore` has no effect: git normally ignores `CLAUDE.local.md`, but that file is memory. The search stops
        after 20,000 folders or 5 s, and reports that. Raises `FileProblem` when the project's own folder cannot be
        read, because its files are unknown then.
        """
        with hold(root) as held:
            return self._scan(_Walk(held, self, clock))

    def _scan(self, walk: "_Walk") -> Scan:
        walk.run()
        instructions = [path for path in walk.paths if self.kind(path) == "claude_md"]
        imports = follow(
            walk.root, instructions, limit_bytes=self.limit_bytes, allows=lambda path: not self._refuses(path)
        )
        if imports.left_out is not None:
            walk.given_up.append(imports.left_out)
        skipped = sorted(walk.skipped, key=lambda one: one.path)
        if walk.given_up:
            skipped.insert(0, Skipped(path="", reason="; ".join(walk.given_up)))
        return Scan(
            paths=tuple(sorted({*walk.paths, *imports.paths})),
            skipped=tuple(skipped),
            directories=tuple(sorted({*walk.folders, *(path.rpartition("/")[0] for path in imports.paths)})),
            complete=not walk.given_up,
            leftovers=walk.leftovers,
        )

    def directories(self, root: Path | Root) -> list[str]:
        """Return the existing folders in which a tracked file, or the next folder towards one, can appear.

        They include the folders of imported files; `""` is the project's own. A `scan` returns them too.
        """
        return list(self.scan(root).directories)

    def leads(self, folder: str) -> Leads | None:
        """Return how a folder can lead to tracked files: "near" (below a fixed prefix), "far", or None."""
        if self._excluded.match(folder):
            return None
        return self._wanted.leads(folder)

    def _refuses(self, path: str) -> bool:
        return self._excluded.match(path) or Globs.of(TEMPORARY).match(path)


class _Walk:
    """One walk over the folders that can hold tracked files, those below a fixed prefix first."""

    def __init__(self, root: Root, tracking: Tracking, clock: Callable[[], float]) -> None:
        self.root = root
        self.tracking = tracking
        self.clock = clock
        self.until = clock() + _MOST_S
        self.paths: list[str] = []
        self.skipped: list[Skipped] = []
        self.folders: list[str] = []
        self.waiting: dict[str, deque[str]] = {"near": deque([""]), "far": deque()}
        #: The reasons why the search was not complete.
        self.given_up: list[str] = []
        self.leftovers = False

    def run(self) -> None:
        while not self.given_up and any(self.waiting.values()):
            if len(self.folders) >= _MOST_FOLDERS:
                self.give_up(f"more than {_MOST_FOLDERS:,} folders")
                return
            folder = (self.waiting["near"] or self.waiting["far"]).popleft()
            try:
                self.list_folder(folder)
            except (FileNotFoundError, NotADirectoryError):
                # The folder was removed, or replaced by a symlink, after its parent was listed.
                continue
            except OSError as exc:
                self.skip(folder, problem("list", folder or str(self.root.path), exc))

    def give_up(self, what: str) -> None:
        advice = f"give the globs under include in {SETTINGS} a fixed first folder"
        self.given_up.append(f"{what}, the rest was not searched: {advice}")

    def list_folder(self, folder: str) -> None:
        with open_folder(self.root, folder) as descriptor, os.scandir(descriptor) as entries:
            self.folders.append(folder)
            for entry in entries:
                if self.clock() > self.until:
                    self.give_up(f"the search took more than {_MOST_S:g} s")
                    return
                self.leftovers = self.leftovers or is_temporary(entry.name)
                path = f"{folder}/{entry.name}" if folder else entry.name
                leads = self.tracking.leads(path)
                wanted = self.tracking.wants(path)
                if leads or wanted:
                    self.take(entry, path, leads=leads, wanted=wanted)

    def take(self, entry: "os.DirEntry[str]", path: str, *, leads: str | None, wanted: bool) -> None:
        try:
            if entry.is_symlink():
                self.take_symlink(entry, path, wanted=wanted)
            elif leads and entry.is_dir():
                self.waiting[leads].append(path)
            elif wanted and entry.is_file():
                self.paths.append(path)
            elif wanted:
                self.skip(path, not_a_regular_file(path, entry.stat(follow_symlinks=False).st_mode))
        except FileNotFoundError:
            return
        except OSError as exc:
            self.skip(path, problem("look at", path, exc))

    def take_symlink(self, entry: "os.DirEntry[str]", path: str, *, wanted: bool) -> None:
        folder = False
        with suppress(OSError):
            folder = entry.is_dir()
        if folder:
            reason = (
                f"{printable(path)} is a symlink to a folder; Atlas does not follow those: replace it with a folder"
            )
            self.skipped.append(Skipped(path=path, reason=reason))
        elif wanted:
            try:
                found = signature(self.root, path)
            except FileProblem as exc:
                self.skip(path, exc)
            else:
                if found is not None:
                    self.paths.append(path)

    def skip(self, path: str, reason: FileProblem) -> None:
        self.skipped.append(Skipped(path=path, reason=str(reason)))
