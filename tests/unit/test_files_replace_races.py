"""Another program writes the file between two steps of a change, and no content is lost."""

import hashlib
import os
import random
import threading

import pytest

from atlas_sdk.errors import RestoreRefused
from atlas_sdk.files import remove_file, replace, replace_file
from atlas_sdk.files import renameat2 as renames


def sha(data):
    return hashlib.sha256(data).digest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def leftovers(root):
    return [name for name in names(root) if ".atlas-" in name]


@pytest.fixture(params=["swapping", "plain"])
def root(request, tmp_path, monkeypatch):
    """Return a project on a system that can swap names in one step, and one on a system that cannot."""
    if request.param == "plain":
        monkeypatch.setattr(renames, "_renameat2", lambda: None)
    return tmp_path


@pytest.fixture
def swapping(tmp_path):
    """Return a project on a system that swaps names. Only there is a write between two steps noticed."""
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


def before_rename(monkeypatch, action):
    """Call `action` once, after the check and right before the rename."""
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
    assert names(root) == ["a"]


def test_write_between_check_and_removal_is_put_back(root, monkeypatch):
    (root / "a").write_bytes(b"old")
    before_rename(monkeypatch, lambda: (root / "a").write_bytes(b"theirs"))
    with pytest.raises(RestoreRefused):
        remove_file(root, "a", expect=sha(b"old"))
    assert (root / "a").read_bytes() == b"theirs"
    assert names(root) == ["a"]


def test_file_that_appears_between_check_and_rename_is_kept(root, monkeypatch):
    before_rename(monkeypatch, lambda: (root / "a").write_bytes(b"theirs"))
    with pytest.raises(RestoreRefused, match="exists by now"):
        replace_file(root, "a", b"restored", mode=0o644, expect=None)
    assert (root / "a").read_bytes() == b"theirs"
    assert names(root) == ["a"]


def test_file_that_vanishes_between_check_and_rename_stays_away(root, monkeypatch):
    (root / "a").write_bytes(b"old")
    before_rename(monkeypatch, (root / "a").unlink)
    with pytest.raises(RestoreRefused):
        replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old"))
    assert names(root) == []


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
    assert names(root) == ["a"]
    assert (root / "a").is_dir() if what == "folder" else (root / "a").is_symlink()


def during_settling(monkeypatch, action):
    """Call `action` once, right after the names were swapped."""
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
    assert names(root) == ["a"]


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
    assert names(root) == ["a"]
    replace_file(root, "a", b"restored", mode=0o644, expect=sha(b"old and more"))
    assert (root / "a").read_bytes() == b"restored"


def test_reader_does_not_stand_in_the_way(root):
    (root / "a").write_bytes(b"old")
    with (root / "a").open("rb") as reading:
        replace_file(root, "a", b"new", mode=0o644, expect=sha(b"old"))
        assert reading.read() == b"old"


def test_racing_writer_loses_nothing(swapping):
    """Every content of the file is found again: on disk, with the writer, or as a content that was to be replaced."""
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
    # Each content that was to be replaced was really there, and was replaced only once.
    assert len(replaced) == len(set(replaced))
