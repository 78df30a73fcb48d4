"""A file is read as it was at one moment."""

import hashlib
import os
import threading

import pytest
from attrs import asdict
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_sdk.errors import FileProblem
from atlas_sdk.files import FileState, Signature, capture, read_file, signature

LIMIT = 8 * 2**20


@pytest.fixture
def root(tmp_path):
    return tmp_path


def test_state_holds_what_is_on_disk(root):
    (root / "CLAUDE.md").write_bytes(b"hello\r\n")
    (root / "CLAUDE.md").chmod(0o2640)
    found = (root / "CLAUDE.md").stat()
    seen = Signature(mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns, size=7, ino=found.st_ino, dev=found.st_dev)
    assert read_file(root, "CLAUDE.md", limit_bytes=LIMIT) == FileState(
        path="CLAUDE.md",
        content=b"hello\r\n",
        sha256=hashlib.sha256(b"hello\r\n").digest(),
        size=7,
        mode=0o640,
        link=None,
        signature=seen,
        torn=False,
    )
    assert signature(root, "CLAUDE.md") == seen


def test_modes_of_the_folders_are_part_of_the_state(root):
    (root / ".claude" / "rules").mkdir(parents=True)
    (root / ".claude" / "rules" / "a.md").write_bytes(b"x")
    (root / ".claude" / "rules").chmod(0o2750)
    (root / ".claude").chmod(0o700)
    (root / "link.md").symlink_to(".claude/rules/a.md")
    for path in (".claude/rules/a.md", "link.md"):
        assert read_file(root, path, limit_bytes=LIMIT).folder_modes == (0o700, 0o750)


def test_file_of_any_size_costs_no_more_than_a_limit(root, monkeypatch):
    with (root / "CLAUDE.md").open("wb") as file:
        file.truncate(2**40)
    monkeypatch.setattr(capture, "_read_block", lambda *_: pytest.fail("it was read"))
    with pytest.raises(FileProblem, match="Atlas reads at most 268,435,456"):
        read_file(root, "CLAUDE.md", limit_bytes=LIMIT)


def test_missing_file_is_none(root):
    assert read_file(root, "CLAUDE.md", limit_bytes=LIMIT) is None
    assert read_file(root, "no/such/folder/CLAUDE.md", limit_bytes=LIMIT) is None
    assert signature(root, "CLAUDE.md") is None


@pytest.mark.parametrize("data", [b"", b"\0\xff\xfe binary \r\n", "文\n".encode("utf-16")])
def test_bytes_are_kept_as_they_are(root, data):
    (root / "a").write_bytes(data)
    state = read_file(root, "a", limit_bytes=LIMIT)
    assert (state.content, state.size, state.torn) == (data, len(data), False)


@pytest.mark.parametrize("raw", [b"a\nb.md", b"\xff\xfe.md", b" .md", b"\\x41.md", "文.md".encode()])
def test_every_name_can_be_read(root, raw):
    (root / os.fsdecode(raw)).write_bytes(b"x")
    assert read_file(root, os.fsdecode(raw), limit_bytes=LIMIT).path == os.fsdecode(raw)


def test_nine_mebibytes_are_hashed_and_not_kept(root):
    data = os.urandom(2**20) * 9
    (root / "big").write_bytes(data)
    state = read_file(root, "big", limit_bytes=LIMIT)
    assert state.content is None
    assert (state.sha256, state.size, state.torn) == (hashlib.sha256(data).digest(), len(data), False)


def test_limit_itself_is_kept(root):
    (root / "a").write_bytes(b"12345")
    assert read_file(root, "a", limit_bytes=5).content == b"12345"
    assert read_file(root, "a", limit_bytes=4).content is None


def test_symlink_gives_the_state_of_its_target(root):
    (root / "docs").mkdir()
    (root / "docs" / "AGENTS.md").write_bytes(b"target")
    (root / "docs" / "AGENTS.md").chmod(0o600)
    (root / "middle").symlink_to("docs/AGENTS.md")
    (root / "CLAUDE.md").symlink_to("middle")
    direct = read_file(root, "docs/AGENTS.md", limit_bytes=LIMIT)
    through = read_file(root, "CLAUDE.md", limit_bytes=LIMIT)
    assert direct.link is None
    assert asdict(through) == {**asdict(direct), "path": "CLAUDE.md", "link": "middle"}
    assert signature(root, "CLAUDE.md") == direct.signature


