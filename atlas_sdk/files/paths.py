r"""Convert paths of a project between disk, database and terminal.

In this package a path is a `str`, relative to the project, with `/` between its parts, decoded by `os.fsdecode`. Bytes
that are not UTF-8 become lone surrogates, so no name on a disk is lost. PostgreSQL's `text` cannot store surrogates;
`to_text` and `from_text` convert without a loss.
"""

import errno
import os
import re
from pathlib import Path

from atlas_sdk.errors import InvalidInput, OutsideProject
from atlas_sdk.text import named, printable

__all__ = ["below", "from_text", "named", "printable", "real_path", "relative_path", "to_text"]

_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
#: PATH_MAX of Linux; a longer path cannot be opened.
_LIMIT_BYTES = 4_096
#: Attempts to resolve a path while somebody replaces a link in it.
_SWAPS = 20


def relative_path(root: Path, given: str | os.PathLike[str]) -> str:
    """Return a path given by a user as a path relative to the project.

    `given` is relative to `root`, or absolute and inside of it. An absolute path may name the project by another of
    its paths, such as `/tmp/p` for `/private/tmp/p`. `..` removes the part before it from the text, even if that part
    is a symlink. The file need not exist. Raises `OutsideProject` for a path that leaves the project and `InvalidInput`
    for a path that names no file.
    """
    text = _decoded(given)
    rest: str | None = text
    if text.startswith("/"):
        rest = below(root, os.path.normpath("/" + text.lstrip("/")))
    parts: list[str] = []
    for part in (rest or "").split("/"):
        if part == ".." and not parts:
            rest = None
            break
        if part == "..":
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    if rest is None:
        raise OutsideProject(f"{named(text)} is outside the project {named(str(root))}", path=text)
    if not parts:
        raise InvalidInput(f"{named(text)} is the project itself; name a file in it", field="path")
    return "/".join(parts)


def real_path(path: str | os.PathLike[str]) -> str:
    """Return a path without links. A link that somebody replaces by a folder meanwhile is looked at again.

    Raises OSError when that happens again and again.
    """
    for _ in range(_SWAPS):
        try:
            return os.path.realpath(path)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
    return os.path.realpath(path)


def below(root: Path, absolute: str) -> str | None:
    """Return the part of an absolute path after the project's folder, or None if the path does not lead there.

    The call recognises the folder by its path, or else by its inode, because symlinks and mounts can give a folder
    several paths.
    """
    for base in {os.path.abspath(root), real_path(root)}:  # noqa: PTH100 - `Path.resolve` would follow links
        if absolute == base or absolute.startswith(base.rstrip("/") + "/"):
            return absolute[len(base) :].lstrip("/")
    try:
        project = os.stat(root)  # noqa: PTH116 - one call with `stat` below
    except OSError:
        return None
    ends = [place for place, letter in enumerate(absolute) if letter == "/" and place > 0] + [len(absolute)]
    for end in ends:
        try:
            if os.path.samestat(project, os.stat(absolute[:end])):  # noqa: PTH116 - `Path` would change the text
                return absolute[end:].lstrip("/")
        except (OSError, ValueError):
            return None
    return None


def to_text(path: str) -> str:
    r"""Return a path as PostgreSQL `text`: bytes that are not UTF-8 become `\xNN`, and backslashes are doubled.

    Everything else stays unchanged, including newlines. `from_text` is the inverse.
    """
    if "\0" in path:
        raise InvalidInput(f"{named(path)} contains a NUL; no file can have that name", field="path")
    if path.isascii() and "\\" not in path:
        return path
    return os.fsencode(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """Return the path from which `to_text` made this text. Raises `InvalidInput` for any other text."""
    if text.isascii() and "\\" not in text and "\0" not in text:
        return text
    try:
        raw = _ESCAPE.sub(lambda found: b"\\" if found[1] is None else bytes.fromhex(found[1].decode()), text.encode())
        path = os.fsdecode(raw)
    except UnicodeError as exc:
        raise InvalidInput(f"{named(text)} is not the text of a path", field="path") from exc
    if to_text(path) != text:
        raise InvalidInput(f"{named(text)} is not the text of a path", field="path")
    return path


def _decoded(given: str | os.PathLike[str]) -> str:
    try:
        # Encode and decode: surrogates that together are valid UTF-8 become the character that the disk will return.
        text = os.fsdecode(os.fsencode(given))
    except UnicodeError as exc:
        raise InvalidInput(f"{named(os.fspath(given))} cannot be the name of a file", field="path") from exc
    if "\0" in text:
        raise InvalidInput(f"{named(text)} contains a NUL; no file can have that name", field="path")
    if not text:
        raise InvalidInput("the path is empty; name a file of the project", field="path")
    if len(os.fsencode(text)) > _LIMIT_BYTES:
        raise InvalidInput(f"{named(text)} is longer than the {_LIMIT_BYTES:,} bytes of a path", field="path")
    return text
