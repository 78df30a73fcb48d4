"""Reach a file of a project without ever leaving the project.

A path is walked from the project's folder (see `root`), one part at a time, each opened relative to the folder before
it and never through a symlink (`O_NOFOLLOW`). Symlinks are read and resolved here, hop by hop, so that whoever swaps a
folder for a symlink in the middle of a walk gains nothing: the kernel is never asked to resolve more than one name.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, frozen

from atlas_sdk.errors import FileProblem, InvalidInput, OutsideProject
from atlas_sdk.files.paths import below, printable
from atlas_sdk.files.problems import leaves, not_a_regular_file
from atlas_sdk.files.root import Root, hold, link_text

__all__ = ["MOST_HOPS", "FolderMaker", "Place", "locate", "open_folder", "opened"]

#: As many symlinks as Linux itself follows (path_resolution(7)).
MOST_HOPS = 40
#: As many parts as one path can have (PATH_MAX is 4,096 bytes). Each symlink may add that many, for one look.
_MOST_PARTS = 2048
#: A part that is a folder and a symlink by turns is looked at this often.
_MOST_LOOKS = 100
#: Makes a missing folder: in which open folder, of which name, how many folders below the project's own.
FolderMaker = Callable[[int, str, int], None]
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that takes the file's place must not block; O_NOCTTY: nor may a terminal become ours.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen(kw_only=True)
class Place:
    """The target of a path with all symlinks resolved: a name in an open folder. The name may not exist."""

    #: Descriptor of the folder; open as long as the walk that gave it.
    folder: int
    name: str
    #: The project's name of this place: that of the target when the path went through symlinks.
    path: str
    #: What the symlink says when the path itself is one.
    link: str | None
    #: Descriptors of the folders between the project's own and the name, outermost first; open as long as `folder`.
    above: tuple[int, ...] = ()


@frozen
class _Step:
    name: str
    #: The symlink that this part comes from: its own path and what it says.
    origin: tuple[str, str] | None = None


@define
class _Walk:
    root: Root
    path: str
    #: Names and descriptors from the project's folder down to where the walk is.
    trail: list[tuple[str, int]]
    pending: deque[_Step]
    #: Makes a folder that is missing; None leaves it missing.
    make: FolderMaker | None = None
    hops: int = 0
    #: Parts of symlinks that were walked or are still to be.
    added: int = 0

    @property
    def folder(self) -> int:
        return self.trail[-1][1]

    def here(self, name: str) -> str:
        return "/".join([*(part for part, _ in self.trail[1:]), name])

    def up(self, step: _Step) -> None:
        if len(self.trail) == 1:
            link, target = step.origin or (self.path, self.path)
            raise leaves(self.path, link=link, target=target)
        os.close(self.trail.pop()[1])

    def close(self) -> None:
        # The first one belongs to `hold`.
        while len(self.trail) > 1:
            os.close(self.trail.pop()[1])

    def enter(self, step: _Step) -> None:
        """Go down into a folder, or put a symlink's parts in front of what is still to be walked."""
        for _ in range(_MOST_LOOKS):
            try:
                self.trail.append((step.name, os.open(step.name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.folder)))
            except FileNotFoundError:
                if self.make is None or step.origin is not None:
                    raise
                self.make(self.folder, step.name, len(self.trail) - 1)
            except OSError as exc:
                if exc.errno not in {errno.ENOTDIR, errno.ELOOP}:
                    raise
                text = link_text(self.folder, step.name)
                if text is not None:
                    self.follow(step.name, text)
                    return
                if not stat.S_ISDIR(os.lstat(step.name, dir_fd=self.folder).st_mode):
                    raise
            else:
                return
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)

    def follow(self, name: str, text: str) -> None:
        self.hops += 1
        if self.hops > MOST_HOPS:
            raise FileProblem(
                f"{printable(self.path)} goes through more than {MOST_HOPS} symlinks; replace them by one",
                path=self.path,
            )
        origin = (self.here(name), text)
        rest: str | None = text
        if text.startswith("/"):
            rest = below(self.root.path, text)
            if rest is None:
                raise leaves(self.path, link=origin[0], target=text)
            self.close()
        parts = [part for part in (rest or "").split("/") if part not in {"", "."}]
        self.added += len(parts)
        if self.added > _MOST_PARTS:
            raise FileProblem(
                f"{printable(self.path)} goes through symlinks of more than {_MOST_PARTS:,} parts; replace them by one",
                path=self.path,
            )
        self.pending.extendleft(_Step(part, origin) for part in reversed(parts))


