"""The base of the benchmarks: histories that are the same every time, and a table that tells PASS from FAIL."""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path

import pytest

from benchmarks import histories
from benchmarks.peers import MissingPeer
from benchmarks.redis_server import redis_server
from benchmarks.slices import Slice, crew, paired, take_slices
from benchmarks.table import Row, Target, at_least, at_most, count, exactly, ms, per_second, render
from benchmarks.timing import Times, take_turns

#: The hash of `made(7, 200, 20_000)`. The bulk section stores the same bytes on every machine and every Python.
DIGEST = "b0fef37d4084f1233d68eec680af6a820f2083fcd244e85af0ddedaa5b99fcb8"


def test_the_same_seed_makes_the_same_bytes() -> None:
    first, second = histories.made(7, 200, 20_000), histories.made(7, 200, 20_000)
    assert first == second
    assert hashlib.sha256(b"\0".join(first.versions)).hexdigest() == DIGEST


def test_another_seed_makes_another_history() -> None:
    assert set(histories.made(1, 50, 5_000).versions).isdisjoint(histories.made(2, 50, 5_000).versions)


def test_edits_are_shared_out_as_promised() -> None:
    total = 4_000
    kinds = Counter(edit.kind for edit in islice(histories.edits(3, size_bytes=5_000), total))
    assert sum(histories.EDIT_SHARES.values()) == 100
    for kind, share in histories.EDIT_SHARES.items():
        # Three standard deviations of 4,000 draws are at most 2.4 per cent.
        assert kinds[kind] * 100 / total == pytest.approx(share, abs=2.4)


@pytest.mark.parametrize("size_bytes", [5_000, 20_000, 40_000])
def test_every_version_is_new_and_of_a_size_that_memory_files_have(size_bytes: int) -> None:
    versions = histories.made(5, 600, size_bytes).versions
    low, high = histories.SIZE_LIMITS
    assert len(versions) == 600
    assert all(low <= len(version) <= high for version in versions)
    assert all(before != after for before, after in pairwise(versions))
    # The text stays near the given size: it neither grows to the limit nor becomes empty.
    assert size_bytes * 0.6 < sorted(map(len, versions))[300] < size_bytes * 1.5


def test_an_append_keeps_what_was_there_and_a_revert_brings_back_an_earlier_version() -> None:
    seen: list[bytes] = []
    for edit in islice(histories.edits(11, size_bytes=10_000), 400):
        if edit.kind == "append":
            assert edit.content.startswith(seen[-1].rstrip(b"\n"))
        if edit.kind == "revert":
            assert edit.content in seen
        seen.append(edit.content)


def archive(folder: Path, name: str, versions: list[bytes]) -> None:
    with tarfile.open(folder / f"{name}.tar.xz", "w:xz") as tar:
        for number, version in reversed(list(enumerate(versions))):
            member = tarfile.TarInfo(f"{name}/{number:05}.md")
            member.size = len(version)
            tar.addfile(member, io.BytesIO(version))


def test_real_histories_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path, "some.where__CLAUDE.md", [b"one", b"two", b"three"])
    monkeypatch.setenv("ATLAS_CORPUS", str(tmp_path))
    corpus = histories.load()
    assert corpus.origin == "real"
    assert corpus.histories == (histories.History(name="some.where__CLAUDE.md", versions=(b"one", b"two", b"three")),)


def test_a_corpus_that_was_asked_for_and_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_CORPUS", str(tmp_path))
    with pytest.raises(SystemExit, match="ATLAS_CORPUS"):
        histories.load()


def test_without_a_corpus_histories_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATLAS_CORPUS", raising=False)
    monkeypatch.setattr(histories, "REPOSITORY", tmp_path / "checkout")
    corpus = histories.load()
    assert corpus.origin == "made"
    assert sum(len(history.versions) for history in corpus.histories) == 750


def test_picked_versions_are_successive_and_of_the_size_asked_for() -> None:
    history = histories.History(name="h", versions=(b"a", b"bb", b"bb", b"c" * 9, b"dd"))
    corpus = histories.Corpus(origin="made", histories=(history,))
    assert histories.pick(corpus, low_bytes=2, high_bytes=5, limit=9) == [("h.md", b"bb"), ("h.md", b"dd")]


