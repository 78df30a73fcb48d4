"""Follow `@path` imports, because an imported file is a part of the instructions.

The rules are those of Claude Code (code.claude.com/docs: memory). An import is a path after an `@` outside of code. The
path is relative to the importing file. A chain of imports has at most five hops. Paths that leave the project, such as
`@~/…`, are ignored. An `@` that leads to no file, such as in mail addresses, decorators and package scopes, is ignored
too.

Looking up a mention costs system calls, and an instruction file may mention anything. So there are limits, far above
what people write. The limits count names and bytes, not time, so two searches of the same files stop at the same place.
The result reports that imports were left out.
"""

import codecs
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from atlas_sdk.errors import FileProblem, InvalidInput
from atlas_sdk.files.paths import printable, relative_path
from atlas_sdk.files.root import Root, hold
from atlas_sdk.files.safe_open import Trace, opened, trace

__all__ = ["MOST_DEPTH", "Imports", "follow", "mentions"]

#: Claude Code allows "a maximum depth of five hops".
MOST_DEPTH = 5
#: The endings of files to import: prose and small data. A mention of source code only points to the code, and `.env`
#: contains secrets.
_TEXT = {
    *(".md", ".markdown", ".mdc", ".mdx", ".txt", ".text", ".rst", ".adoc", ".org"),
    *(".json", ".toml", ".yaml", ".yml"),
}
#: The most files that a project imports; each becomes a tracked file.
_MOST_FILES: Final = 500
#: The most names to look up, for one file and for a project. Every part of a path counts, and a mention has up to three
#: spellings. A lookup takes about 15 µs.
_MOST_NAMES_OF_A_FILE: Final = 2_000
_MOST_NAMES: Final = 8_000
#: The most bytes to search for imports, of one file and of all files of a project. Only files with an `@` count. The
#: slowest text that an attacker can write takes 0.3 s per MiB.
_MOST_TEXT_OF_A_FILE: Final = 2**20
_MOST_TEXT: Final = 2 * 2**20
#: The most bytes to read in search of an `@`. Each file counts as at least 16 KiB, because opening a file takes as long
#: as reading 16 KiB.
_MOST_READ: Final = 64 * 2**20
_LEAST_READ: Final = 16 * 2**10
#: PATH_MAX of Linux; a longer name cannot be opened.
_LONGEST_NAME: Final = 4_096

