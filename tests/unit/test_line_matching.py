"""Matching of lines: in order and by content, with unique lines first, in bounded time."""

from __future__ import annotations

import time
from difflib import SequenceMatcher
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_sdk.model.line_matching import LineMatcher


def replayed(old: list[str], new: list[str]) -> list[str]:
    """Apply the opcodes to the old lines, and check each opcode; return the new lines."""
    made: list[str] = []
    at = (0, 0)
    for tag, old_from, old_to, new_from, new_to in LineMatcher(old, new).get_opcodes():
        assert at == (old_from, new_from)
        at = (old_to, new_to)
        taken, given_ = old_to - old_from, new_to - new_from
        if tag == "equal":
            assert old[old_from:old_to] == new[new_from:new_to]
            assert taken
        else:
            assert tag == ("replace" if taken and given_ else "delete" if taken else "insert")
            assert taken or given_
        made += new[new_from:new_to]
    assert at == (len(old), len(new))
    return made


def changed(matcher: SequenceMatcher[str]) -> int:
    """Return the number of lines that a diff would show as removed or added."""
    return sum(b - a + d - c for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal")


LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n", "# d\n", "e"]), max_size=30)


@given(old=LINES, new=LINES)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_opcodes_lead_from_the_old_lines_to_the_new_ones(old: list[str], new: list[str]) -> None:
    assert replayed(old, new) == new


@given(old=LINES, new=LINES)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_two_neighbours_are_of_one_kind(old: list[str], new: list[str]) -> None:
    codes = LineMatcher(old, new).get_opcodes()
    assert all((one[0] == "equal") != (next_[0] == "equal") for one, next_ in pairwise(codes))


def test_hunks_follow_unique_lines() -> None:
    """In this known case, difflib matches the closing brace of one function with that of another."""
    old = ["def a():\n", "    x\n", "}\n", "\n", "def b():\n", "    y\n", "}\n"]
    new = ["def a():\n", "    x\n", "}\n", "\n", "def c():\n", "    z\n", "}\n", "\n", "def b():\n", "    y\n", "}\n"]
    (inserted,) = [code for code in LineMatcher(old, new).get_opcodes() if code[0] != "equal"]
    assert "".join(new[inserted[3] : inserted[4]]) in {"def c():\n    z\n}\n\n", "\ndef c():\n    z\n}\n"}


def test_a_moved_paragraph_costs_no_more_than_itself() -> None:
    old, new = ([line for name in order for line in (f"## {name}\n", name * 9, "\n")] for order in ("abcdef", "dabcef"))
    assert changed(LineMatcher(old, new)) == 2 * 3


def test_lines_that_repeat_are_matched_as_difflib_does() -> None:
    old, new = ["a\n", "b\n"] * 60, ["b\n", "a\n", "a\n"] * 40
    assert changed(LineMatcher(old, new)) <= changed(SequenceMatcher(None, old, new, autojunk=False))


def test_hostile_lines_take_linear_time() -> None:
    """For two alternating lines difflib takes cubic time, and an agent may write 8 MiB of such lines."""

    def took(count: int) -> float:
        old, new = ["a\n", "b\n"] * count, ["b\n", "a\n", "a\n"] * count
        began = time.process_time()
        assert replayed(old, new) == new
        return time.process_time() - began

    # With eight times the lines the ratio is 8 if the time is linear, and 64 if it is quadratic.
    assert took(80_000) / max(took(10_000), took(10_000)) < 24
