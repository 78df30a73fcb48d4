"""A file is put in place in one step, and only over what the caller knows."""

import errno
import hashlib
import os
import random
import resource
import signal
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_sdk.errors import FileProblem, OutsideProject, RestoreRefused
from atlas_sdk.files import exchange as renames
from atlas_sdk.files import read_file, remove_file, replace, replace_file


def sha(data):
    return hashlib.sha256(data).digest()


def leftovers(root):
    return sorted(path.name for path in root.rglob("*") if ".atlas-" in path.name)


@pytest.fixture(params=["swapping", "plain"])
def root(request, tmp_path, monkeypatch):
    """A project where names can be swapped in one step, and one where they cannot."""
    if request.param == "plain":
        monkeypatch.setattr(renames, "_renameat2", lambda: None)
    yield tmp_path
    assert not leftovers(tmp_path)


@pytest.fixture
def swapping(tmp_path):
    """A project on a system that swaps names; what comes between two steps is only seen there."""
    (tmp_path / "one").write_bytes(b"")
    (tmp_path / "two").write_bytes(b"")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        if not renames.exchange(descriptor, "one", "two"):
            pytest.skip("this system swaps no names")
    finally:
        os.close(descriptor)
        (tmp_path / "one").unlink()
        (tmp_path / "two").unlink()
    return tmp_path


def test_content_and_mode_are_replaced(root):
    (root / "CLAUDE.md").write_bytes(b"old")
    replace_file(root, "CLAUDE.md", b"new", mode=0o640, expect=sha(b"old"))
    assert (root / "CLAUDE.md").read_bytes() == b"new"
    assert (root / "CLAUDE.md").stat().st_mode & 0o7777 == 0o640
    assert os.listdir(root) == ["CLAUDE.md"]


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
    assert os.listdir(root) == []


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
    assert os.listdir(root) == []


@pytest.mark.parametrize("expect", [None, sha(b"")])
def test_what_is_no_file_is_never_replaced(root, expect):
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")
    for path in ("folder", "fifo"):
        with pytest.raises(FileProblem):
            replace_file(root, path, b"x", mode=0o644, expect=expect)
        with pytest.raises(FileProblem):
            remove_file(root, path, expect=sha(b""))
    assert sorted(os.listdir(root)) == ["fifo", "folder"]


def test_file_in_place_of_a_folder_is_a_problem(root):
    (root / "docs").write_bytes(b"x")
    with pytest.raises(FileProblem, match="not a directory"):
        replace_file(root, "docs/a", b"x", mode=0o644, expect=None)
    assert (root / "docs").read_bytes() == b"x"


def test_removal(root):
    (root / "a").write_bytes(b"known")
    remove_file(root, "a", expect=sha(b"known"))
    assert os.listdir(root) == []


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
    for path, expect in (("link", sha(b"theirs")), ("folder/a", sha(b"theirs")), ("folder/b", None), ("dangling", None)):
        with pytest.raises(OutsideProject):
            replace_file(root, path, b"ours", mode=0o644, expect=expect)
        with pytest.raises(OutsideProject):
            remove_file(root, path, expect=expect or sha(b""))
    assert os.listdir(outside) == ["a"]
    assert (outside / "a").read_bytes() == b"theirs"


def test_no_folder_is_made_behind_a_symlink(root):
    (root / "docs").mkdir()
    (root / "link").symlink_to("docs")
    (root / "dangling").symlink_to("nowhere")
    replace_file(root, "link/a", b"x", mode=0o644, expect=None)
    assert (root / "docs" / "a").read_bytes() == b"x"
    with pytest.raises(FileProblem, match="make its folder"):
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
    assert os.listdir(root) == ["AGENTS.md"]
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
    assert os.listdir(root) == ["CLAUDE.md"]


def test_removing_a_symlink_leaves_its_target(root):
    (root / "AGENTS.md").write_bytes(b"x")
    (root / "CLAUDE.md").symlink_to("AGENTS.md")
    with pytest.raises(RestoreRefused):
        remove_file(root, "CLAUDE.md", expect=sha(b"y"))
    assert (root / "CLAUDE.md").is_symlink()
    remove_file(root, "CLAUDE.md", expect=sha(b"x"))
    assert os.listdir(root) == ["AGENTS.md"]


# Somebody writes in between