_MENTION = re.compile(r"""(?:^|(?<=[\s("'\[]))@((?:[^\s\\`]+|\\[ ]){1,512})""")
_AFTERWARDS = ".,;:!?)]}\"'*_"
_FENCE = re.compile(r"^[ \t>]*(?P<marks>`{3,}|~{3,})(?P<rest>.*)$", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*\n")
_TICKS = re.compile(r"(`+)")


@frozen(kw_only=True)
class Imports:
    """The imports of a project's instruction files."""

    #: The imported files, sorted, without the given ones.
    paths: tuple[str, ...]
    #: One sentence with the reason why some imports were left out, and with advice; None if no import was left out.
    left_out: str | None
    #: Each imported file, with the file that imports it.
    by: dict[str, str] = field(factory=dict)
    #: The paths whose change can add or remove an import: of a mention that leads to no file, the first part that is
    #: missing; and the symlinks on the way to any file.
    awaited: frozenset[str] = frozenset()
    #: The `stat` result of every import that exists, and of every symlink the path that it finally leads to.
    stats: Mapping[str, os.stat_result] = field(factory=dict, eq=False, repr=False)
    targets: Mapping[str, str] = field(factory=dict)


def follow(
    root: Path | Root,
    paths: Iterable[str],
    *,
    limit_bytes: int,
    allows: Callable[[str], bool] = lambda _: True,
    allows_target: Callable[[str], bool] = lambda _: True,
) -> Imports:
    """Find the files that `paths` import, directly or through other imported files.

    The result contains regular files inside the project that have at most `limit_bytes`, that have the ending of a text
    file or no ending, and that `allows` accepts. `allows_target` decides about the file that a symlink leads to,
    because the name of a symlink says nothing about the content. A file that cannot be read is not followed; its
    capture reports the problem. No content of a file raises an error.
    """
    with hold(root) as held:
        search = _Search(held, limit_bytes)

        def takes(path: str) -> bool:
            return allows(path) and (path not in search.targets or allows_target(search.targets[path]))

        return _follow(search, paths, takes)


def _follow(search: "_Search", paths: Iterable[str], allows: Callable[[str], bool]) -> Imports:
    start = sorted(paths)
    seen = set(start)
    level = start
    imported = 0
    importers: dict[str, str] = {}
    for _ in range(MOST_DEPTH):
        by: dict[str, str] = {}
        for path in level:
            for found in search.imports(path):
                by.setdefault(found, path)
        level = [path for path in sorted(by.keys() - seen) if allows(path)]
        if imported + len(level) > _MOST_FILES:
            level = level[: _MOST_FILES - imported]
            first = by[level[-1]] if level else next(iter(by.values()))
            search.leave_out(first, f"the project imports more than {_MOST_FILES:,} files", "name fewer")
        imported += len(level)
        seen.update(level)
        importers.update((path, by[path]) for path in level)
    return Imports(
        paths=tuple(sorted(seen.difference(start))),
        left_out=search.left_out,
        awaited=frozenset(path for path in search.awaited if path and allows(path)),
        stats=search.stats,
        targets=search.targets,
        by=importers,
    )


def mentions(text: str) -> Iterator[str]:
    r"""Yield the text after each `@` outside of code spans and fenced blocks, in order; `\ ` means a space."""
    for prose in _prose(text):
        for found in _MENTION.finditer(prose):
            yield found[1].replace("\\ ", " ")


@define
class _Search:
    """One search through the files of a project, with its remaining budget."""

    #: The open folder of the project.
    root: Root
    limit_bytes: int
    #: The budget that is left: names to look up, bytes to search for imports, and bytes to read in search of an `@`.
    names: int = field(factory=lambda: _MOST_NAMES)
    text: int = field(factory=lambda: _MOST_TEXT)
    read: int = field(factory=lambda: _MOST_READ)
    left_out: str | None = None
    awaited: set[str] = field(factory=set)
    stats: dict[str, os.stat_result] = field(factory=dict)
    targets: dict[str, str] = field(factory=dict)
    #: The result of every lookup, by name.
    _found: dict[str, str | None] = field(factory=dict)

    def leave_out(self, path: str, what: str, advice: str) -> None:
        """Record the reason why some imports of a file are not followed; only the first reason is kept."""
        if self.left_out is None:
            self.left_out = f"{printable(path)}: {what}, so its other @imports are not followed: {advice}"

    def imports(self, path: str) -> Iterator[str]:
        content = self._content(path)
        if content is None:
            return
        folder = path.rpartition("/")[0]
        left = _MOST_NAMES_OF_A_FILE
        seen: set[str] = set()
        for mention in mentions(os.fsdecode(content)):
            if mention in seen or len(mention) > _LONGEST_NAME:
                continue
            seen.add(mention)
            for name in _spellings(mention, folder):
                if name not in self._found:
                    cost = 1 + name.count("/")
                    if cost > left:
                        self._too_many_names(path, _MOST_NAMES_OF_A_FILE, "it mentions")
                        return
                    if cost > self.names:
                        self._too_many_names(path, _MOST_NAMES, "the project mentions")
                        return
                    left -= cost
                    self.names -= cost
                    self._found[name] = self._resolved(name)
                found = self._found[name]
                if found is not None:
                    yield found
                    break

    def _content(self, path: str) -> bytes | None:
        """Return the content of a file with an `@`; None if there is no `@`, no readable text, or no budget left."""
        try:
            with opened(self.root, path) as (descriptor, _):
                size = os.fstat(descriptor).st_size
                if size > self.limit_bytes:
                    return None
                self.read -= max(size, _LEAST_READ)
                if self.read < 0:
                    self.leave_out(path, "the files to search for imports are too many or too large", "exclude some")
                    return None
                content = _read(descriptor, size)
        except (FileProblem, InvalidInput, OSError):
            return None
        # A file with a NUL is binary (git uses the same test), and binary files have no imports.
        if b"@" not in content or b"\0" in content:
            return None
        if len(content) > _MOST_TEXT_OF_A_FILE:
            self.leave_out(path, f"it has more than {_MOST_TEXT_OF_A_FILE:,} bytes", "split it, or exclude it")
            return None
        if len(content) > self.text:
            self.leave_out(path, f"there are more than {_MOST_TEXT:,} bytes of text with @", "split or exclude some")
            return None
        self.text -= len(content)
        # Some editors begin a file with a byte order mark, which is no part of the text.
        return content.removeprefix(codecs.BOM_UTF8)

    def _too_many_names(self, path: str, most: int, who: str) -> None:
        advice = "write in backticks what is no import, or exclude the file"
        self.leave_out(path, f"{who} more than {most:,} names with @, folders counted", advice)

    def _resolved(self, name: str) -> str | None:
        """Return the path, relative to the project, of the file that a name leads to; None if there is none."""
        try:
            # Resolve symlinked folders inside the project, so that a file has one path only.
            way = trace(self.root, relative_path(self.root.path, name), follow=False)
            real = way.path
            end = trace(self.root, real) if _is_link(way) else way
        except (FileProblem, InvalidInput):
            return None
        if ".git" in real.split("/"):
            return None
        self.awaited.update(way.links, end.links)
        found = end.found
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > self.limit_bytes:
            self.awaited.add(end.path)
            return None
        self.stats[real] = found
        if end is not way:
            self.targets[real] = end.path
        return real


def _is_link(way: Trace) -> bool:
    return way.found is not None and stat.S_ISLNK(way.found.st_mode)


def _read(descriptor: int, size: int) -> bytes:
    """Read an open file up to `size` bytes. A writer that changes the file meanwhile causes another search."""
    blocks = []
    while size > 0 and (block := os.read(descriptor, size)):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _spellings(mention: str, folder: str) -> Iterator[str]:
    """Yield the possible paths of a mention. Punctuation at its end may belong to the sentence or to the name."""
    for name in dict.fromkeys((mention, mention.partition("#")[0], mention.rstrip(_AFTERWARDS))):
        if name and not name.startswith("~") and _is_text(name):
            yield name if name.startswith("/") or not folder else f"{folder}/{name}"


def _is_text(name: str) -> bool:
    base = name.rpartition("/")[2]
    ending = os.path.splitext(base)[1]  # noqa: PTH122 - a path is text here
    return ending.lower() in _TEXT or (not ending and not base.startswith("."))


def _prose(text: str) -> Iterator[str]:
    """Yield the text around every `@`, without code. A code span never extends beyond its paragraph."""
    for outside in _outside_fences(text):
        if "@" not in outside:
            continue
        if "`" in outside:
            paragraphs = (paragraph for paragraph in _BLANK.split(outside) if "@" in paragraph)
            yield "\n\n".join(_without_spans(one) if "`" in one else one for one in paragraphs)
        else:
            yield outside


def _outside_fences(text: str) -> Iterator[str]:
    fence = ""
    start = 0
    for found in _FENCE.finditer(text):
        marks, rest = found["marks"], found["rest"]
        if not fence:
            if marks[0] == "~" or "`" not in rest:
                fence = marks
                yield text[start : found.start()]
        elif marks.startswith(fence) and not rest.strip():
            fence = ""
            start = found.end()
    if not fence:
        yield text[start:]


def _without_spans(paragraph: str) -> str:
    """Remove code spans: each goes from a run of backticks to the next run of the same length (CommonMark 6.1)."""
    if "``" not in paragraph:
        parts = paragraph.split("`")
        if len(parts) % 2:
            return "\ufffd".join(parts[::2])
        return "\ufffd".join(parts[:-1:2]) + "`" + parts[-1]
    # In `parts`, text and runs of backticks alternate.
    parts = _TICKS.split(paragraph)
    last = {ticks: place for place, ticks in enumerate(parts) if place % 2}
    pieces: list[str] = []
    start, opened = 0, ""
    for place in range(1, len(parts), 2):
        ticks = parts[place]
        if opened:
            if ticks == opened:
                start, opened = place + 1, ""
        elif last[ticks] > place:
            pieces.append("".join(parts[start:place]))
            opened = ticks
    pieces.append("".join(parts[start:]))
    # Do not join with a space: it would make an `@` after a code span look like the start of a mention.
    return "\ufffd".join(pieces)