@pytest.mark.parametrize(
    ("ours", "peer", "target", "verdict"),
    [
        (2.9, 1.0, at_most(3), "PASS"),
        (3.1, 1.0, at_most(3), "FAIL"),
        (1.0, 10.5, at_least(10), "PASS"),
        (1.0, 9.5, at_least(10), "FAIL"),
        (640, None, exactly(640), "PASS"),
        (639, None, exactly(640), "FAIL"),
        (0, None, exactly(0), "PASS"),
        (1, None, exactly(0), "FAIL"),
        (None, None, exactly(0), "FAIL"),
    ],
)
def test_a_target_decides(ours: float | None, peer: float | None, target: Target, verdict: str) -> None:
    row = Row(
        what="w", ours=None if ours is None else count(ours), peer=None if peer is None else count(peer), target=target
    )
    assert row.verdict == verdict


def test_a_missing_peer_stands_in_the_table_in_words() -> None:
    text = render([("Puts", [Row(what="put : other", target=at_most(3), missing="other is not installed")])])
    assert "MISSING  other is not installed" in text
    assert "PASS" not in text


def test_columns_line_up() -> None:
    rows = [
        Row(what="short", ours=ms(0.001), peer=ms(1)),
        Row(what="a longer name", ours=ms(1.2345), target=at_most(3)),
    ]
    lines = render([("Puts", rows)]).splitlines()
    assert lines[0].index("ours") + len("ours") == lines[3].index("1 ms") + len("1 ms")
    assert lines[4].startswith("  a longer name  1,234 ms")


def test_contenders_take_turns_and_slow_ones_fewer() -> None:
    class Counting:
        def __init__(self, every: int) -> None:
            self.every = every
            self.kept: list[bytes] = []

        def put(self, path: str, content: bytes, /) -> float:
            self.kept.append(content)
            return 1.0

    fast, slow = Counting(1), Counting(4)
    times = take_turns([fast, slow], [("p", bytes([number])) for number in range(10)], warm_up=2)
    assert fast.kept == [bytes([number]) for number in range(10)]
    assert slow.kept == [bytes([number]) for number in (0, 1, 2, 6)]
    assert [len(each) for each in times] == [8, 2]


def test_percentiles() -> None:
    times = Times([float(number) for number in range(1, 102)])
    assert (times.p50, times.p90) == (51, 91)


def test_a_rate_is_ours_to_the_peers_whatever_the_target() -> None:
    row = Row(what="w", ours=per_second(60), peer=per_second(100), target=at_least(0.6))
    assert (row.ratio, row.verdict) == (0.6, "PASS")


def test_the_ratio_of_rounds_counts_before_that_of_medians() -> None:
    row = Row(what="w", ours=per_second(60), peer=per_second(100), paired=0.59, target=at_least(0.6))
    assert (row.ratio, row.verdict) == (0.59, "FAIL")


def test_slices_alternate_after_one_that_does_not_count() -> None:
    asked: list[str] = []

    def run(name: str, seconds: float) -> Slice:
        asked.append(name)
        return Slice(float(len(asked)), Times([seconds]))

    done = take_slices(run, ("a", "b"), rounds=3, seconds=0.5)
    assert asked == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [each.rate for each in done["a"]] == [4, 5, 8]
    assert [each.rate for each in done["b"]] == [3, 6, 7]


def test_rounds_are_compared_one_by_one() -> None:
    ours = [Slice(rate, Times([0.001])) for rate in (10.0, 20.0, 60.0)]
    theirs = [Slice(rate, Times([0.002])) for rate in (20.0, 20.0, 20.0)]
    assert paired(ours, theirs) == (1.0, "p50 1 and 2 ms; 3 rounds from 0.50 to 3.00")


@contextmanager
def opened(start: int, number: int) -> Iterator[dict[str, Callable[[], object]]]:
    yield {"count": lambda: None, "number": lambda: start + number}


def test_a_crew_does_what_it_is_asked_at_the_same_time() -> None:
    with crew(2, opened, 40) as clients:
        assert clients.ask("number") == [40, 41]
        done = clients.slice("count", 0.05)
    assert done.rate > 0
    assert len(done.times) >= 2


def test_a_redis_server_that_is_not_installed_is_a_missing_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPeer, match="redis-server is not on the PATH"), redis_server(tmp_path / "redis"):
        pass
