"""A file is replaced in one step, and only if it has the content that the caller expects."""

import errno
import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_sdk.errors import FileProblem, OutsideProject, RestoreRefused
from atlas_sdk.files import read_file, remove_file, replace_file
from atlas_sdk.files import renameat2 as renames


def sha(data):
    return hashlib.sha256(data).digest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["swapping", "plain"])
def root(request, tmp_path, monkeypatch):
    """Yield a project on a system that can swap names in one step, and one on a system that cannot."""
    if request.param == "plain":
        monkeypatch.setattr(renames, "_renameat2", lambda: None)
    yield tmp_path
    assert not [path for path in tmp_path.rglob("*") if ".atlas-" in path.name]


def test_content_and_mode_are_replaced(root):
    (root / "CLAUDE.md").write_bytes(b"old")
    replace_file(root, "CLAUDE.md", b"new", mode=0o640, expect=sha(b"old"))
    assert (root / "CLAUDE.md").read_bytes() == b"new"
    assert (root / "CLAUDE.md").stat().st_mode & 0o7777 == 0o640
    assert names(root) == ["CLAUDE.md"]


def test_mode_is_not_bent_by_the_umask_and_has_no_special_bits(root):
    before = os.umask(0o077)
    try:
        replace_file(root, "a", b"x", mode=0o6755, expect=None)
    finally:
        os.umask(before)
    assert (root / "a").stat().st_mode & 0o7777 == 0o755


def test_new_file_gets_its_folders(root):
    before = os.umask(0o027)
    try:
        replace_file(root, ".claude/rules/a/b.md", b"rule", mode=0o644, expect=None)
    finally:
        os.umask(before)
    assert (root / ".claude/rules/a/b.md").read_bytes() == b"rule"
    assert (root / ".claude/rules").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("raw", [b"a\nb.md", b"\xff\xfe.md", "文".encode() * 83])
def test_every_name_can_be_written(root, raw):
    path = os.fsdecode(raw)
    replace_file(root, path, b"1", mode=0o600, expect=None)
    replace_file(root, path, b"2", mode=0o600, expect=sha(b"1"))
    assert (root / path).read_bytes() == b"2"
    remove_file(root, path, expect=sha(b"2"))
    assert names(root) == []


def test_unexpected_content_is_refused(root):
    (root / "a").write_bytes(b"newer")
    with pytest.raises(RestoreRefused) as caught:
        replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old"))
    assert caught.value.paths == ("a",)
    assert str(caught.value).startswith("a has changed; nothing was changed: ")
    with pytest.raises(RestoreRefused):
        remove_file(root, "a", expect=sha(b"old"))
    assert (root / "a").read_bytes() == b"newer"


def test_file_that_should_not_be_there_is_refused(root):
    (root / "a").write_bytes(b"")
    with pytest.raises(RestoreRefused, match="exists by now"):
        replace_file(root, "a", b"restored", mode=0o644, expect=None)
    assert (root / "a").read_bytes() == b""


@pytest.mark.parametrize("path", ["a", "no/such/folder/a"])
def test_file_that_is_gone_is_refused(root, path):
    with pytest.raises(RestoreRefused, match="is gone"):
        replace_file(root, path, b"restored", mode=0o644, expect=sha(b"old"))
    with pytest.raises(RestoreRefused, match="is gone"):
        remove_file(root, path, expect=sha(b"old"))
    assert names(root) == []


@pytest.mark.parametrize("expect", [None, sha(b"")])
def test_what_is_no_file_is_never_replaced(root, expect):
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")
    for path in ("folder", "fifo"):
        with pytest.raises(FileProblem):
            replace_file(root, path, b"x", mode=0o644, expect=expect)
        with pytest.raises(FileProblem):
            remove_file(root, path, expect=sha(b""))
    assert names(root) == ["fifo", "folder"]


