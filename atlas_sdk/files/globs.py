"""Globs over the paths of a project, compiled so that a walk enters only the folders that can hold a match.

`*` and `?` stay within one part of a path, `**` stands for any number of folders (none, too), `[abc]` and `[!abc]` for
one letter. Letters count as they are, upper and lower case differ, and a leading dot is a letter like others. `**`
never goes into the folders of `NEVER_ENTERED`; a glob that names one goes there.
"""

import re
from functools import lru_cache

from attrs import frozen

from atlas_sdk.errors import InvalidInput

__all__ = ["NEVER_ENTERED", "Excluded", "Globs", "parts_of"]

#: Thousands of folders that hold nobody's memory.
NEVER_ENTERED = (".git", "node_modules", ".venv", "__pycache__")
_ANY = r"[^/]+"
_STEP = rf"(?!(?:{'|'.join(map(re.escape, NEVER_ENTERED))})(?:/|\Z)){_ANY}"
_NOTHING = re.compile(r"(?!)")
#: A daemon has one set of globs for nearly all of its projects, and compiling one takes milliseconds.
_KEPT_SETS = 64


@frozen(kw_only=True)
class Globs:
    """A set of globs: which files it wants, and which folders lead to them."""

    files: re.Pattern[str]
    #: Folders below a fixed prefix, such as `.claude/rules`.
    near: re.Pattern[str]
    #: Folders that only a glob without a fixed prefix leads to: `**/CLAUDE.md` has to look everywhere.
    far: re.Pattern[str]

    @classmethod
    def of(cls, globs: tuple[str, ...]) -> "Globs":
        """Compile; `InvalidInput` for a glob that cannot match a path of a project."""
        return _compiled(globs)

    def match(self, path: str) -> bool:
        """Tell whether the set wants this file."""
        return self.files.fullmatch(path) is not None


@frozen(kw_only=True)
class Excluded:
    """A set of globs that take away: one that matches a folder takes everything in it."""

    pattern: re.Pattern[str]

    @classmethod
    def of(cls, globs: tuple[str, ...]) -> "Excluded":
        """Compile; `InvalidInput` for a glob that cannot match a path of a project."""
        return _compiled_to_exclude(globs)

    def match(self, path: str) -> bool:
        """Tell whether this file or folder is taken away."""
        return self.pattern.fullmatch(path) is not None


def parts_of(glob: str) -> tuple[str, ...]:
    """Split a glob into the parts of a path; `InvalidInput` when it is not relative to the project."""
    parts = [part for part in glob.split("/") if part not in {"", "."}]
    if glob.startswith("/") or ".." in parts or "\0" in glob or not parts:
        raise InvalidInput(f"{glob!r} is not a glob relative to the project", field="glob")
    if parts[-1] == "**":
        parts.append("*")
    return tuple(part for place, part in enumerate(parts) if part != "**" or parts[place - 1 : place] != ["**"])


@lru_cache(maxsize=_KEPT_SETS)
def _compiled(globs: tuple[str, ...]) -> Globs:
    files: list[str] = []
    near: list[str] = []
    far: list[str] = []
    for glob in globs:
        parts = parts_of(glob)
        files.append(_path(parts, step=_STEP, glob=glob))
        folders = far if len(parts) > 1 and _is_magic(parts[0]) else near
        folders.extend(_path(parts[:count], step=_STEP, glob=glob) for count in range(1, len(parts)))
    return Globs(files=_any_of(files), near=_any_of(near), far=_any_of(far))


@lru_cache(maxsize=_KEPT_SETS)
def _compiled_to_exclude(globs: tuple[str, ...]) -> Excluded:
    patterns = []
    for glob in globs:
        parts = parts_of(glob)
        if parts[-2:] == ("**", "*") and len(parts) > len(("**", "*")):
            parts = parts[:-2]
        patterns.append(f"{_path(parts, step=_ANY, glob=glob)}(?:/.*)?")
    return Excluded(pattern=_any_of(patterns))


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(dict.fromkeys(patterns)), re.DOTALL) if patterns else _NOTHING


def _is_magic(part: str) -> bool:
    return any(letter in part for letter in "*?[")


def _path(parts: tuple[str, ...], *, step: str, glob: str) -> str:
    r"""Return the pattern of a path; `**` at the end stands for one folder or more.

    What stands between two `**` is matched as early as possible and never again, `(?>…)`, so that no glob and no path
    can make matching slow. The same inside a part, as in the standard library's `fnmatch`.
    """
    groups: list[list[str]] = [[]]
    for part in parts:
        if part == "**":
            groups.append([])
        else:
            groups[-1].append(_part(part, glob=glob))
    first, *others = groups
    if not others:
        return "/".join(first)
    *middle, last = others
    pattern = "".join(f"{part}/" for part in first)
    pattern += "".join(f"(?>(?:{step}/)*?{''.join(f'{part}/' for part in group)})" for group in middle)
    return pattern + f"(?:{step}/)*" + ("/".join(last) if last else step)


def _part(part: str, *, glob: str) -> str:
    chunks = [""]
    place = 0
    while place < len(part):
        letter = part[place]
        place += 1
        if letter == "*":
            chunks.append("")
        elif letter == "?":
            chunks[-1] += "[^/]"
        elif letter == "[" and (end := part.find("]", place + 2 if part[place : place + 1] == "!" else place + 1)) > 0:
            chunks[-1] += _letters(part[place:end], glob=glob)
            place = end + 1
        else:
            chunks[-1] += re.escape(letter)
    head, *rest = chunks
    if not rest:
        return head
    *middle, tail = rest
    return head + "".join(f"(?>[^/]*?{chunk})" for chunk in middle if chunk) + f"[^/]*{tail}"


def _letters(inside: str, *, glob: str) -> str:
    negated = inside.startswith("!")
    letters = re.sub(r"([\[\]\\^&~|])", r"\\\1", inside.removeprefix("!"))
    pattern = f"(?!/)[{'^' if negated else ''}{letters}]"
    try:
        re.compile(pattern)
    except re.error as exc:
        raise InvalidInput(f"{glob!r} is not a glob: [{inside}] is not a set of letters", field="glob") from exc
    return pattern