def test_link_is_of_the_path_itself_and_not_of_its_folder(root):
    (root / "docs").mkdir()
    (root / "docs" / "a.md").write_bytes(b"x")
    (root / "folder").symlink_to("docs")
    assert read_file(root, "folder/a.md", limit_bytes=LIMIT).link is None


def interrupted(monkeypatch, action):
    """Call `action` after each block that is read."""
    real = capture._read_block

    def read(descriptor, size):
        block = real(descriptor, size)
        action()
        return block

    monkeypatch.setattr(capture, "_read_block", read)


def test_file_written_during_the_reading_is_read_again(root, monkeypatch):
    path = root / "a"
    path.write_bytes(b"old")
    left = [b"new content"]
    interrupted(monkeypatch, lambda: left and path.write_bytes(left.pop()))
    state = read_file(root, "a", limit_bytes=LIMIT)
    assert (state.content, state.torn) == (b"new content", False)


def test_file_replaced_during_the_reading_is_read_again(root, monkeypatch):
    (root / "a").write_bytes(b"old")
    (root / "b").write_bytes(b"new")
    interrupted(monkeypatch, lambda: (root / "b").exists() and (root / "b").replace(root / "a"))
    assert read_file(root, "a", limit_bytes=LIMIT).content == b"new"


def test_folder_replaced_during_the_reading_is_read_again(root, monkeypatch):
    for name, data in (("docs", b"old"), ("other", b"new")):
        (root / name).mkdir()
        (root / name / "a").write_bytes(data)

    def swap():
        if (root / "other").exists():
            (root / "docs").rename(root / "before")
            (root / "other").rename(root / "docs")

    interrupted(monkeypatch, swap)
    assert read_file(root, "docs/a", limit_bytes=LIMIT).content == b"new"


def test_file_removed_during_the_reading_is_none(root, monkeypatch):
    (root / "a").write_bytes(b"old")
    interrupted(monkeypatch, lambda: (root / "a").unlink(missing_ok=True))
    assert read_file(root, "a", limit_bytes=LIMIT) is None


def test_link_turned_elsewhere_during_the_reading_is_read_again(root, monkeypatch):
    (root / "one").write_bytes(b"1")
    os.link(root / "one", root / "two")
    (root / "a").symlink_to("one")
    (root / "b").symlink_to("two")
    interrupted(monkeypatch, lambda: (root / "b").is_symlink() and (root / "b").rename(root / "a"))
    assert read_file(root, "a", limit_bytes=LIMIT).link == "two"


def test_endless_writer_gives_a_torn_state_that_is_seen_as_changed(root, monkeypatch):
    path = root / "a"
    path.write_bytes(b"start")
    calls = []

    def grow():
        calls.append(1)
        with path.open("ab") as file:
            file.write(b"more")

    interrupted(monkeypatch, grow)
    state = read_file(root, "a", limit_bytes=LIMIT)
    assert state.torn
    assert state.sha256 == hashlib.sha256(state.content).digest()
    assert state.size == len(state.content)
    assert state.signature != signature(root, "a")
    # The file was read five times. Each reading took one block or two, although the file kept growing.
    assert 5 <= len(calls) <= 10


def test_concurrent_writers_are_never_mixed_unmarked(root):
    path = root / "a"
    path.write_bytes(b"0" * 70_000)
    done = threading.Event()

    def write():
        number = 0
        while not done.is_set():
            number += 1
            # Every version has its own size, so the test does not depend on the precision of a clock.
            path.write_bytes(str(number % 10).encode() * (70_000 + number))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        states = [read_file(root, "a", limit_bytes=LIMIT) for _ in range(300)]
    finally:
        done.set()
        thread.join()
    whole = [state for state in states if not state.torn]
    # A writer may pause after any system call, so an empty or half-written file is a correct result.
    assert all(len(set(state.content)) <= 1 for state in whole)


@settings(max_examples=50)
@given(data=st.binary(max_size=300), limit_bytes=st.integers(0, 300))
def test_any_content_under_any_limit(tmp_path_factory, data, limit_bytes):
    root = tmp_path_factory.mktemp("any")
    (root / "a").write_bytes(data)
    state = read_file(root, "a", limit_bytes=limit_bytes)
    assert (state.sha256, state.size) == (hashlib.sha256(data).digest(), len(data))
    assert state.content == (data if len(data) <= limit_bytes else None)
