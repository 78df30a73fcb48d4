"""The result of a search for the tracked files of a project."""

from collections.abc import Mapping

from attrs import field, frozen

from atlas_sdk.files.capture import Signature

__all__ = ["NOT_TRACKED", "Scan", "Skipped", "Stamp"]

#: The words for a file for which `Scan.untracks` is true.
NOT_TRACKED = "not tracked any more (history kept)"

#: Device, inode and ctime of a folder. Any program can set the mtime back.
Stamp = tuple[int, int, int]


@frozen(kw_only=True)
class Skipped:
    """A file that should be tracked, but cannot be; or a file that looks like memory and is not tracked."""

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
    #: The files that are tracked because of their name in a folder of the project, such as `packages/api/CLAUDE.md`.
    nested: frozenset[str] = frozenset()
    #: The imported files, each with the file that imports it.
    imported: Mapping[str, str] = field(factory=dict)
    #: Files that look like memory and are not tracked, with the reason; at most 100.
    lookalikes: tuple[Skipped, ...] = ()
    #: Folders without memory that are not in `directories`, with their stamps from before they were listed. When one
    #: differs, a new nested file may be in it.
    unwatched: Mapping[str, Stamp] = field(factory=dict, eq=False)
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
