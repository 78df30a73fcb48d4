"""Files that the user may not touch.

Mode bits do not bind root, so each check runs in a child process of another user.
"""

import hashlib
import os
import tempfile
import traceback
import warnings
from pathlib import Path

import pytest

from atlas_sdk.errors import FileProblem
from atlas_sdk.files import Tracking, read_file, remove_file, replace_file, signature

NOBODY = 65534


def as_nobody(check):
    """Run a check in a forked child without root's rights. Fail if the check fails."""
    with warnings.catch_warnings():
        # Python 3.12 warns that another thread may hold a lock. The child only makes a few system calls.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            check()
        except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def root():
    """Yield a project that every user can enter and write. Other users cannot enter pytest's own folders."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o777)
        yield root
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            folder.chmod(0o700)


def test_unreadable_file_is_a_problem_with_advice(root):
    (root / "CLAUDE.md").write_bytes(b"secret")
    (root / "CLAUDE.md").chmod(0)

    def check():
        with pytest.raises(FileProblem) as caught:
            read_file(root, "CLAUDE.md", limit_bytes=100)
        assert caught.value.path == "CLAUDE.md"
        assert str(caught.value) == (
            "cannot read CLAUDE.md: permission denied; let the user who runs Atlas have access to it and to its folder"
        )
        assert signature(root, "CLAUDE.md").size == 6

    as_nobody(check)


def test_unreadable_folder_is_skipped_and_the_rest_is_found(root):
    (root / "CLAUDE.md").write_bytes(b"@docs/a.md")
    (root / "NOTES.md").write_bytes(b"")
    for name in ("notes", "docs"):
        (root / name).mkdir()
        (root / name / "a.md").write_bytes(b"")
        (root / name).chmod(0)

    def check():
        found = Tracking().scan(root)
        assert found.paths == ("CLAUDE.md", "NOTES.md")
        assert [one.path for one in found.skipped] == ["notes"]
        assert "cannot list notes: permission denied" in found.skipped[0].reason

    as_nobody(check)


def test_unreadable_instructions_are_found_although_their_imports_are_not(root):
    (root / "CLAUDE.md").write_bytes(b"@a.md")
    (root / "CLAUDE.md").chmod(0)
    (root / "a.md").write_bytes(b"")

    def check():
        assert Tracking().scan(root).paths == ("CLAUDE.md",)

    as_nobody(check)


def test_unreadable_project_is_a_problem(root):
    (root / "project").mkdir(mode=0)
    (root / "project").chmod(0)

    def check():
        for look in (
            lambda: Tracking().scan(root / "project"),
            lambda: read_file(root / "project", "CLAUDE.md", limit_bytes=1),
        ):
            with pytest.raises(FileProblem, match="permission denied; let the user"):
                look()

    as_nobody(check)


def test_folder_without_write_permission_leaves_the_file(root):
    (root / "docs").mkdir()
    (root / "docs" / "a.md").write_bytes(b"old")
    (root / "docs" / "a.md").chmod(0o666)
    (root / "docs").chmod(0o555)
    expect = hashlib.sha256(b"old").digest()

    def check():
        with pytest.raises(FileProblem, match=r"cannot write docs/a\.md: permission denied"):
            replace_file(root, "docs/a.md", b"new", mode=0o644, expect=expect)
        with pytest.raises(FileProblem, match=r"cannot write docs/sub/b\.md: permission denied"):
            replace_file(root, "docs/sub/b.md", b"new", mode=0o644, expect=None)
        with pytest.raises(FileProblem, match=r"cannot remove docs/a\.md: permission denied"):
            remove_file(root, "docs/a.md", expect=expect)

    as_nobody(check)
    assert [path.name for path in (root / "docs").iterdir()] == ["a.md"]
    assert (root / "docs" / "a.md").read_bytes() == b"old"


def test_file_of_another_user_is_replaced_where_the_folder_allows_it(root):
    (root / "a.md").write_bytes(b"old")
    (root / "a.md").chmod(0o644)

    def check():
        replace_file(root, "a.md", b"new", mode=0o600, expect=hashlib.sha256(b"old").digest())
        assert (root / "a.md").read_bytes() == b"new"

    as_nobody(check)
    assert (root / "a.md").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in root.iterdir()] == ["a.md"]