def test_file_in_place_of_a_folder_is_a_problem(root):
    (root / "docs").write_bytes(b"x")
    with pytest.raises(FileProblem, match="not a directory"):
        replace_file(root, "docs/a", b"x", mode=0o644, expect=None)
    assert (root / "docs").read_bytes() == b"x"


def test_removal(root):
    (root / "a").write_bytes(b"known")
    remove_file(root, "a", expect=sha(b"known"))
    assert names(root) == []


# Symlinks


def test_symlink_is_kept_and_its_target_written(root):
    (root / "docs").mkdir()
    (root / "docs" / "AGENTS.md").write_bytes(b"old")
    (root / "CLAUDE.md").symlink_to("docs/AGENTS.md")
    replace_file(root, "CLAUDE.md", b"new", mode=0o600, expect=sha(b"old"))
    assert (root / "CLAUDE.md").readlink().as_posix() == "docs/AGENTS.md"
    assert (root / "docs" / "AGENTS.md").read_bytes() == b"new"


def test_nothing_is_written_or_removed_outside(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "a").write_bytes(b"theirs")
    (root / "link").symlink_to(outside / "a")
    (root / "folder").symlink_to(outside)
    (root / "dangling").symlink_to(outside / "new")
    for path, expect in (
        ("link", sha(b"theirs")),
        ("folder/a", sha(b"theirs")),
        ("folder/b", None),
        ("dangling", None),
    ):
        with pytest.raises(OutsideProject):
            replace_file(root, path, b"ours", mode=0o644, expect=expect)
        with pytest.raises(OutsideProject):
            remove_file(root, path, expect=expect or sha(b""))
    assert names(outside) == ["a"]
    assert (outside / "a").read_bytes() == b"theirs"


def test_no_folder_is_made_behind_a_symlink(root):
    (root / "docs").mkdir()
    (root / "link").symlink_to("docs")
    (root / "dangling").symlink_to("nowhere")
    replace_file(root, "link/a", b"x", mode=0o644, expect=None)
    assert (root / "docs" / "a").read_bytes() == b"x"
    with pytest.raises(FileProblem, match="create its folder"):
        replace_file(root, "dangling/a", b"x", mode=0o644, expect=None)
    assert not (root / "nowhere").exists()


def test_missing_symlink_is_made_again_with_its_target(root):
    replace_file(root, ".claude/CLAUDE.md", b"x", mode=0o644, link="../AGENTS.md", expect=None)
    assert (root / ".claude" / "CLAUDE.md").readlink().as_posix() == "../AGENTS.md"
    assert (root / "AGENTS.md").read_bytes() == b"x"
    assert read_file(root, ".claude/CLAUDE.md", limit_bytes=10).link == "../AGENTS.md"


def test_missing_symlink_to_the_same_content_is_just_the_symlink(root):
    (root / "AGENTS.md").write_bytes(b"x")
    before = (root / "AGENTS.md").stat()
    replace_file(root, "CLAUDE.md", b"x", mode=0o600, link="AGENTS.md", expect=None)
    assert (root / "CLAUDE.md").readlink().as_posix() == "AGENTS.md"
    assert (root / "AGENTS.md").stat() == before


def test_missing_symlink_never_overwrites_its_target(root):
    (root / "AGENTS.md").write_bytes(b"other")
    with pytest.raises(RestoreRefused):
        replace_file(root, "CLAUDE.md", b"x", mode=0o644, link="AGENTS.md", expect=None)
    assert names(root) == ["AGENTS.md"]
    assert (root / "AGENTS.md").read_bytes() == b"other"


@pytest.mark.parametrize("link", ["../elsewhere.md", "/etc/passwd"])
def test_symlink_that_would_leave_becomes_a_file(root, link):
    replace_file(root, "CLAUDE.md", b"x", mode=0o644, link=link, expect=None)
    assert not (root / "CLAUDE.md").is_symlink()
    assert (root / "CLAUDE.md").read_bytes() == b"x"


