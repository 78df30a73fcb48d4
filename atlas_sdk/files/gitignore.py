"""Read the rules by which git ignores folders (gitignore(5)), without git.

Running git is no choice: git runs programs that an untrusted repository names (`core.fsmonitor`), and refuses a
repository of another user. A general library matches one regular expression after the other, and a hostile pattern
makes it slow. So the rules of one file are a set of globs, matched by the automaton of `globs` in time that grows only
with the length of the rules and of the path. The last rule that matches decides, as in git.

Only folders are looked up. A rule that this module cannot express (a class such as `[[:alpha:]]`) ignores nothing: then
a folder is searched in vain, but no memory file is missed.
"""

import os
import stat
from typing import Final

from attrs import frozen

from atlas_sdk.errors import InvalidInput
from atlas_sdk.files.globs import RankedGlobs, parts_of

__all__ = ["Ignore", "Rule", "decide", "parse_rules", "read_rules"]

#: The most bytes of one file, the most rules, the most characters of one rule, and of all names with wildcards, which
#: take 15 µs a character to compile. The longest file of GitHub's templates has 8 KiB and 270 rules, with 1,500
#: characters in names with wildcards. Rules beyond a limit ignore nothing.
_LIMIT_BYTES: Final = 256 * 2**10
_MOST_RULES: Final = 1_000
_MOST_CHARACTERS: Final = 512
_MOST_PATTERN_CHARACTERS: Final = 4_096
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_BOM = b"\xef\xbb\xbf"


@frozen
class Rule:
    """One line of a file of rules."""

    text: str
    line: int
    #: True for a line that begins with `!`: what it matches is not ignored.
    negated: bool = False


@frozen
class Ignore:
    """The rules of one file, for the folders below `base`."""

    #: The path of the file in the project, and of the folder that its rules are relative to.
    file: str
    base: str
    rules: tuple[Rule, ...]
    globs: RankedGlobs

    def find(self, folder: str) -> Rule | None:
        """Return the last rule that matches a folder, given by its path in the project; None if no rule does."""
        rank = self.globs.last(folder[len(self.base) + 1 :] if self.base else folder)
        return None if rank is None else self.rules[rank]


def decide(ignores: tuple[Ignore, ...], folder: str) -> tuple[Ignore, Rule] | None:
    """Return the rule that makes git ignore a folder, with its file; None if git does not ignore the folder.

    `ignores` are the files that apply in the folder's parent, the outermost first. The innermost file with a matching
    rule decides.
    """
    for ignore in reversed(ignores):
        rule = ignore.find(folder)
        if rule is not None:
            return None if rule.negated else (ignore, rule)
    return None


def read_rules(folder: int, name: str, *, file: str, base: str) -> Ignore | None:
    """Read a file of rules in an open folder; None if it is missing, has no rules, or is no regular file.

    Like git, the call does not follow a symlink.
    """
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = os.read(descriptor, _LIMIT_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return parse_rules(content, file=file, base=base)


def parse_rules(content: bytes, *, file: str, base: str) -> Ignore | None:
    """Return the rules in the content of a file; None if there are none."""
    rules: list[Rule] = []
    globs: list[tuple[str, ...]] = []
    left = _MOST_PATTERN_CHARACTERS
    for number, raw in enumerate(content.removeprefix(_BOM).split(b"\n"), start=1):
        line = _without_trailing_spaces(os.fsdecode(raw.removesuffix(b"\r")))
        negated = line.startswith("!")
        glob = _glob_of(line[1:] if negated else line)
        if glob is None:
            continue
        left -= sum(len(part) for part in glob if part not in {"*", "**"} and set(part) & set("*?["))
        if left < 0 or len(rules) == _MOST_RULES or not _is_usable(glob):
            continue
        rules.append(Rule(line, number, negated))
        globs.append(glob)
    return Ignore(file, base, tuple(rules), RankedGlobs.of(tuple(globs))) if rules else None


def _without_trailing_spaces(line: str) -> str:
    short = line.rstrip(" ")
    return short + " " if short.endswith("\\") and short != line else short


def _glob_of(pattern: str) -> tuple[str, ...] | None:
    """Return the parts of a glob that matches the same folders as a pattern; None for an empty or unusable pattern."""
    if not pattern or pattern.startswith("#") or len(pattern) > _MOST_CHARACTERS:
        return None
    body = pattern.rstrip("/")
    anchored = "/" in body
    parts = [_part_of(part) for part in body.strip("/").split("/")]
    if not anchored:
        parts.insert(0, "**")
    if None in parts or not body:
        return None
    try:
        return parts_of("/".join(part for part in parts if part is not None))
    except InvalidInput:
        return None


def _is_usable(glob: tuple[str, ...]) -> bool:
    try:
        RankedGlobs.check(glob)
    except InvalidInput:
        return False
    return True


def _part_of(part: str) -> str | None:
    r"""Translate one part of a pattern: `\x` means the character x, and `[^a]` is `[!a]`."""
    out: list[str] = []
    place = 0
    while place < len(part):
        letter = part[place]
        place += 1
        if letter == "\\":
            if place == len(part):
                return None
            out.append(f"[{part[place]}]" if part[place] in "*?[" else part[place])
            place += 1
        elif letter == "[":
            end = part.find("]", place + (2 if part[place : place + 1] in {"!", "^"} else 1))
            inside = part[place:end]
            if end < 0 or "[" in inside or "\\" in inside:
                return None
            out.append(f"[!{inside[1:]}]" if inside.startswith("^") else f"[{inside}]")
            place = end + 1
        else:
            out.append(letter)
    return "".join(out)
