r"""How a file of a project is named: on disk, in the database and on a terminal.

Everywhere in this package a path is a `str`: relative to the project, with `/` between its parts, as `os.fsdecode`
gives it. Bytes that are not UTF-8 are lone surrogates in it, so every name that a disk can hold survives.
PostgreSQL's `text` holds no surrogates; `to_text` and `from_text` go there and back without a loss.
"""

import os
import re
import unicodedata
from pathlib import Path

from atlas_sdk.errors import InvalidInput, OutsideProject

__all__ = ["below", "cut", "from_text", "named", "printable", "relative_path", "to_text", "visible"]

_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
#: `surrogateescape` keeps byte 0xNN as U+DCNN (PEP 383).
_LOWEST_BYTE, _HIGHEST_BYTE = 0xDC80, 0xDCFF
_LAST_ASCII, _LAST_OF_FOUR_DIGITS = 0x7F, 0xFFFF
#: A sentence with a longer name is not read to its end.
_NAME_LETTERS = 200
#: Characters that a terminal obeys, that it does not show, or that reorder what it shows: C0, C1, line ends, bytes that
#: are not UTF-8, and Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt, 17.0) with the annotations.
#: Tags (U+E0000) and variation selectors can spell out whole sentences that only a program reads.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
#: It asks for the coloured form of the sign before it, as most emoji have it.
_EMOJI_FORM = "\ufe0f"


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


def printable(path: str) -> str:
    r"""Return a path that is safe on one line of a terminal.

    Control characters, line ends, invisible and direction-changing characters and bytes that are not UTF-8 are
    written as escapes, and so is the backslash: two paths never look the same because of an escape.
    """
    if path.isprintable() and "\\" not in path:
        return path
    return "".join(_shown(letter) for letter in path)


def named(text: str) -> str:
    """Return a name as a sentence can have it: as `printable` shows it, and cut in the middle over 200 letters."""
    # First, so that a name of a megabyte costs nothing.
    return cut(printable(cut(text)))


def cut(text: str, letters: int = _NAME_LETTERS) -> str:
    """Return a text of so many letters at most, with an ellipsis in its middle where some are left out."""
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f"{text[: letters - 1 - tail]}…{text[len(text) - tail :]}"


def visible(text: str, *, keep: str = "") -> str:
    r"""Return a text in which nothing hides: what a terminal obeys, leaves out or reorders is written as an escape.

    Right-to-left overrides, zero-width characters, tags, variation selectors and control characters become `\u202e` and
    the like; the characters of `keep` stay, and so do backslashes, so this is for reading and not for reading back.
    """
    return _HIDDEN.sub(lambda found: _revealed(text, found.start(), keep), text)


def _revealed(text: str, at: int, keep: str) -> str:
    letter = text[at]
    if letter in keep:
        return letter
    if letter == _EMOJI_FORM and at > 0 and unicodedata.category(text[at - 1]) == "So":
        return letter
    return _shown(letter)


def _shown(letter: str) -> str:
    if letter in _SHORT:
        return _SHORT[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    if _LOWEST_BYTE <= code <= _HIGHEST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    if code <= _LAST_ASCII:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _LAST_OF_FOUR_DIGITS else f"\\U{code:08x}"


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
    return text