def before_rename(monkeypatch, action):
    """Do something once, between the check and the moment when the name is taken."""
    left = [action]
    real = renames._rename

    def rename(*arguments):
        if left:
            left.pop()()
        return real(*arguments)

    monkeypatch.setattr(renames, "_rename", rename)


def replaced_by(root, name, data):
    (root / "elsewhere").write_bytes(data)
    (root / "elsewhere").replace(root / name)


@pytest.mark.parametrize("in_place", [True, False])
def test_write_between_check_and_rename_is_put_back(root, monkeypatch, in_place):
    (root / "a").write_bytes(b"old")

    def write():
        if in_place:
            (root / "a").write_bytes(b"theirs")
        else:
            replaced_by(root, "a", b"theirs")

    before_rename(monkeypatch, write)
    with pytest.raises(RestoreRefused):
        replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old"))
    assert (root / "a").read_bytes() == b"theirs"
    assert os.listdir(root) == ["a"]


def test_write_between_check_and_removal_is_put_back(root, monkeypatch):
    (root / "a").write_bytes(b"old")
    before_rename(monkeypatch, lambda: (root / "a").write_bytes(b"theirs"))
    with pytest.raises(RestoreRefused):
        remove_file(root, "a", expect=sha(b"old"))
    assert (root / "a").read_bytes() == b"theirs"
    assert os.listdir(root) == ["a"]


def test_file_that_appears_between_check_and_rename_is_kept(root, monkeypatch):
    before_rename(monkeypatch, lambda: (root / "a").write_bytes(b"theirs"))
    with pytest.raises(RestoreRefused, match="exists by now"):
        replace_file(root, "a", b"restored", mode=0o644, expect=None)
    assert (root / "a").read_bytes() == b"theirs"
    assert os.listdir(root) == ["a"]


def test_file_that_vanishes_between_check_and_rename_stays_away(root, monkeypatch):
    (root / "a").write_bytes(b"old")
    before_rename(monkeypatch, (root / "a").unlink)
    with pytest.raises(RestoreRefused):
        replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old"))
    assert os.listdir(root) == []


@pytest.mark.parametrize("what", ["folder", "symlink"])
def test_other_things_that_take_the_name_are_put_back(swapping, monkeypatch, what):
    root = swapping
    (root / "a").write_bytes(b"old")

    def take():
        (root / "a").unlink()
        if what == "folder":
            (root / "a").mkdir()
        else:
            (root / "a").symlink_to("/etc/passwd")

    before_rename(monkeypatch, take)
    with pytest.raises(RestoreRefused):
        replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old"))
    assert os.listdir(root) == ["a"]
    assert (root / "a").is_dir() if what == "folder" else (root / "a").is_symlink()


def during_settling(monkeypatch, action):
    """Do something once, right after the names were swapped."""
    left = [action]
    real = replace._settled

    def settled(*arguments):
        if left:
            left.pop()()
        return real(*arguments)

    monkeypatch.setattr(replace, "_settled", settled)


def test_second_write_during_the_way_back_loses_neither(swapping, monkeypatch):
    root = swapping
    (root / "a").write_bytes(b"old")
    before_rename(monkeypatch, lambda: (root / "a").write_bytes(b"first"))
    during_settling(monkeypatch, lambda: replaced_by(root, "a", b"second"))
    with pytest.raises(RestoreRefused, match="written twice") as caught:
        replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old"))
    (kept,) = leftovers(root)
    assert kept in str(caught.value)
    assert (root / "a").read_bytes() == b"second"
    assert (root / kept).read_bytes() == b"first"


def test_removal_during_the_way_back_loses_nothing(swapping, monkeypatch):
    root = swapping
    (root / "a").write_bytes(b"old")
    before_rename(monkeypatch, lambda: (root / "a").write_bytes(b"first"))
    during_settling(monkeypatch, (root / "a").unlink)
    with pytest.raises(RestoreRefused):
        replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old"))
    assert (root / "a").read_bytes() == b"first"
    assert os.listdir(root) == ["a"]


def test_new_file_during_a_refused_removal_loses_neither(swapping, monkeypatch):
    root = swapping
    (root / "a").write_bytes(b"old")
    before_rename(monkeypatch, lambda: (root / "a").write_bytes(b"first"))
    during_settling(monkeypatch, lambda: (root / "a").write_bytes(b"second"))
    with pytest.raises(RestoreRefused):
        remove_file(root, "a", expect=sha(b"old"))
    (kept,) = leftovers(root)
    assert ((root / "a").read_bytes(), (root / kept).read_bytes()) == (b"second", b"first")


