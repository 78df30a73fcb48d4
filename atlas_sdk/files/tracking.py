"""Decide which files of a project are memory, and find those that exist."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from attrs import field, frozen

from atlas_sdk.files.globs import Excluded, Globs, Leads, check_globs
from atlas_sdk.files.imports import Imports, follow
from atlas_sdk.files.left_out import FOLDERS
from atlas_sdk.files.nested import MOST_WATCHED, Nested, find_nested
from atlas_sdk.files.presets import PRESETS, Kind
from atlas_sdk.files.root import Root, hold
from atlas_sdk.files.scan import NOT_TRACKED, Scan, Skipped
from atlas_sdk.files.settings import SETTINGS, check_presets, is_home, read_settings
from atlas_sdk.files.walk import Rules, Walk

__all__ = ["NOT_TRACKED", "SETTINGS", "Scan", "Skipped", "Tracking"]

_DEFAULT_LIMIT_BYTES = 8 * 2**20
#: The most folders to watch only because a symlink or an import names a missing file in them.
_MOST_AWAITED = 500
#: The ending of files that a user's own instructions may import.
_MARKDOWN = (".md", ".mdx", ".markdown")
#: A file of this name changes which folders are searched.
_IGNORE_FILE = ".gitignore"
_NO_GLOBS = Globs.of(())


@frozen(kw_only=True)
class Tracking:
    """The rules of one project: presets, the globs of its settings, and a size limit."""

    presets: tuple[str, ...] = tuple(PRESETS)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: True to search the folders of the project for more instructions, such as `packages/api/CLAUDE.md`.
    nested: bool = True
    #: Atlas keeps the hash of a larger file, but not its content.
    limit_bytes: int = _DEFAULT_LIMIT_BYTES
    #: True for a home folder: only the user's own files are memory, from a list of places.
    user: bool = False
    #: The compiled rules.
    rules: Rules = field(init=False, eq=False, repr=False)
    #: The endings of all nested files, and of the files that change where they are searched; empty without a search.
    _nested_endings: tuple[str, ...] = field(init=False, eq=False, repr=False)

    @rules.default
    def _compile(self) -> Rules:
        check_presets(self.presets)
        check_globs(self.include)
        check_globs(self.exclude)
        chosen = tuple(dict.fromkeys(self.presets))
        wanted = _globs_of(chosen, user=self.user)
        return Rules(
            wanted=Globs.of((*wanted, *self.include)),
            nested=Globs.of(_nested_globs(chosen)) if self.nested and not self.user else _NO_GLOBS,
            excluded=Excluded.of(self.exclude),
            agents=_agent_folders(user=self.user),
            user=self.user,
        )

    @_nested_endings.default
    def _find_endings(self) -> tuple[str, ...]:
        if not self.nested or self.user:
            return ()
        globs = _nested_globs(tuple(dict.fromkeys(self.presets)))
        return tuple({_IGNORE_FILE, *(glob.rpartition("/")[2].rpartition("*")[2] for glob in globs)})

    @classmethod
    def load(cls, root: Path | Root) -> "Tracking":
        """Read the project's `.atlas.toml`; without the file every preset is on.

        A home folder is tracked as a user's own memory, unless `user = false` says otherwise. Raises `InvalidInput`
        that names the wrong key, `FileProblem` when the file or the project cannot be read.
        """
        settings = read_settings(root)
        settings.setdefault("user", is_home(root.path if isinstance(root, Root) else root))
        return cls(**settings)

    def wants(self, path: str) -> bool:
        """Return True if a glob tracks a file with this path; False for an imported or nested file."""
        return self.rules.wanted.match(path) and not self.rules.refuses(path)

    def may_be_nested(self, path: str) -> bool:
        """Return True if a scan is needed to know whether a file is tracked, or if the file decides about others.

        The file has the name of a nested file, and git may ignore its folder; or it is a `.gitignore`.
        """
        name = path.rpartition("/")[2]
        # Nearly all events are about files with other endings.
        if not name.endswith(self._nested_endings):
            return False
        if name == _IGNORE_FILE:
            return True
        is_nested = "/" in path and _anywhere(self.presets).match(path)
        return is_nested and not self.rules.refuses(path) and _is_searched(path)

    def kind(self, path: str) -> Kind:
        """Return `claude_md` for instructions, also in nested folders, and for imports; `scratch` for other notes."""
        instructions, notes = _kinds()
        if instructions.match(path) or instructions.match(path.rpartition("/")[2]):
            return "claude_md"
        return "scratch" if notes.match(path) or self.rules.wanted.match(path) else "claude_md"

    def scan(self, root: Path | Root, *, clock: Callable[[], float] = time.monotonic) -> Scan:
        """Find the tracked files that exist now. A file that cannot be tracked is skipped and reported.

        `.gitignore` has no effect on the files of the presets: git normally ignores `CLAUDE.local.md`, but that file is
        memory. Only the search for nested files leaves out the folders that git ignores. The search stops after 20,000
        folders or 5 s (for nested files, 50,000 or 5 s); the result then has `complete=False` and the reason under
        `skipped`. Raises `FileProblem` when the project's own folder cannot be read, because its files are unknown
        then.
        """
        with hold(root) as held:
            return self._scan(Walk(held, self.rules, clock))

    def _scan(self, walk: Walk) -> Scan:
        walk.run()
        found = Nested(folders={}, stopped=None)
        near = len(walk.paths)
        if self.nested and not self.user and not walk.given_up:
            found = find_nested(walk, _first_parts(self.presets))
        nested = frozenset(walk.paths[near:])
        imports = self._follow(walk)
        if imports.left_out is not None:
            walk.given_up.append(imports.left_out)
        skipped = sorted(walk.skipped, key=lambda one: one.path)
        if walk.given_up:
            skipped.insert(0, Skipped(path="", reason="; ".join(walk.given_up)))
        lookalikes = sorted(walk.lookalikes, key=lambda one: one.path)
        if found.stopped is not None:
            lookalikes.insert(0, Skipped(path="", reason=found.stopped))
        paths = {*walk.paths, *imports.paths}
        files = (*imports.paths, *nested, *walk.targets.values())
        folders = {*walk.folders, *(path.rpartition("/")[0] for path in files)}
        folders.update([folder for folder in found.folders if folder not in folders][:MOST_WATCHED])
        awaited = imports.awaited.union(walk.awaited).difference(walk.seen)
        more = sorted({path.rpartition("/")[0] for path in awaited} - folders)
        folders.update(more[:_MOST_AWAITED])
        return Scan(
            paths=tuple(sorted(paths)),
            skipped=tuple(skipped),
            directories=tuple(sorted(folders)),
            complete=not walk.given_up and found.stopped is None,
            leftovers=walk.leftovers,
            nested=nested - {path for path in nested if self.rules.wanted.match(path)},
            imported=dict(imports.by),
            lookalikes=tuple(one for one in lookalikes if one.path not in paths),
            unwatched={folder: stamp for folder, stamp in found.folders.items() if folder not in folders},
            awaited=awaited,
            awaits_more=len(more) > _MOST_AWAITED,
            dangling=tuple(sorted(walk.dangling, key=lambda one: one.path)),
            targets=walk.targets,
            hard_links=tuple(tuple(sorted(names)) for names in walk.linked.values() if len(names) > 1),
            seen=walk.seen,
        )

    def _follow(self, walk: Walk) -> Imports:
        instructions = [path for path in walk.paths if self.kind(path) == "claude_md"]
        found = follow(
            walk.root,
            instructions,
            limit_bytes=self.limit_bytes,
            allows=self.imports,
            allows_target=self.imports_from,
        )
        for path in found.paths:
            walk.note(path, found.stats[path])
        walk.targets.update((path, found.targets[path]) for path in found.paths if path in found.targets)
        return found

    def imports(self, path: str) -> bool:
        """Return True if a file becomes memory when instructions import it.

        In a home folder that is only Markdown in the folder of an agent, so that an import never adds credentials.
        """
        if self.rules.refuses(path):
            return False
        return not self.user or (
            path.lower().endswith(_MARKDOWN)
            and ("/" not in path or any(path.startswith(f"{folder}/") for folder in _agent_places()))
        )

    def imports_from(self, target: str) -> bool:
        """Return True if an imported symlink may lead to this file: never to an excluded one.

        In a home folder the file must be Markdown, wherever it is: dotfiles often are in a folder of their own.
        """
        return not self.rules.refuses(target) and (not self.user or target.lower().endswith(_MARKDOWN))

    def may_lead(self, path: str, target: str) -> bool:
        """Return True if a tracked symlink of a user may lead to this file, whether a glob or an import names it."""
        return not self.user or (self.rules.may_lead(path, target) if self.wants(path) else self.imports_from(target))

    def directories(self, root: Path | Root) -> list[str]:
        """Return the folders to watch: in each, a tracked file or a folder that leads to one can appear.

        The list includes the folders of imported files; `""` is the project's own folder. `Scan.directories` is the
        same list. Nested files can also appear in the folders of `Scan.unwatched`.
        """
        return list(self.scan(root).directories)

    def leads(self, folder: str) -> Leads | None:
        """Return how a folder can lead to tracked files: "near" (below a fixed prefix), "far", or None."""
        if self.rules.excluded.match(folder):
            return None
        found = self.rules.wanted.leads(folder)
        if found is None and self.nested and not self.user and _is_searched(f"{folder}/"):
            return "far"
        return found

    def matching(self, path: str) -> str | None:
        """Return the rule that tracks a path by its name: `preset claude` or `include docs/*.md`; None if none does."""
        for name in self.presets:
            globs = PRESETS[name].user_globs if self.user else PRESETS[name].globs
            if Globs.of(globs).match(path):
                return f"preset {name}"
        for glob in self.include:
            if Globs.of((glob,)).match(path):
                return f"include {glob}"
        return None

    def matching_nested(self, path: str) -> str | None:
        """Return the preset that tracks a path as a nested file: `preset claude, nested`; None if none does."""
        if self.nested and not self.user:
            for name in self.presets:
                if _anywhere((name,)).match(path):
                    return f"preset {name}, nested"
        return None

    def excluded_by(self, path: str) -> str | None:
        """Return the glob of `exclude` that matches a path or one of its folders; None if none does."""
        return next((glob for glob in self.exclude if Excluded.of((glob,)).match(path)), None)


def _is_searched(path: str) -> bool:
    """Return False for a path in a folder that the search for nested files never enters."""
    return not any(name in FOLDERS for name in path.split("/")[:-1])


@lru_cache
def _globs_of(presets: tuple[str, ...], *, user: bool) -> tuple[str, ...]:
    return tuple(glob for name in presets for glob in (PRESETS[name].user_globs if user else PRESETS[name].globs))


@lru_cache
def _nested_globs(presets: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(glob for name in presets for glob in PRESETS[name].nested))


@lru_cache
def _anywhere(presets: tuple[str, ...]) -> Globs:
    """Return the nested globs for paths that begin at the project's folder."""
    return Globs.of(tuple(f"**/{glob}" for glob in _nested_globs(tuple(dict.fromkeys(presets)))))


