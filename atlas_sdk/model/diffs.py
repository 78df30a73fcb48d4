"""Differences between two contents, line by line."""

from patiencediff import PatienceSequenceMatcher, unified_diff

from atlas_sdk.files import printable
from atlas_sdk.model.memory import FileDiff

__all__ = ["compare"]

_NO_NEWLINE = "\n\\ No newline at end of file\n"


def _lines(content: bytes | None) -> list[str] | None:
    """Split at newlines, which stay; None for binary content. Bytes that are not UTF-8 survive as surrogates."""
    if content is None:
        return []
    if b"\0" in content:
        return None
    *full, rest = content.decode("utf-8", "surrogateescape").split("\n")
    return [line + "\n" for line in full] + ([rest] if rest else [])


def compare(path: str, before: bytes | None, after: bytes | None, *, context_lines: int = 3) -> FileDiff:
    """Compare two contents of a file; None means that the file did not exist."""
    if before == after:
        return FileDiff(path=path, change="same")
    change = "added" if before is None else "removed" if after is None else "changed"
    old, new = _lines(before), _lines(after)
    if old is None or new is None:
        return FileDiff(path=path, change=change)
    name = printable(path)
    names = ("/dev/null" if before is None else f"a/{name}", "/dev/null" if after is None else f"b/{name}")
    # Patience: nearly linear where difflib is quadratic, and its hunks follow headings and paragraphs.
    hunks = list(unified_diff(old, new, *names, n=context_lines, sequencematcher=PatienceSequenceMatcher))
    body = hunks[2:]
    return FileDiff(
        path=path,
        change=change,
        added_lines=sum(line.startswith("+") for line in body),
        removed_lines=sum(line.startswith("-") for line in body),
        text="".join(line if line.endswith("\n") else line + _NO_NEWLINE for line in hunks),
    )