def test_file_that_a_program_is_about_to_append_to_is_refused(swapping):
    root = swapping
    (root / "a").write_bytes(b"old")
    with (root / "a").open("ab") as appending:
        for change in (
            lambda: replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old")),
            lambda: remove_file(root, "a", expect=sha(b"old")),
        ):
            with pytest.raises(RestoreRefused, match="was being written"):
                change()
        appending.write(b" and more")
    assert (root / "a").read_bytes() == b"old and more"
    assert os.listdir(root) == ["a"]
    replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old and more"))
    assert (root / "a").read_bytes() == b"restored"


def test_reader_does_not_stand_in_the_way(root):
    (root / "a").write_bytes(b"old")
    with (root / "a").open("rb") as reading:
        replace_file(root, "a", b"new", mode=0o644, expect=sha(b"old"))
        assert reading.read() == b"old"


def test_racing_writer_loses_nothing(swapping):
    """Every content that ever had the name is found again: on disk, in the writer's hands, or replaced knowingly."""
    root = swapping
    name = root / "a"
    name.write_bytes(b"start")
    folder = os.open(root, os.O_RDONLY)
    written, taken_out, replaced, refused = [b"start"], [], [], 0
    turn, done = threading.Semaphore(0), threading.Event()
    choice = random.Random(7)

    def writer():
        number = 0
        while True:
            turn.acquire()
            if done.is_set():
                return
            for _ in range(choice.choice((1, 2, 3))):
                number += 1
                data = b"writer %d" % number
                (root / "mine").write_bytes(data)
                renames.exchange(folder, "mine", "a")
                written.append(data)
                taken_out.append((root / "mine").read_bytes())

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for number in range(300):
            expect = name.read_bytes()
            if choice.random() < 0.7:
                turn.release()
            try:
                replace_file(root, "a", b"restored %d" % number, mode=0o644, expect=sha(expect))
            except RestoreRefused:
                refused += 1
            else:
                written.append(b"restored %d" % number)
                replaced.append(expect)
    finally:
        done.set()
        turn.release()
        thread.join()
        os.close(folder)
    (root / "mine").unlink(missing_ok=True)
    found = [path.read_bytes() for path in root.iterdir()]
    assert refused > 10
    assert len(replaced) > 10
    assert set(written) <= {*found, *taken_out, *replaced}
    # What was replaced knowingly was really there, and only once.
    assert len(replaced) == len(set(replaced))


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from("wrd"), st.sampled_from([None, b"", b"1", b"2"]), st.binary(max_size=2))))
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
        assert len(os.listdir(root)) == (now is not None)


# The disk does not play along


@pytest.fixture
def full_disk(tmp_path):
    """A project with 64 KiB left, or a process that may write no larger file."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        try:
            yield folder, "no space left on device; free some space"
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    yield from small_files_only(folder)


@pytest.fixture
def small_files(tmp_path):
    yield from small_files_only(tmp_path)


def small_files_only(folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))
    try:
        yield folder, "file too large; raise the limit on file sizes"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("disk", ["full_disk", "small_files"])
def test_full_disk_leaves_the_old_file_and_nothing_else(request, disk):
    root, sentence = request.getfixturevalue(disk)
    (root / "a").write_bytes(b"old")
    for path, expect in (("a", sha(b"old")), ("new", None)):
        with pytest.raises(FileProblem, match=sentence) as caught:
            replace_file(root, path, b"x" * 100_000, mode=0o644, expect=expect)
        assert caught.value.path == path
    assert (root / "a").read_bytes() == b"old"
    assert os.listdir(root) == ["a"]
    replace_file(root, "a", b"small", mode=0o644, expect=sha(b"old"))
    assert (root / "a").read_bytes() == b"small"


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
    assert os.listdir(root) == ["a"]


def test_failed_write_takes_its_new_symlink_along(root, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(FileProblem):
        replace_file(root, "CLAUDE.md", b"x", mode=0o644, link="AGENTS.md", expect=None)
    monkeypatch.undo()
    assert os.listdir(root) == []


def test_owner_of_the_file_is_kept(root):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    (root / "a").write_bytes(b"old")
    os.chown(root / "a", 65534, 65534)
    replace_file(root, "a", b"new", mode=0o600, expect=sha(b"old"))
    found = (root / "a").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o600)
