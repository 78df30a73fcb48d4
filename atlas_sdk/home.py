"""The home folder, and the files in it that only its owner may read or change.

Everything in the home is private to one OS user: the embedded database, the watcher's state, keys. The functions refuse
a folder or file that another user owns or may change, and never repair it: another user may have changed its content
already.
"""

import os
import shlex
import stat
from pathlib import Path

from atlas_sdk.errors import FileProblem

__all__ = [
    "check_private_file",
    "open_private_file",
    "prepare_home",
    "private_folder",
    "replace_private_file",
    "sync_folder",
]

#: The most links to follow in a path, as in Linux (path_resolution(7)).
_LINKS_MAX = 40
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def prepare_home(folder: Path) -> Path:
    """Return the home with all links resolved; make it and missing folders above it, for this OS user alone.

    Raises FileProblem when the home is not a folder of this OS user, when its group or others may write to it, and when
    another user could put a folder in its place. That is possible if everybody may write to a folder above the home
    (unless this folder is sticky, as /tmp is), or if a link on the way belongs to another user.
    """
    if "\n" in str(folder):
        # PostgreSQL keeps the path on one line of a file.
        raise _problem(folder, f"the home {str(folder)!r} has a line break in its name; {_ELSEWHERE}")
    try:
        found, missing = _resolve(folder)
        for name in missing:
            if name == "..":
                found = found.parent
                continue
            found /= name
            # Another process may make the same folder now.
            found.mkdir(mode=0o700, exist_ok=True)
        status = found.lstat()
    except OSError as exc:
        raise _problem(folder, f"the home {folder} cannot be used: {_reason(exc)}; {_ELSEWHERE}") from exc
    if not stat.S_ISDIR(status.st_mode):
        raise _problem(found, f"the home {found} is not a folder; {_ELSEWHERE}")
    if status.st_uid != os.geteuid():
        raise _problem(
            found, f"the home {found} belongs to OS user id {status.st_uid}; work as that user, or {_ELSEWHERE}"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise _problem(
            found,
            f"other users may write to the home {found} (mode {stat.S_IMODE(status.st_mode):04o}); see that nobody "
            f"has changed it, then run: chmod go-w {shlex.quote(str(found))}",
        )
    return found


def private_folder(folder: Path) -> Path:
    """Make a folder that other users cannot access, or accept such a folder; return it. Raises FileProblem."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as exc:
        raise _problem(folder, f"the folder {folder} cannot be made: {_reason(exc)}") from exc
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
        raise _problem(
            folder,
            f"{folder} is not a private folder of this OS user ({_described(status)}); remove it, or work as its owner",
        )
    return folder


def open_private_file(path: Path, flags: int) -> int:
    """Open a file that only this OS user may read and change; create it with mode 0600. Return the descriptor.

    Never follows a link. Raises FileProblem if the file belongs to another user, if others may use it, or if it is not
    regular; FileNotFoundError if it is missing and `flags` do not create it.
    """
    try:
        # O_NONBLOCK: a pipe without a reader must not block this call before the kind of the file is known.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except FileNotFoundError:
        raise
    except OSError as exc:
        if path.is_symlink():
            raise _problem(path, f"{path} is a link, which is not followed; remove it") from exc
        raise _problem(path, f"{path} cannot be opened: {_reason(exc)}") from exc
    try:
        _check(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_private_file(path: Path, text: str) -> None:
    """Give a file that only this OS user may read and change a new content, in one step. Raises FileProblem."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(open_private_file(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
        file.write(text)
    fresh.replace(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: those of new and of renamed files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_private_file(path: Path) -> Path:
    """Return the path of a file that only this OS user may read and change, or that does not exist.

    Raises FileProblem otherwise.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return path
    except OSError as exc:
        raise _problem(path, f"{path} cannot be looked at: {_reason(exc)}") from exc
    _check(path, status)
    return path


_ELSEWHERE = "set ATLAS_HOME to a folder of your own"


def _resolve(folder: Path) -> tuple[Path, list[str]]:
    """Follow the path part by part; return the last folder that exists, links resolved, and the names below it."""
    found = Path("/")
    left = list(folder.absolute().parts[1:])
    links = 0
    while left:
        name = left.pop(0)
        step = found / name
        if name == "..":
            found = found.parent
            continue
        try:
            status = step.lstat()
        except FileNotFoundError:
            return found, [name, *left]
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS_MAX:
                raise _problem(folder, f"the home {folder} has too many links on the way; {_ELSEWHERE}")
            if status.st_uid not in {0, os.geteuid()}:
                raise _problem(
                    folder,
                    f"the home {folder} leads through the link {step} of OS user id {status.st_uid}, who could change "
                    f"it; {_ELSEWHERE}",
                )
            target = step.readlink()
            found = Path("/") if target.is_absolute() else found
            left = [part for part in target.parts if part != "/"] + left
            continue
        if left:
            _check_above(step, status, folder)
        found = step
    return found, []


def _check_above(step: Path, status: os.stat_result, home: Path) -> None:
    """Raise FileProblem if everybody may rename other users' files in a folder above the home.

    A folder that a group may write to is accepted: if every user has a private group, a umask of 002 makes such
    folders.
    """
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise _problem(
            home,
            f"every user may write to {step} (mode {stat.S_IMODE(status.st_mode):04o}) and put a folder in the place "
            f"of the home {home}; run: chmod o-w {shlex.quote(str(step))}, or {_ELSEWHERE}",
        )


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
        raise _problem(
            path,
            f"{path} is not a private file of this OS user ({_described(status)}); remove it, or work as its owner",
        )


def _described(status: os.stat_result) -> str:
    kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISREG, "a file"), (stat.S_ISDIR, "a folder"))
    kind = next((name for is_kind, name in kinds if is_kind(status.st_mode)), "neither file nor folder")
    return f"{kind}, owner id {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"


def _reason(exc: OSError) -> str:
    return (exc.strerror or str(exc)).lower()


def _problem(path: Path, sentence: str) -> FileProblem:
    return FileProblem(sentence, path=os.fspath(path))
