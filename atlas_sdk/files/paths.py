r"""Name a project's file: on disk, in the database and on a terminal.

Everywhere in this package a path is a `str`: relative to the project, with `/` between its parts, as `os.fsdecode`
gives it. Bytes that are not UTF-8 are lone surrogates in it, so every name that a disk can hold survives.
PostgreSQL's `text` holds no surrogates; `to_text` and `from_text` go there and back without a loss.
"""

import os
import re
from pathlib import Path

from atlas_sdk.errors import InvalidInput, OutsideProject
from atlas_sdk.text import named, printable

__all__ = ["below", "from_text", "named", "printable", "relative_path", "to_text"]

_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
#: PATH_MAX of Linux: a longer path opens no file.
_LIMIT_BYTES = 4_096


def relative_path(root: Path, given: str | os.PathLike[str]) -> str:
    """Return the project's own name for a path that somebody typed.

    `given` is relative to `root`, or absolute and inside it; an absolute one may reach the project through another name
    of it (`/tmp` and `/private/tmp`). `..` is taken by its letters, before any symlink. Nothing has to exist.
    Raises `OutsideProject` for a path that leaves the project and `InvalidInput` for one that names no file.
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


def below(root: Path, absolute: str) -> str | None:
    """Return what follows the project's folder in an absolute path, or None when it does not lead there.

    The folder is known by its name or, failing that, by its inode: symlinks and mounts give it several names.
    """
    for base in {os.path.abspath(root), os.path.realpath(root)}:  # noqa: PTH100 - `Path.resolve` would follow links
        if absolute == base or absolute.startswith(base.rstrip("/") + "/"):
            return absolute[len(base) :].lstrip("/")
    try:
        project = os.stat(root)  # noqa: PTH116 - one call with `stat` below
    except OSError:
        return None
    ends = [place for place, letter in enumerate(absolute) if letter == "/" and place > 0] + [len(absolute)]
    for end in ends:
        try:
            if os.path.samestat(project, os.stat(absolute[:end])):  # noqa: PTH116 - the text is cut as it stands
                return absolute[end:].lstrip("/")
        except (OSError, ValueError):
            return None
    return None


def to_text(path: str) -> str:
    r"""Return a path as PostgreSQL `text` can hold it: bytes that are not UTF-8 as `\xNN`, a backslash doubled.

    Everything else, newlines too, stays as it is. `from_text` is the way back.
    """
    if "\0" in path:
        raise InvalidInput(f"{named(path)} holds a NUL; no file can have that name", field="path")
    return os.fsencode(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """Return the path that `to_text` made this text of; `InvalidInput` when it made no such text."""
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
        # There and back: two surrogates that together are UTF-8 become the character that the disk will show.
        text = os.fsdecode(os.fsencode(given))
    except UnicodeError as exc:
        raise InvalidInput(f"{named(os.fspath(given))} cannot be the name of a file", field="path") from exc
    if "\0" in text:
        raise InvalidInput(f"{named(text)} holds a NUL; no file can have that name", field="path")
    if not text:
        raise InvalidInput("a path is empty; name a file of the project", field="path")
    if len(os.fsencode(text)) > _LIMIT_BYTES:
        raise InvalidInput(f"{named(text)} is longer than the {_LIMIT_BYTES:,} bytes of a path", field="path")
    return text