@contextmanager
def locate(
    root: Path | Root,
    path: str,
    *,
    follow: bool = True,
    make: FolderMaker | None = None,
    as_link: str | None = None,
) -> Iterator[Place]:
    """Walk to a path and hold its folder open.

    `follow=False` stops at the last part even when it is a symlink. `make` makes missing folders, but none behind a
    symlink. With `as_link` the last part is taken for a symlink that says so, whether or not it is there.
    Raises `OutsideProject` when a symlink leaves the project, `FileProblem` when the project's folder is out of reach
    or the path leads to a folder by a symlink, and `OSError` as it comes (no such folder, no permission).
    """
    parts = _parts(path)
    with hold(root) as held:
        walk = _Walk(held, path, [("", held.folder)], deque(_Step(part) for part in parts), make)
        try:
            yield _last_place(walk, follow=follow, as_link=as_link)
        finally:
            walk.close()


def _last_place(walk: _Walk, *, follow: bool, as_link: str | None) -> Place:
    link: str | None = None
    while walk.pending:
        step = walk.pending.popleft()
        if step.name == "..":
            walk.up(step)
        elif walk.pending:
            walk.enter(step)
        else:
            text = link_text(walk.folder, step.name) if follow else None
            if as_link is not None and step.origin is None:
                text = as_link
            if text is None:
                above = tuple(descriptor for _, descriptor in walk.trail[1:])
                return Place(folder=walk.folder, name=step.name, path=walk.here(step.name), link=link, above=above)
            link = text if step.origin is None else link
            walk.follow(step.name, text)
    # Only a symlink to `.`, `..` or the project itself leaves nothing to open.
    raise not_a_regular_file(walk.path, stat.S_IFDIR)


@contextmanager
def opened(root: Path | Root, path: str) -> Iterator[tuple[int, Place]]:
    """Open a regular file for reading; anything else there is a `FileProblem`, and is not even opened.

    `OSError` with `ELOOP` means that the file became a symlink during the walk: try again.
    """
    with locate(root, path) as place:
        # Opening a device can have effects (a tape rewinds), so look first; then look again at what was opened.
        before = os.lstat(place.name, dir_fd=place.folder)
        if not stat.S_ISREG(before.st_mode) and not stat.S_ISLNK(before.st_mode):
            raise not_a_regular_file(path, before.st_mode)
        descriptor = os.open(place.name, _FILE, dir_fd=place.folder)
        try:
            found = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(found):
                raise not_a_regular_file(path, found)
            yield descriptor, place
        finally:
            os.close(descriptor)


@contextmanager
def open_folder(root: Path | Root, path: str) -> Iterator[int]:
    """Open a folder of the project, `""` for the project's own; no part of the path may be a symlink."""
    with hold(root) as held:
        descriptor = os.dup(held.folder) if not path else _below(held, _parts(path))
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _below(held: Root, parts: list[str]) -> int:
    first, *rest = parts
    descriptor = os.open(first, _FOLDER | os.O_NOFOLLOW, dir_fd=held.folder)
    for part in rest:
        try:
            deeper = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = deeper
    return descriptor


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        raise OutsideProject(f"{printable(path)} is not a path inside the project", path=path)
    if "" in parts or "." in parts or "\0" in path:
        raise InvalidInput(f"{printable(path)} is not a path relative to a project", field="path")
    return parts
