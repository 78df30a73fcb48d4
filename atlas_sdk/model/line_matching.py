"""Match the lines of two texts by Bram Cohen's patience diff, and by `difflib` where no line is unique.

The patience method takes the lines that occur once on each side, and matches the longest sequence of them that has the
same order on both sides. So hunks follow headings and paragraphs. The method then matches the lines between two such
lines in the same way. Ranges without unique lines go to `difflib`, which takes cubic time at worst. The work of
`difflib` is therefore bounded: a range that would take more work counts as replaced.
"""

from bisect import bisect_left
from collections import Counter
from difflib import SequenceMatcher

from attrs import define

__all__ = ["LineMatcher"]

#: The deepest nesting of ranges; memory files need 3 to 4.
_MOST_DEPTH = 16
#: Bounds for one range, and for all ranges of a text. The unit is pairs of equal lines times old lines. A million units
#: take difflib about 12 ms at worst (two lines that alternate); the most in 946 pairs of real versions is 1.6 million.
_MOST_WORK_AT_ONCE = 2**23
_MOST_WORK = 2**25


@define
class _Range:
    old_from: int
    old_to: int
    new_from: int
    new_to: int
    depth: int = 0


class LineMatcher(SequenceMatcher[str]):
    """A `SequenceMatcher` whose matching blocks come from the patience method."""

    def __init__(self, old: list[str], new: list[str]) -> None:
        """Prepare to compare these lines."""
        super().__init__(None, [], [], autojunk=False)
        self._old, self._new = old, new
        self._work = _MOST_WORK

    def get_opcodes(self) -> list[tuple[str, int, int, int, int]]:  # type: ignore[override]  # literal tags, as text
        """Return the edits that turn the old lines into the new ones, in the form of `difflib`."""
        codes: list[tuple[str, int, int, int, int]] = []
        old_at = new_at = 0
        for old_from, new_from, length in [*self._blocks(), (len(self._old), len(self._new), 0)]:
            tag = {(True, True): "replace", (True, False): "delete", (False, True): "insert"}.get(
                (old_at < old_from, new_at < new_from)
            )
            if tag is not None:
                codes.append((tag, old_at, old_from, new_at, new_from))
            old_at, new_at = old_from + length, new_from + length
            if length:
                codes.append(("equal", old_from, old_at, new_from, new_at))
        return codes

    def _blocks(self) -> list[tuple[int, int, int]]:
        """Return the equal blocks in order, each as start in the old lines, start in the new lines, and length."""
        pairs: list[tuple[int, int, int]] = []
        waiting = [_Range(0, len(self._old), 0, len(self._new))]
        while waiting:
            self._match(waiting.pop(), pairs, waiting)
        pairs.sort()
        joined: list[tuple[int, int, int]] = []
        for old_from, new_from, length in pairs:
            if joined and (joined[-1][0] + joined[-1][2], joined[-1][1] + joined[-1][2]) == (old_from, new_from):
                joined[-1] = (joined[-1][0], joined[-1][1], joined[-1][2] + length)
            else:
                joined.append((old_from, new_from, length))
        return joined

    def _match(self, part: _Range, pairs: list[tuple[int, int, int]], waiting: list[_Range]) -> None:
        self._trim(part, pairs)
        if part.old_from == part.old_to or part.new_from == part.new_to:
            return
        anchors = self._anchors(part) if part.depth < _MOST_DEPTH else []
        if not anchors:
            self._compare(part, pairs)
            return
        old_at, new_at = part.old_from, part.new_from
        for old, new in [*anchors, (part.old_to, part.new_to)]:
            waiting.append(_Range(old_at, old, new_at, new, part.depth + 1))
            old_at, new_at = old + 1, new + 1
        pairs.extend((old, new, 1) for old, new in anchors)

    def _trim(self, part: _Range, pairs: list[tuple[int, int, int]]) -> None:
        """Match the lines that both sides begin with, and those that both end with."""
        old, new = self._old, self._new
        most = min(part.old_to - part.old_from, part.new_to - part.new_from)
        same = 0
        while same < most and old[part.old_from + same] == new[part.new_from + same]:
            same += 1
        if same:
            pairs.append((part.old_from, part.new_from, same))
            part.old_from, part.new_from = part.old_from + same, part.new_from + same
        most -= same
        same = 0
        while same < most and old[part.old_to - 1 - same] == new[part.new_to - 1 - same]:
            same += 1
        if same:
            part.old_to, part.new_to = part.old_to - same, part.new_to - same
            pairs.append((part.old_to, part.new_to, same))

    def _anchors(self, part: _Range) -> list[tuple[int, int]]:
        """Return the longest sequence of lines that are unique on both sides and have the same order on both."""
        old = self._old[part.old_from : part.old_to]
        new = self._new[part.new_from : part.new_to]
        in_old, in_new = Counter(old), Counter(new)
        places = {line: place for place, line in enumerate(new) if in_new[line] == 1}
        pairs = [(here, places[line]) for here, line in enumerate(old) if in_old[line] == 1 and line in places]
        # Patience sorting. Keep the top of each pile, and for each pair the top of the previous pile at that time.
        tops: list[int] = []
        laid: list[int] = []
        before: list[int | None] = []
        for number, (_, there) in enumerate(pairs):
            pile = bisect_left(tops, there)
            before.append(laid[pile - 1] if pile else None)
            tops[pile : pile + 1] = [there]
            laid[pile : pile + 1] = [number]
        longest: list[tuple[int, int]] = []
        at = laid[-1] if laid else None
        while at is not None:
            here, there = pairs[at]
            longest.append((part.old_from + here, part.new_from + there))
            at = before[at]
        return longest[::-1]

    def _compare(self, part: _Range, pairs: list[tuple[int, int, int]]) -> None:
        old, new = self._old[part.old_from : part.old_to], self._new[part.new_from : part.new_to]
        in_new = Counter(new)
        work = sum(in_new[line] for line in old if not line.isspace()) * len(old)
        if work > min(self._work, _MOST_WORK_AT_ONCE):
            return
        self._work -= work
        for old_at, new_at, length in SequenceMatcher(str.isspace, old, new, autojunk=False).get_matching_blocks():
            if length:
                pairs.append((part.old_from + old_at, part.new_from + new_at, length))