@lru_cache
def _first_parts(presets: tuple[str, ...]) -> frozenset[str]:
    return frozenset(glob.split("/")[0] for glob in _nested_globs(tuple(dict.fromkeys(presets))))


@lru_cache
def _kinds() -> tuple[Globs, Globs]:
    """Return the globs of instructions and of notes, of all presets."""
    presets = PRESETS.values()
    nested = {glob for preset in presets for glob in preset.nested}
    instructions = [glob for one in presets for glob in (*one.instructions, *one.user_instructions)]
    notes = [glob for one in presets for glob in (*one.notes, *one.user_notes)]
    return (
        Globs.of((*instructions, *(f"**/{glob}" for glob in instructions if glob in nested))),
        Globs.of((*notes, *(f"**/{glob}" for glob in notes if glob in nested))),
    )


@lru_cache
def _agent_places() -> frozenset[str]:
    """Return the folders of agents in a home: `.claude`, `.config/opencode`."""
    places = set()
    for preset in PRESETS.values():
        for glob in (*preset.user_globs, *preset.globs):
            first, *rest = glob.split("/")
            if rest and first.startswith(".") and first != ".github":
                places.add(f"{first}/{rest[0]}" if first == ".config" else first)
    return frozenset(place for place in places if not place.endswith(".md"))


@lru_cache
def _agent_folders(*, user: bool) -> frozenset[str]:
    """Return the folders of agents in which Markdown looks like memory."""
    globs = [glob for one in PRESETS.values() for glob in (one.user_globs if user else one.globs)]
    first = {glob.split("/")[0] for glob in globs if "/" in glob}
    return frozenset(name for name in first if name.startswith(".") and name not in {".github", ".config"})
