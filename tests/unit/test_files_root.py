"""A project's folder is reached without a symlink, and recognised by device and inode."""

import os
import re
from pathlib import Path

import pytest

from atlas_sdk.errors import FileProblem
from atlas_sdk.files import Root, Tracking, hold, pin, read_file, remove_file, replace_file, signature


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "above" / "project"
    folder.mkdir(parents=True)
    (folder / "a.md").write_bytes(b"inside")
    return folder


def every_way_in(root):
    """Return each function that reaches into a project, ready to be called."""
    return {
        "read_file": lambda: read_file(root, "a.md", limit_bytes=100),
        "signature": lambda: signature(root, "a.md"),
        "settings": lambda: Tracking.load(root),
        "scan": lambda: Tracking().scan(root),
        "replace": lambda: replace_file(root, "new.md", b"x", mode=0o644, expect=None),
        "link": lambda: replace_file(root, "link.md", b"x", mode=0o644, link="new.md", expect=None),
        "remove": lambda: remove_file(root, "a.md", expect=b"0" * 32),
        "pin": lambda: pin(root),
    }


@pytest.mark.parametrize("way", every_way_in(None))
@pytest.mark.parametrize("part", ["project", "above"])
def test_no_way_in_follows_a_symlink_on_the_way_to_the_project(root, way, part):
    swapped = root if part == "project" else root.parent
    elsewhere = swapped.with_name("elsewhere")
    swapped.rename(elsewhere)
    swapped.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(FileProblem) as caught:
        every_way_in(root)[way]()
    assert f"{part} in its path is a symlink to {elsewhere}, and Atlas does not follow it" in str(caught.value)
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("way", every_way_in(None))
def test_another_folder_under_the_same_name_is_refused(root, way):
    pinned = pin(root)
    root.rename(root.with_name("before"))
    root.mkdir()
    (root / "a.md").write_bytes(b"another")
    with pytest.raises(FileProblem, match="is another folder than a moment ago"):
        every_way_in(pinned)[way]()
    assert [path.name for path in root.iterdir()] == ["a.md"]
    assert read_file(root, "a.md", limit_bytes=100).content == b"another"


def test_folder_that_is_held_stays_the_same_one(root):
    with hold(pin(root)) as held:
        root.rename(root.with_name("moved"))
        root.mkdir()
        assert read_file(held, "a.md", limit_bytes=100).content == b"inside"
        assert Tracking(include=("*.md",)).scan(held).paths == ("a.md",)


def test_moved_back_is_the_same_folder(root):
    pinned = pin(root)
    root.rename(root.with_name("moved"))
    root.with_name("moved").rename(root)
    assert read_file(pinned, "a.md", limit_bytes=100).content == b"inside"


def test_folder_above_need_not_be_listable(root):
    if os.geteuid() != 0:
        pytest.skip("root alone can take its own access away and prove it by another user: run the tests as root")
    for folder in [*root.relative_to("/").parents][:-1]:
        Path("/", folder).chmod(0o711)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os._exit(0 if read_file(root, "a.md", limit_bytes=100).content == b"inside" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_path_by_name_is_made_absolute_by_its_letters(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    assert read_file(Path("project"), "a.md", limit_bytes=100).content == b"inside"
    assert read_file(Path("../above/./project"), "a.md", limit_bytes=100).content == b"inside"


def test_the_whole_file_system_is_a_project_too():
    found = Path("/").stat()
    assert pin(Path("/")).identity == (found.st_dev, found.st_ino)


def test_missing_and_odd_folders_are_problems(root):
    with pytest.raises(FileProblem, match="no such file or directory; mount or restore it"):
        pin(root / "gone")
    with pytest.raises(FileProblem, match=re.escape("not a directory")):
        pin(root / "a.md")


def test_no_descriptor_is_left(root):
    before = len(list(Path("/dev/fd").iterdir()))
    link = root.with_name("link")
    link.symlink_to(root)
    for one in (root, link, root / "gone", Root(root, (0, 0))):
        try:
            pin(one)
        except FileProblem:
            continue
    assert len(list(Path("/dev/fd").iterdir())) == before
