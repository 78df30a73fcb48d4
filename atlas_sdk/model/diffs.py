"""Differences between two contents, line by line."""

from collections.abc import Iterator

from atlas_sdk.files import printable
from atlas_sdk.model.line_matching import LineMatcher
from atlas_sdk.model.memory import FileDiff

__all__ = ["compare"]

_NO_NEWLINE = "\n\\ No newline at end of file\n"


def _lines(content: bytes | None) -> list[str] | None:
    """Split a content into lines with newlines; return None for a binary content. Keep invalid UTF-8 as surrogates."""
    if content is None:
        return []
    if b"\0" in content:
        return None
    *full, rest = content.decode("utf-8", "surrogateescape").split("\n")
    return [line + "\n" for line in full] + ([rest] if rest else [])


def _span(first: int, last: int) -> str:
    """Return a range of lines in the unified format, counted from 1. An empty range has the line before it, or 0."""
    count = last - first
    start = first + 1 if count else first
    return str(start) if count == 1 else f"{start},{count}"


def _hunks(old: list[str], new: list[str], context_lines: int) -> Iterator[str]:
    for group in LineMatcher(old, new).get_grouped_opcodes(context_lines):
        yield f"@@ -{_span(group[0][1], group[-1][2])} +{_span(group[0][3], group[-1][4])} @@\n"
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                yield from (" " + line for line in old[old_from:old_to])
                continue
            yield from ("-" + line for line in old[old_from:old_to])
            yield from ("+" + line for line in new[new_from:new_to])


def compare(path: str, before: bytes | None, after: bytes | None, *, context_lines: int = 3) -> FileDiff:
    """Compare two contents of a file; None stands for a file that did not exist."""
    if before == after:
        return FileDiff(path=path, change="same")
    change = "added" if before is None else "removed" if after is None else "changed"
    old, new = _lines(before), _lines(after)
    if old is None or new is None:
        return FileDiff(path=path, change=change)
    name = printable(path)
    names = ("/dev/null" if before is None else f"a/{name}", "/dev/null" if after is None else f"b/{name}")
    body = list(_hunks(old, new, context_lines))
    text = [f"--- {names[0]}\n", f"+++ {names[1]}\n", *body] if body else []
    return FileDiff(
        path=path,
        change=change,
        added_lines=sum(line.startswith("+") for line in body),
        removed_lines=sum(line.startswith("-") for line in body),
        text="".join(line if line.endswith("\n") else line + _NO_NEWLINE for line in text),
    )
