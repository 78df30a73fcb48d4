"""Follow `@path` imports: what an instruction file pulls in is part of the instructions.

The rules are Claude Code's (code.claude.com/docs: memory): a path after `@`, relative to the file that says it, five
files deep, not in code. Paths that leave the project, `@~/…` among them, are left alone; so is an `@` that leads to no
file, which spares mail addresses, decorators and package scopes.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from atlas_sdk.errors import FileProblem, InvalidInput
from atlas_sdk.files.capture import read_file, signature
from atlas_sdk.files.confined import locate
from atlas_sdk.files.paths import relative_path
from atlas_sdk.files.root import Root, hold

__all__ = ["MOST_DEPTH", "follow", "mentions"]

#: "a maximum depth of five hops".
MOST_DEPTH = 5
#: Prose and small data. No source code: an import of it is a pointer, not memory. Nor `.env`: it holds secrets.
_TEXT = {
    ".md",
    ".markdown",
    ".mdc",
    ".mdx",
    ".txt",
    ".text",
    ".rst",
    ".adoc",
    ".org",
    ".json",
    ".toml",
    ".yaml",
    ".yml",
}
_MENTION = re.compile(r"""(?:^|(?<=[\s("'\[]))@((?:\\[ ]|[^\s\\`])+)""")
_AFTERWARDS = ".,;:!?)]}\"'*_"
_FENCE = re.compile(r"[ \t>]*(?P<marks>`{3,}|~{3,})(?P<rest>.*)")
_BLANK = re.compile(r"\n[ \t]*\n")
_TICKS = re.compile(r"`+")


def follow(
    root: Path | Root, paths: Iterable[str], *, limit_bytes: int, allows: Callable[[str], bool] = lambda _: True
) -> list[str]:
    """Return the files that `paths` import, directly or through others, sorted and without `paths` themselves.

    Only regular files inside the project, of at most `limit_bytes`, with the ending of a text or none, and which
    `allows` lets through. What cannot be read is not followed; whoever captures it will say so.
    """
    start = list(paths)
    seen = set(start)
    level = start
    with hold(root) as held:
        for _ in range(MOST_DEPTH):
            level = sorted({found for path in level for found in _imports(held, path, limit_bytes=limit_bytes)} - seen)
            level = [path for path in level if allows(path)]
            seen.update(level)
    return sorted(seen.difference(start))


def mentions(text: str) -> list[str]:
    r"""Return what stands after each `@` outside code spans and fenced blocks, in order; `\ ` is a space."""
    return [found[1].replace("\\ ", " ") for prose in _prose(text) for found in _MENTION.finditer(prose)]


def _imports(root: Root, path: str, *, limit_bytes: int) -> Iterator[str]:
    try:
        state = read_file(root, path, limit_bytes=limit_bytes)
    except (FileProblem, InvalidInput):
        return
    # A NUL is no text (git has the same test), and imported binary files are not followed.
    if state is None or state.content is None or b"@" not in state.content or b"\0" in state.content:
        return
    for mention in dict.fromkeys(mentions(os.fsdecode(state.content))):
        found = _resolved(root, mention, beside=path, limit_bytes=limit_bytes)
        if found is not None:
            yield found


def _resolved(root: Root, mention: str, *, beside: str, limit_bytes: int) -> str | None:
    folder = beside.rpartition("/")[0]
    # Punctuation may belong to the sentence or to the name: the file system decides.
    for name in dict.fromkeys((mention, mention.partition("#")[0], mention.rstrip(_AFTERWARDS))):
        if not name or name.startswith("~") or not _is_text(name):
            continue
        try:
            path = relative_path(root.path, name if name.startswith("/") or not folder else f"{folder}/{name}")
            with locate(root, path, follow=False) as place:
                # A folder on the way may be a symlink inside the project: the file has one name, the real one.
                real = place.path
            found = None if ".git" in real.split("/") else signature(root, real)
        except (FileProblem, InvalidInput, OSError):
            continue
        if found is not None and found.size <= limit_bytes:
            return real
    return None


def _is_text(name: str) -> bool:
    base = name.rpartition("/")[2]
    ending = os.path.splitext(base)[1]  # noqa: PTH122 - a path is text here
    return ending.lower() in _TEXT or (not ending and not base.startswith("."))


def _prose(text: str) -> Iterator[str]:
    """Give the paragraphs without what is code in them."""
    kept: list[str] = []
    fence = ""
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if fence:
            if found and found["marks"].startswith(fence) and not found["rest"].strip():
                fence = ""
        elif found and not (found["marks"][0] == "`" and "`" in found["rest"]):
            fence = found["marks"]
            kept.append("")
        else:
            kept.append(line)
    for paragraph in _BLANK.split("\n".join(kept)):
        yield _without_spans(paragraph)


def _without_spans(paragraph: str) -> str:
    """Cut code spans: from a run of backticks to the next run of the same length (CommonMark 6.1)."""
    runs = list(_TICKS.finditer(paragraph))
    closing: dict[int, int] = {}
    following: list[int | None] = []
    for number in range(len(runs) - 1, -1, -1):
        length = len(runs[number][0])
        following.append(closing.get(length))
        closing[length] = number
    following.reverse()
    pieces: list[str] = []
    start = number = 0
    while number < len(runs):
        end = following[number]
        if end is None:
            number += 1
            continue
        pieces.append(paragraph[start : runs[number].start()])
        start = runs[end].end()
        number = end + 1
    pieces.append(paragraph[start:])
    # Not a space: what stood before a span must not come to stand before the `@` after it.
    return "\ufffd".join(pieces)