def test_file_in_the_place_of_a_former_symlink_stays_a_file(root):
    (root / "CLAUDE.md").write_bytes(b"old")
    replace_file(root, "CLAUDE.md", b"x", mode=0o644, link="AGENTS.md", expect=sha(b"old"))
    assert (root / "CLAUDE.md").read_bytes() == b"x"
    assert names(root) == ["CLAUDE.md"]


def test_removing_a_symlink_leaves_its_target(root):
    (root / "AGENTS.md").write_bytes(b"x")
    (root / "CLAUDE.md").symlink_to("AGENTS.md")
    with pytest.raises(RestoreRefused):
        remove_file(root, "CLAUDE.md", expect=sha(b"y"))
    assert (root / "CLAUDE.md").is_symlink()
    remove_file(root, "CLAUDE.md", expect=sha(b"x"))
    assert names(root) == ["AGENTS.md"]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from("wrd"), st.sampled_from([None, b"", b"1", b"2"]), st.binary(max_size=2)))
)
def test_any_order_of_changes_follows_the_expectation(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("steps")
    now = None
    for step, expect, data in steps:
        known = None if expect is None else sha(expect)
        try:
            if step == "w":
                (root / "a").write_bytes(data)
                now = data
            elif step == "r":
                replace_file(root, "a", data, mode=0o644, expect=known)
                assert expect == now
                now = data
            elif known is not None:
                remove_file(root, "a", expect=known)
                assert expect == now
                now = None
        except RestoreRefused:
            assert expect != now
        state = read_file(root, "a", limit_bytes=100)
        assert (None if state is None else state.content) == now
        assert len(names(root)) == (now is not None)


@pytest.mark.parametrize("call", ["fsync", "fchmod", "write"])
def test_error_at_any_step_of_writing_leaves_nothing(root, monkeypatch, call):
    (root / "a").write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.EROFS, "")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FileProblem, match="read-only file system; mount"):
        replace_file(root, "a", b"new", mode=0o644, expect=sha(b"old"))
    monkeypatch.undo()
    assert (root / "a").read_bytes() == b"old"
    assert names(root) == ["a"]


def test_failed_write_takes_its_new_symlink_along(root, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(FileProblem):
        replace_file(root, "CLAUDE.md", b"x", mode=0o644, link="AGENTS.md", expect=None)
    monkeypatch.undo()
    assert names(root) == []


def test_owner_of_the_file_is_kept(root):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    (root / "a").write_bytes(b"old")
    os.chown(root / "a", 65534, 65534)
    replace_file(root, "a", b"new", mode=0o600, expect=sha(b"old"))
    found = (root / "a").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o600)


def test_what_root_makes_belongs_to_the_owner_of_the_folder_above(root):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away: run the tests as root")
    os.chown(root, 65534, 65533)
    replace_file(root, "a", b"new", mode=0o600, expect=None)
    replace_file(root, ".claude/rules/b", b"new", mode=0o644, expect=None)
    for path in ("a", ".claude", ".claude/rules", ".claude/rules/b"):
        found = (root / path).stat()
        assert (found.st_uid, found.st_gid) == (65534, 65533), path


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_private_folders_come_back_private(root, umask):
    before = os.umask(umask)
    try:
        replace_file(root, ".claude/rules/a/b.md", b"x", mode=0o644, expect=None, folder_modes=(0o700, 0o750))
    finally:
        os.umask(before)
    modes = [(root / path).stat().st_mode & 0o777 for path in (".claude", ".claude/rules", ".claude/rules/a")]
    assert modes == [0o700, 0o750, 0o777 & ~umask]


def test_folder_that_is_there_keeps_its_mode(root):
    (root / ".claude").mkdir(mode=0o755)
    replace_file(root, ".claude/a/b.md", b"x", mode=0o644, expect=None, folder_modes=(0o700, 0o700))
    assert (root / ".claude").stat().st_mode & 0o777 == 0o755
    assert (root / ".claude/a").stat().st_mode & 0o777 == 0o700
