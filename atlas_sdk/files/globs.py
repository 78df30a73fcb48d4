"""Match globs against the paths of a project, with one automaton that reads a path part by part.

`*` and `?` match within one part of a path. `**` matches any number of folders, including none. `[abc]` and `[!abc]`
match one character. Matching is case-sensitive, and a leading dot is a character like any other. `**` does not match
the folders in `_NEVER_ENTERED`; only a glob that names such a folder matches it.

The state of a set is one integer with a bit for every part of every glob. The bit of a part is set if all earlier parts
of the glob have matched. Each part of a path shifts all bits in one step, so time and memory grow only with the length
of the globs and the path (Baeza-Yates and Gonnet, "A new approach to text searching", with parts in place of letters).
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, Literal

from attrs import define, field

from atlas_sdk.errors import InvalidInput
from atlas_sdk.text import quoted

__all__ = ["Excluded", "Globs", "Leads", "RankedGlobs", "check_globs", "parts_of"]

#: The way in which a folder can lead to selected files. "near": the folder is below the fixed prefix of a glob, such as
#: `.claude/rules`. "far": only globs without a fixed prefix, such as `**/CLAUDE.md`, can match below the folder.
Leads = Literal["near", "far"]

_Matches = Callable[[str], re.Match[str] | None]

#: Folders that `**` does not match, because they contain thousands of folders without memory files.
_NEVER_ENTERED: Final = frozenset({".git", "node_modules", ".venv", "__pycache__"})
#: The number of compiled sets to cache; nearly all projects of a daemon share one set.
_KEPT_SETS = 64

# The limits of one list of globs. A list that reaches all limits takes 20 ms and 2 MB to compile, and at worst 40 ms to
# match a path of 4,096 bytes (test_globs_at_their_limits_cost_little). The presets together have 125 globs and 9
# patterns.
_MOST_GLOBS: Final = 256
_MOST_CHARACTERS: Final = 8_192
_MOST_PARTS: Final = 32
_MOST_PATTERNS: Final = 32
_MOST_PATTERN_CHARACTERS: Final = 64
#: The most names and patterns in all cached states of a set together.
_MOST_KEPT: Final = 4_096


_Patterns = tuple[tuple[int, str, _Matches], ...]
#: The transitions of a state for the next part of a path: the bits after a part that equals a name; the bits that a
#: matching pattern adds; the bits after any other part; and the bits that stay because `**` matches the part. Patterns
#: with an ending, such as `*.md`, come second, after a tuple of all these endings: one comparison rules them all out.
_State = tuple[dict[str, int], _Patterns, tuple[str, ...], _Patterns, int, int]


@define(kw_only=True, eq=False)
class _Automaton:
    """The bits of a set of globs. Bit n of a glob is set if its first n parts have matched; `**` does not count."""

    #: The first bit of every glob.
    start: int
    #: The last bit of every glob, which is set if the glob matches.
    accept: int
    #: The bits of globs that begin without a wildcard.
    fixed: int
    #: The bits that stay set because `**` matches a part of a path.
    loops: int
    #: The bits before a part `*`; every part of a path shifts these bits.
    any: int
    #: The bits that a part of a path shifts if it equals a name (`names`) or matches a pattern (`patterns`).
    names: dict[str, int]
    patterns: tuple[tuple[int, str, _Matches], ...]
    #: The names of folders that `**` does not match.
    barred: frozenset[str]
    #: A bounded cache of states. Nearly all paths lead to the same few states.
    _states: dict[int, _State] = field(factory=dict, repr=False)
    #: The results for the last path and the last folder. Callers ask twice for each path, and they ask for the files of
    #: one folder one after the other.
    _last_path: tuple[str, int] = field(default=("", 0), repr=False)
    _last_folder: tuple[str, _State] | None = field(default=None, repr=False)

    def after(self, path: str) -> int:
        """Return the bits that are set after the last part of a path."""
        known = self._last_path
        if known[0] is path:
            return known[1]
        folder, _, name = path.rpartition("/")
        last = self._last_folder
        if last is None or last[0] != folder:
            last = self._last_folder = (folder, self._enter(folder))
        names, patterns, endings, ended, always, stay = last[1]
        # Repeat the code of `_step`, because a call of `_step` would double the time.
        bits = names.get(name, always)
        for moved, _, matches in patterns:
            if matches(name):
                bits |= moved
        if name.endswith(endings):
            for moved, ending, matches in ended:
                if name.endswith(ending) and matches(name):
                    bits |= moved
        if stay and name not in self.barred:
            bits |= stay
        self._last_path = (path, bits)
        return bits

    def _step(self, state: _State, part: str) -> int:
        names, patterns, endings, ended, always, stay = state
        bits = names.get(part, always)
        for moved, _, matches in patterns:
            if matches(part):
                bits |= moved
        if part.endswith(endings):
            for moved, ending, matches in ended:
                if part.endswith(ending) and matches(part):
                    bits |= moved
        return bits | stay if stay and part not in self.barred else bits

    def _enter(self, folder: str) -> _State:
        bits = self.start
        for part in folder.split("/") if folder else ():
            bits = self._step(self._states.get(bits) or self._state(bits, part), part)
        return self._states.get(bits) or self._state(bits)

    def _state(self, bits: int, part: str | None = None) -> _State:
        """Return and cache the transitions for every part; if the cache is full, return those for `part` only."""
        always = (bits & self.any) << 1
        names = self.names
        keep = len(self._states) * (1 + len(names) + len(self.patterns)) < _MOST_KEPT
        if part is not None and not keep:
            names = {part: names.get(part, 0)}
        patterns = [
            (moved << 1, ending, matches) for before, ending, matches in self.patterns if (moved := before & bits)
        ]
        ended = tuple(pattern for pattern in patterns if pattern[1])
        state = (
            {name: moved << 1 | always for name, before in names.items() if (moved := before & bits)},
            tuple(pattern for pattern in patterns if not pattern[1]),
            tuple(ending for _, ending, _ in ended),
            ended,
            always,
            bits & self.loops,
        )
        if keep:
            self._states[bits] = state
        return state


@define(kw_only=True, eq=False)
class Globs(_Automaton):
    """A set of globs that selects files, and knows which folders lead to them."""

    @classmethod
    def of(cls, globs: tuple[str, ...]) -> "Globs":
        """Compile globs. Raises `InvalidInput` for a glob that cannot match a path of a project."""
        return _compiled(globs)

    def match(self, path: str) -> bool:
        """Return True if the set selects this file."""
        return self.after(path) & self.accept != 0

    def leads(self, folder: str) -> Leads | None:
        """Return how a folder can lead to selected files; None if it cannot."""
        bits = self.after(folder)
        if bits:
            bits &= ~self.accept
            if bits:
                return "near" if bits & self.fixed else "far"
        return None


@define(kw_only=True, eq=False)
class Excluded(_Automaton):
    """A set of globs that excludes files. A glob that matches a folder excludes everything in it."""

    @classmethod
    def of(cls, globs: tuple[str, ...]) -> "Excluded":
        """Compile globs. Raises `InvalidInput` for a glob that cannot match a path of a project."""
        return _compiled_to_exclude(globs)

    def match(self, path: str) -> bool:
        """Return True if this file or folder is excluded."""
        return self.start != 0 and self.after(path) & self.accept != 0


@define(kw_only=True, eq=False)
class RankedGlobs(_Automaton):
    """A list of globs that tells which of them matches: the last one. `**` matches every folder."""

    #: The place in the list of each glob, by the number of its last bit.
    ranks: dict[int, int]

    @classmethod
    def of(cls, globs: tuple[tuple[str, ...], ...]) -> "RankedGlobs":
        """Compile globs that `parts_of` has split."""
        ranks: dict[int, int] = {}
        bit = 0
        for rank, parts in enumerate(globs):
            bit += sum(part != "**" for part in parts)
            ranks[bit] = rank
            bit += 1
        return cls(**_bits(globs), barred=frozenset(), ranks=ranks)

    @staticmethod
    def check(parts: tuple[str, ...]) -> None:
        """Raise `InvalidInput` for a part that is no pattern."""
        for part in parts:
            if _is_magic(part):
                _pattern(part)

    def last(self, path: str) -> int | None:
        """Return the place of the last glob that matches a path; None if none does."""
        matched = self.after(path) & self.accept
        return self.ranks[matched.bit_length() - 1] if matched else None


def check_globs(globs: tuple[str, ...]) -> None:
    """Raise `InvalidInput` for a list that contains an invalid glob, or that exceeds the limits.

    The globs of the presets do not count towards the limits.
    """
    if len(globs) > _MOST_GLOBS:
        raise _wrong(f"there are more than {_MOST_GLOBS} globs; use * and ** for what they have in common")
    if sum(map(len, globs)) > _MOST_CHARACTERS:
        raise _wrong(f"the globs have more than {_MOST_CHARACTERS:,} characters together; use * and **")
    patterns: set[str] = set()
    for glob in globs:
        parts = parts_of(glob)
        if len(parts) > _MOST_PARTS:
            raise _wrong(f"{quoted(glob)} has more than {_MOST_PARTS} parts; use ** for the folders in between")
        patterns.update(part for part in parts if part not in {"*", "**"} and _is_magic(part))
    if len(patterns) > _MOST_PATTERNS:
        raise _wrong(f"there are more than {_MOST_PATTERNS} different names with *, ? or [; use the same one for more")
    for part in patterns:
        if len(part) > _MOST_PATTERN_CHARACTERS:
            raise _wrong(f"{quoted(part)} has more than {_MOST_PATTERN_CHARACTERS} characters; use * for some of them")
        _pattern(part)


def parts_of(glob: str) -> tuple[str, ...]:
    """Split a glob into the parts of a path. Raises `InvalidInput` if the glob is not relative to the project."""
    parts = [part for part in glob.split("/") if part not in {"", "."}]
    if glob.startswith("/") or ".." in parts or "\0" in glob or not parts:
        raise _wrong(f"{quoted(glob)} is not a glob relative to the project")
    if parts[-1] == "**":
        parts.append("*")
    return tuple(part for place, part in enumerate(parts) if part != "**" or parts[place - 1 : place] != ["**"])


@lru_cache(maxsize=_KEPT_SETS)
def _compiled(globs: tuple[str, ...]) -> Globs:
    return Globs(**_bits(map(parts_of, globs)), barred=_NEVER_ENTERED)


@lru_cache(maxsize=_KEPT_SETS)
def _compiled_to_exclude(globs: tuple[str, ...]) -> Excluded:
    bits = _bits(_whole_folder(parts_of(glob)) for glob in globs)
    # Everything in an excluded folder is excluded.
    bits["loops"] |= bits["accept"]
    return Excluded(**bits, barred=frozenset())


def _whole_folder(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return `docs` for `docs/**`, so that the folder itself is excluded too."""
    return parts[:-2] if parts[-2:] == ("**", "*") and len(parts) > len(("**", "*")) else parts


