"""Decide which files of a project are memory, and find those that exist."""

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from attrs import field, frozen

from atlas_sdk.errors import FileProblem
from atlas_sdk.files.capture import Signature
from atlas_sdk.files.globs import Excluded, Globs, Leads, check_globs
from atlas_sdk.files.imports import follow
from atlas_sdk.files.paths import named, printable
from atlas_sdk.files.presets import PRESETS, TEMPORARY, Kind
from atlas_sdk.files.problems import not_a_regular_file, problem
from atlas_sdk.files.root import Root, hold
from atlas_sdk.files.safe_open import open_folder, trace
from atlas_sdk.files.settings import SETTINGS, check_presets, read_settings
from atlas_sdk.files.temporary import is_temporary

__all__ = ["NOT_TRACKED", "SETTINGS", "Scan", "Skipped", "Tracking"]

#: The words for a file for which `Scan.untracks` is true.
NOT_TRACKED = "not tracked any more (history kept)"

_DEFAULT_LIMIT_BYTES = 8 * 2**20
#: Listing a folder takes about 30 µs, so a walk of this many folders ends within a second.
_MOST_FOLDERS = 20_000
#: The most folders to watch only because a symlink or an import names a missing file in them.
_MOST_AWAITED = 500
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
    #: The folders to watch; `""` is the project's own folder.
    directories: tuple[str, ...]
    #: False if the search reached a limit: a file that is missing here may exist.
    complete: bool = True
    #: True if a killed restore left a temporary file.
    leftovers: bool = False
    #: The paths, untracked themselves, whose change can add or remove a tracked file: the first missing part on the way
    #: to what a symlink or an import names, and the symlinks on the way.
    awaited: frozenset[str] = frozenset()
    #: True if the folders of `awaited` are so many that `directories` has only a part of them.
    awaits_more: bool = False
    #: The tracked symlinks that lead to no file, each with the reason.
    dangling: tuple[Skipped, ...] = ()
    #: The path that each tracked symlink finally leads to.
    targets: Mapping[str, str] = field(factory=dict)
    #: The tracked files with several names in the project (hard links), one group for each file.
    hard_links: tuple[tuple[str, ...], ...] = ()
    #: The signatures of `paths` at the time of the search.
    seen: Mapping[str, Signature] = field(factory=dict, eq=False, repr=False)

    def untracks(self, path: str) -> bool:
        """Return True if the rules do not track a recorded file any more; its history stays.

        This is so for a file that exists outside of `paths`, unless the search could not look for it.
        """
        if not self.complete or path in self.seen or path in self.paths:
            return False
        return not any(path == one.path or path.startswith(f"{one.path}/") for one in (*self.skipped, *self.dangling))


@frozen(kw_only=True)
class Tracking:
    """The rules of one project: presets, the globs of its settings, and a size limit."""

    presets: tuple[str, ...] = tuple(PRESETS)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: Atlas keeps the hash of a larger file, but not its content.
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
        after 20,000 folders or 5 s; the result then has `complete=False` and the reason under `skipped`. Raises
        `FileProblem` when the project's own folder cannot be read, because its files are unknown then.
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
        for path in imports.paths:
            walk.note(path, imports.stats[path])
        walk.targets.update((path, imports.targets[path]) for path in imports.paths if path in imports.targets)
        folders = {*walk.folders, *(path.rpartition("/")[0] for path in (*imports.paths, *walk.targets.values()))}
        awaited = imports.awaited.union(walk.awaited).difference(walk.seen)
        more = sorted({path.rpartition("/")[0] for path in awaited} - folders)
        skipped = sorted(walk.skipped, key=lambda one: one.path)
        if walk.given_up:
            skipped.insert(0, Skipped(path="", reason="; ".join(walk.given_up)))
        return Scan(
            paths=tuple(sorted({*walk.paths, *imports.paths})),
            skipped=tuple(skipped),
            directories=tuple(sorted({*folders, *more[:_MOST_AWAITED]})),
            complete=not walk.given_up,
            leftovers=walk.leftovers,
            awaited=awaited,
            awaits_more=len(more) > _MOST_AWAITED,
            dangling=tuple(sorted(walk.dangling, key=lambda one: one.path)),
            targets=walk.targets,
            hard_links=tuple(tuple(sorted(names)) for names in walk.linked.values() if len(names) > 1),
            seen=walk.seen,
        )

    def directories(self, root: Path | Root) -> list[str]:
        """Return the folders to watch: in each, a tracked file or a folder that leads to one can appear.

        The list includes the folders of imported files; `""` is the project's own folder. `Scan.directories` is the
        same list.
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
    """One walk over the folders that can hold tracked files. It lists folders below a fixed prefix first."""

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
        self.awaited: set[str] = set()
        self.dangling: list[Skipped] = []
        self.targets: dict[str, str] = {}
        self.linked: dict[tuple[int, int], list[str]] = {}
        self.seen: dict[str, Signature] = {}

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
            elif wanted:
                self.take_file(path, entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return
        except OSError as exc:
            self.skip(path, problem("look at", path, exc))

    def take_file(self, path: str, found: os.stat_result) -> None:
        if stat.S_ISREG(found.st_mode):
            self.paths.append(path)
            self.note(path, found)
        else:
            self.skip(path, not_a_regular_file(path, found.st_mode))

    def note(self, path: str, found: os.stat_result) -> None:
        self.seen[path] = Signature.of(found)
        if found.st_nlink > 1:
            self.linked.setdefault((found.st_dev, found.st_ino), []).append(path)

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
            self.follow_symlink(path)

    def follow_symlink(self, path: str) -> None:
        way = trace(self.root, path)
        self.awaited.update(way.links[1:])
        if way.blocked is not None:
            self.skip(path, way.blocked)
        elif way.found is None:
            self.awaited.add(way.path)
            reason = f"{printable(path)} is a symlink that leads to no file: {named(way.path)} does not exist"
            self.dangling.append(Skipped(path=path, reason=reason))
        else:
            self.targets[path] = way.path
            self.take_file(path, way.found)

    def skip(self, path: str, reason: FileProblem) -> None:
        self.skipped.append(Skipped(path=path, reason=str(reason)))
