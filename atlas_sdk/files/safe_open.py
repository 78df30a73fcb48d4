"""Open files of a project without ever leaving the project.

This module walks a path from the project's folder (see `root`). It opens each part relative to the folder before that
part, and never through a symlink (`O_NOFOLLOW`). It reads and resolves symlinks itself, one hop at a time. So an
attacker who replaces a folder by a symlink during a walk gains nothing: the kernel never resolves more than one name in
a call.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import Factory, define, frozen

from atlas_sdk.errors import FileProblem, InvalidInput, OutsideProject
from atlas_sdk.files.paths import below, printable
from atlas_sdk.files.problems import leaves, not_a_regular_file, problem
from atlas_sdk.files.root import Root, hold, link_text

__all__ = ["MOST_HOPS", "FolderMaker", "Place", "Trace", "locate", "open_folder", "opened", "trace"]

#: The number of symlinks that Linux follows (path_resolution(7)).
MOST_HOPS = 40
#: The largest number of parts that symlinks may add to a path. No path has more, because PATH_MAX is 4,096 bytes.
_MOST_PARTS = 2048
#: Attempts to open a part that alternates between a folder and a symlink.
_MOST_LOOKS = 100
#: A function that creates a missing folder, given the open parent folder, the name, and the depth in the project.
FolderMaker = Callable[[int, str, int], None]
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK and O_NOCTTY: a FIFO in the file's place must not block, and a terminal must not become our controlling
# terminal.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen(kw_only=True)
class Place:
    """The target of a path with all symlinks resolved: a name in an open folder. The name need not exist."""

    #: The descriptor of the folder, open until the end of the walk.
    folder: int
    name: str
    #: The path relative to the project, with symlinks resolved.
    path: str
    #: The text of the symlink if the given path is a symlink, else None.
    link: str | None
    #: Descriptors of the folders between the project's folder and the name, the outermost folder first. They stay open
    #: as long as `folder`.
    above: tuple[int, ...] = ()


@frozen(kw_only=True)
class Trace:
    """The way to a path, as far as it leads now."""

    #: The path with symlinks resolved; or of the first part on the way that is missing, or that is not a folder.
    path: str
    #: The `lstat` result of the path; None when a part is missing.
    found: os.stat_result | None
    #: The symlinks on the way, each as a path in the project. The way changes when one of them changes.
    links: tuple[str, ...]
    #: The reason why the way cannot be followed further: it leaves the project, goes in circles, or may not be read.
    blocked: FileProblem | None = None


@frozen
class _Step:
    name: str
    #: The path and the text of the symlink that this part comes from; None for a part of the given path.
    origin: tuple[str, str] | None = None


@define
class _Walk:
    root: Root
    path: str
    #: Names and descriptors from the project's folder to the present folder of the walk.
    trail: list[tuple[str, int]]
    pending: deque[_Step]
    #: The function that creates missing folders; if it is None, the walk creates no folder.
    make: FolderMaker | None = None
    hops: int = 0
    #: The number of parts that symlinks have added.
    added: int = 0
    #: The name that the walk looked up last.
    name: str = ""
    #: The symlinks that the walk followed.
    links: list[str] = Factory(list)

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
        # `hold` closes the first descriptor.
        while len(self.trail) > 1:
            os.close(self.trail.pop()[1])

    def enter(self, step: _Step) -> None:
        """Enter a folder, or put the parts of a symlink in front of the pending parts."""
        self.name = step.name
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
        self.links.append(origin[0])
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
    root: Path | Root, path: str, *, follow: bool = True, make: FolderMaker | None = None, as_link: str | None = None
) -> Iterator[Place]:
    """Walk to a path and keep its folder open.

    `follow=False` does not follow a symlink as the last part. `make` creates missing folders, but none behind a
    symlink. `as_link` treats the last part as a symlink with this text, even if it does not exist. Raises
    `OutsideProject` when a symlink leaves the project, `FileProblem` when the project's folder cannot be opened or a
    symlink leads to a folder, and `OSError` for other failures (no such folder, no permission).
    """
    parts = _parts(path)
    with hold(root) as held:
        walk = _Walk(held, path, [("", held.folder)], deque(_Step(part) for part in parts), make)
        try:
            yield _last_place(walk, follow=follow, as_link=as_link)
        finally:
            walk.close()


def trace(root: Path | Root, path: str, *, follow: bool = True) -> Trace:
    """Walk to a path and return how far the way leads. `follow` is as for `locate`.

    Raises `FileProblem` when the project's folder cannot be opened, and `InvalidInput` for a path that is not relative
    to a project.
    """
    parts = _parts(path)
    with hold(root) as held:
        walk = _Walk(held, path, [("", held.folder)], deque(_Step(part) for part in parts))
        try:
            place = _last_place(walk, follow=follow, as_link=None)
            found = os.lstat(place.name, dir_fd=place.folder)
            return Trace(path=place.path, found=found, links=tuple(walk.links))
        except (FileNotFoundError, NotADirectoryError):
            return Trace(path=walk.here(walk.name), found=None, links=tuple(walk.links))
        except FileProblem as reason:
            return Trace(path=walk.here(walk.name), found=None, links=tuple(walk.links), blocked=reason)
        except OSError as exc:
            denied = problem("look at", path, exc)
            return Trace(path=walk.here(walk.name), found=None, links=tuple(walk.links), blocked=denied)
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
            walk.name = step.name
            text = link_text(walk.folder, step.name) if follow else None
            if as_link is not None and step.origin is None:
                text = as_link
            if text is None:
                above = tuple(descriptor for _, descriptor in walk.trail[1:])
                return Place(folder=walk.folder, name=step.name, path=walk.here(step.name), link=link, above=above)
            link = text if step.origin is None else link
            walk.follow(step.name, text)
    # The path ended in a symlink to `.`, `..` or the project itself.
    raise not_a_regular_file(walk.path, stat.S_IFDIR)


@contextmanager
def opened(root: Path | Root, path: str) -> Iterator[tuple[int, Place]]:
    """Open a regular file for reading. Raises `FileProblem` for anything else, without opening it.

    `OSError` with `ELOOP` means that the file became a symlink during the walk: try again.
    """
    with locate(root, path) as place:
        # Check before opening, because opening a device can have effects (a tape rewinds). Check again afterwards.
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
    """Open a folder of the project; the path `""` is the project's own folder. No part may be a symlink."""
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
