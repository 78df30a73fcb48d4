"""Leftovers of a killed restore are whole, are found again, and are removed once their content is certainly stored."""

import hashlib
import os
import signal

import pytest

from atlas_sdk.files import Leftover, Tracking, leftovers, remove_leftover, replace_file, temporary
from atlas_sdk.files import renameat2 as renames


def sha(data):
    return hashlib.sha256(data).digest()


def in_a_child(action):
    """Run a function in a forked process; return the exit code of the process."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(call, number):
    """Kill this process at its `number`th system call of this name."""
    real = getattr(os, call)
    left = [number]

    def last(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(os, call, last)


@pytest.mark.parametrize("call", ["write", "fchmod", "fsync", "link", "unlink"])
@pytest.mark.parametrize("expect", [None, b"old"])
def test_kill_at_any_step_leaves_whole_files_only(tmp_path, call, expect):
    if expect is not None:
        (tmp_path / "a.md").write_bytes(expect)

    def replace():
        kill_at(call, 1)
        known = None if expect is None else sha(expect)
        replace_file(tmp_path, "a.md", b"new " * 1000, mode=0o644, expect=known)

    ended = in_a_child(replace)
    assert ended == (-signal.SIGKILL if (call, expect) != ("unlink", None) else 7)
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert there.get("a.md") in {expect, b"new " * 1000}
    left = list(leftovers(tmp_path, "", limit_bytes=10_000))
    assert {one.sha256 for one in left} <= {sha(b"new " * 1000), sha(b"old")}
    assert len(left) == len(there) - ("a.md" in there)
    for one in left:
        assert remove_leftover(tmp_path, one)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.md"}


def test_leftovers_are_known_by_name_type_and_size(tmp_path):
    name = temporary.temporary_name("CLAUDE.md")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / name).write_bytes(b"left")
    (tmp_path / "notes" / temporary.temporary_name("big")).write_bytes(b"x" * 11)
    (tmp_path / "notes" / temporary.temporary_name("link")).symlink_to("a.md")
    (tmp_path / "notes" / temporary.temporary_name("folder")).mkdir()
    for odd in ("a.md", ".a.md.atlas-0123", f"x{name}", ".atlas.toml"):
        (tmp_path / "notes" / odd).write_bytes(b"left")
    found = list(leftovers(tmp_path, "notes", limit_bytes=10))
    assert found == [Leftover(f"notes/{name}", sha(b"left"))]
    assert list(leftovers(tmp_path, "gone", limit_bytes=10)) == []
    assert Tracking().scan(tmp_path).leftovers


def test_leftover_that_changed_or_is_in_use_stays(tmp_path):
    name = temporary.temporary_name("CLAUDE.md")
    (tmp_path / name).write_bytes(b"one")
    assert not remove_leftover(tmp_path, Leftover(name, sha(b"other")))
    folder = os.open(tmp_path, os.O_RDONLY)
    temporary.share(folder)
    assert not remove_leftover(tmp_path, Leftover(name, sha(b"one")))
    os.close(folder)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    settles = renames.exchange(descriptor, name, name)
    os.close(descriptor)
    if settles:
        with (tmp_path / name).open("ab"):
            assert not remove_leftover(tmp_path, Leftover(name, sha(b"one")))
    assert remove_leftover(tmp_path, Leftover(name, sha(b"one")))
    assert not remove_leftover(tmp_path, Leftover(name, sha(b"one")))


def test_without_nameless_files_a_named_one_is_written(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    replace_file(tmp_path, "a.md", b"new", mode=0o640, expect=None)
    assert (tmp_path / "a.md").read_bytes() == b"new"
    assert (tmp_path / "a.md").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]