def _bits(split: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """Return the fields of an automaton for globs that are split into parts."""
    start = accept = fixed = loops = 0
    moved: dict[str, int] = {}
    bit = 1
    for parts in split:
        first = bit
        start |= bit
        for part in parts:
            if part == "**":
                loops |= bit
            else:
                moved[part] = moved.get(part, 0) | bit
                bit <<= 1
        if not _is_magic(parts[0]):
            fixed |= bit - first
        accept |= bit
        bit <<= 1
    return {
        "start": start,
        "accept": accept,
        "fixed": fixed,
        "loops": loops,
        "any": moved.pop("*", 0),
        "names": {part: bits for part, bits in moved.items() if not _is_magic(part)},
        "patterns": tuple((bits, _ending(part), _pattern(part)) for part, bits in moved.items() if _is_magic(part)),
    }


def _is_magic(part: str) -> bool:
    return any(letter in part for letter in "*?[")


def _ending(part: str) -> str:
    """Return the text after the last wildcard of a part.

    Every name that matches the part ends with this text. Comparing the end before matching the pattern saves time.
    """
    return re.split(r"[*?\]]", part)[-1]


@lru_cache(maxsize=_KEPT_SETS * 8)
def _pattern(part: str) -> _Matches:
    r"""Return a function that matches a name against a part of a glob.

    The function matches each text between two `*` at its first occurrence, without backtracking (`(?>…)`), so that no
    input can make matching slow. The standard library's `fnmatch` does the same.
    """
    chunks = [""]
    place = 0
    while place < len(part):
        letter = part[place]
        place += 1
        if letter == "*":
            chunks.append("")
        elif letter == "?":
            chunks[-1] += "."
        elif letter == "[" and (end := part.find("]", place + 2 if part[place : place + 1] == "!" else place + 1)) > 0:
            chunks[-1] += _letters(part[place:end], part=part)
            place = end + 1
        else:
            chunks[-1] += re.escape(letter)
    head, *rest = chunks
    if rest:
        *middle, tail = rest
        head += "".join(f"(?>.*?{chunk})" for chunk in middle if chunk) + f".*{tail}"
    return re.compile(head, re.DOTALL).fullmatch


def _letters(inside: str, *, part: str) -> str:
    negated = inside.startswith("!")
    letters = re.sub(r"([\[\]\\^&~|])", r"\\\1", inside.removeprefix("!"))
    pattern = f"[{'^' if negated else ''}{letters}]"
    try:
        re.compile(pattern)
    except re.error as exc:
        raise _wrong(f"{quoted(part)} is not a glob: {quoted(f'[{inside}]')} is not a set of letters") from exc
    return pattern


def _wrong(what: str) -> InvalidInput:
    return InvalidInput(what, field="glob")
