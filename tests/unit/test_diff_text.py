"""Line diffs: the lines that they count, and that applying one gives the other side back, byte by byte."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_sdk.model.diffs import compare

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@\n")
_NO_NEWLINE = "\\ No newline at end of file\n"


def split(text: str) -> list[str]:
    """Split after newlines only, because a carriage return or a form feed ends no line."""
    *full, rest = text.split("\n")
    return [line + "\n" for line in full] + ([rest] if rest else [])


def apply(diff: str, before: bytes) -> bytes:
    """Apply a unified diff as `patch` does, but without any fuzz: every context line must match."""
    old = split(before.decode("utf-8", "surrogateescape"))
    lines = split(diff)
    made: list[str] = []
    at = 0
    position = 2
    while position < len(lines):
        hunk = _HUNK.fullmatch(lines[position])
        assert hunk is not None, lines[position]
        start, old_count, _, new_count = (1 if group is None else int(group) for group in hunk.groups())
        # An empty range begins after the line whose number it has.
        start = start if old_count == 0 else start - 1
        made += old[at:start]
        at = start
        position += 1
        seen_old = seen_new = 0
        while seen_old < old_count or seen_new < new_count:
            sign, line = lines[position][0], lines[position][1:]
            position += 1
            if position < len(lines) and lines[position] == _NO_NEWLINE:
                line = line[:-1]
                position += 1
            if sign in " -":
                assert old[at] == line
                at += 1
                seen_old += 1
            if sign in " +":
                made.append(line)
                seen_new += 1
    return "".join(made + old[at:]).encode("utf-8", "surrogateescape")


def test_equal_contents_do_not_differ() -> None:
    for content in (None, b"", b"\0", b"text"):
        found = compare("a.md", content, content)
        assert (found.change, found.text, found.added_lines, found.removed_lines) == ("same", None, 0, 0)


def test_a_file_is_added_removed_or_changed() -> None:
    added = compare("a.md", None, b"one\ntwo\n")
    assert (added.change, added.added_lines, added.removed_lines) == ("added", 2, 0)
    assert added.text == "--- /dev/null\n+++ b/a.md\n@@ -0,0 +1,2 @@\n+one\n+two\n"
    removed = compare("a.md", b"one\n", None)
    assert (removed.change, removed.added_lines, removed.removed_lines) == ("removed", 0, 1)
    assert removed.text == "--- a/a.md\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n"
    changed = compare("a.md", b"one\ntwo\n", b"one\nthree\n")
    assert (changed.change, changed.added_lines, changed.removed_lines) == ("changed", 1, 1)


def test_an_empty_file_is_not_a_missing_file() -> None:
    for before, after, change in ((None, b"", "added"), (b"", None, "removed")):
        found = compare("a.md", before, after)
        assert (found.change, found.text, found.added_lines, found.removed_lines) == (change, "", 0, 0)


@pytest.mark.parametrize(("before", "after"), [(b"a\0b", b"text"), (b"text", b"\0"), (None, b"\0"), (b"\0", None)])
def test_binary_contents_have_no_text(before: bytes | None, after: bytes | None) -> None:
    found = compare("a.md", before, after)
    assert (found.text, found.added_lines, found.removed_lines) == (None, 0, 0)
    assert found.change == ("added" if before is None else "removed" if after is None else "changed")


def test_lines_that_look_like_headers_are_counted() -> None:
    found = compare("a.md", b"-- a\n++ b\n", b"++ c\n-- d\n@@ e\n")
    assert (found.added_lines, found.removed_lines) == (3, 2)


def test_a_missing_last_newline_is_said() -> None:
    found = compare("a.md", b"one\ntwo", b"one\ntwo\n")
    assert found.text is not None
    assert found.text.endswith("-two\n\\ No newline at end of file\n+two\n")
    assert (found.added_lines, found.removed_lines) == (1, 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"one\r\ntwo\r\n", b"one\ntwo\r\n"),
        (b"one\rtwo", b"one\ntwo"),
        (b"caf\xe9\n\xff\n", b"caf\xc3\xa9\n\xff\n"),
        (b"a\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f\n", b"a\x0bb\x0cc\x1cd\xc2\x85E\xe2\x80\xa8f\n"),
        (b"x" * 2_000_000, b"x" * 2_000_000 + b"\ny"),
        (b"\n" * 50, b"\n" * 49),
        (b"", b"\n"),
        (b"\\ No newline at end of file\n", b"\\ No newline at end of file"),
        (b"".join(b"%d\n" % n for n in range(300)), b"".join(b"%d\n" % n for n in range(300) if n % 40)),
    ],
    ids=["crlf", "cr", "latin-1", "odd separators", "long line", "blanks", "newline", "marker", "many hunks"],
)
def test_nothing_is_normalised(before: bytes, after: bytes) -> None:
    found = compare("a.md", before, after)
    assert found.text is not None
    assert apply(found.text, before) == after


# Use few different lines, so that they repeat, move and match; and any bytes but NUL, which makes a file binary.
LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"\n", b"a\r\n", b"-- x\n", b"@@ -1 +1 @@\n", b"\xff\n", b"\\ No\n"]))
CONTENTS = st.one_of(
    st.builds(lambda lines, rest: b"".join(lines) + rest, LINES, st.sampled_from([b"", b"end", b"a"])),
    st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b"\n")),
)


@given(before=CONTENTS, after=CONTENTS, context_lines=st.integers(0, 4))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_applying_a_diff_gives_the_other_side(before: bytes, after: bytes, context_lines: int) -> None:
    found = compare("a.md", before, after, context_lines=context_lines)
    if before == after:
        assert found.change == "same"
        return
    assert found.text is not None
    assert apply(found.text, before) == after
    signs = [line[0] for line in split(found.text)[2:] if line[0] in "+-"]
    assert (signs.count("+"), signs.count("-")) == (found.added_lines, found.removed_lines)
    backward = compare("a.md", after, before, context_lines=context_lines)
    assert backward.text is not None
    assert apply(backward.text, after) == before


def test_git_applies_it_too(tmp_path: Path) -> None:
    before, after = b"one\r\ntwo\nthree\n\xff\n", b"one\r\n2\nthree\n\xff\nlast"
    (tmp_path / "a.md").write_bytes(before)
    found = compare("a.md", before, after)
    assert found.text is not None
    diff = found.text.encode("utf-8", "surrogateescape")
    subprocess.run(["git", "apply", "--whitespace=nowarn"], input=diff, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a.md").read_bytes() == after


def test_a_large_file_is_compared_in_bearable_time() -> None:
    """A file may have 8 MiB, and a restore compares before it writes."""

    def took(lines: int) -> float:
        before = b"".join(b"line %d of the rules\n" % n for n in range(lines))
        after = b"".join(b"line %d of the rules%s\n" % (n, b"!" * (n % 2)) for n in range(lines))
        began = time.process_time()
        compare("a.md", before, after)
        return time.process_time() - began

    # With four times the lines the ratio is 4 if the time is linear, and 16 if it is quadratic.
    assert took(4_000) / max(took(1_000), took(1_000)) < 8
