"""No file is read over a path that leaves the project."""

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from atlas_sdk.errors import FileProblem, InvalidInput, OutsideProject
from atlas_sdk.files import read_file, safe_open, signature
from atlas_sdk.files.renameat2 import exchange
from atlas_sdk.files.safe_open import MOST_HOPS, open_folder

LIMIT = 2**20


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "secret.md").write_bytes(b"secret")
    return folder


def content(root, path):
    state = read_file(root, path, limit_bytes=LIMIT)
    return None if state is None else state.content


def test_symlink_out_of_the_project_is_refused(root):
    (root / "CLAUDE.md").symlink_to("../secret.md")
    for look in (lambda: content(root, "CLAUDE.md"), lambda: signature(root, "CLAUDE.md")):
        with pytest.raises(OutsideProject) as caught:
            look()
        assert caught.value.path == "CLAUDE.md"
        assert str(caught.value) == (
            "CLAUDE.md is a symlink to ../secret.md, outside the project; Atlas does not follow it: "
            "replace it with a copy, or track the target's own project"
        )


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "..",
        "../project/a.md",
        "docs/../../secret.md",
        "../../../../../../../etc/passwd",
        "../project2/a",
    ],
)
def test_every_way_out_is_refused(root, text):
    (root / "docs").mkdir()
    (root / "a.md").write_bytes(b"a")
    (root / "CLAUDE.md").symlink_to(text)
    with pytest.raises(OutsideProject):
        content(root, "CLAUDE.md")


def test_folder_symlink_out_of_the_project_is_refused_by_its_own_name(root):
    (root / "docs").symlink_to("..")
    with pytest.raises(OutsideProject, match=r"^docs is a symlink to \.\., outside"):
        content(root, "docs/secret.md")


def test_chain_that_leaves_in_its_second_hop_names_the_second_link(root):
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("../secret.md")
    with pytest.raises(OutsideProject, match=r"^two is a symlink to \.\./secret.md"):
        content(root, "one")


def test_parts_after_an_inner_link_are_blamed_on_the_link_that_has_them(root):
    (root / "sub").mkdir()
    (root / "sub" / "in").symlink_to("../deep")
    (root / "deep").mkdir()
    (root / "CLAUDE.md").symlink_to("sub/in/../../secret.md")
    with pytest.raises(OutsideProject, match=r"^CLAUDE.md is a symlink"):
        content(root, "CLAUDE.md")


def test_symlinks_inside_the_project_are_followed(root):
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "docs" / "a.md").write_bytes(b"inside")
    (root / "relative").symlink_to("docs/a.md")
    (root / "absolute").symlink_to(root / "docs" / "a.md")
    (root / "folder").symlink_to("docs/deep")
    # As in the kernel, `..` after a symlink is the parent of the symlink's target.
    (root / "upwards").symlink_to("folder/../a.md")
    (root / "docs" / "back").symlink_to("../docs/./a.md")
    (root / "docs" / "from-the-top").symlink_to(root / "docs" / "a.md")
    for path in ("relative", "absolute", "upwards", "docs/back", "docs/from-the-top"):
        assert content(root, path) == b"inside"


def test_absolute_symlink_through_another_name_of_the_project(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    (root / "a.md").write_bytes(b"inside")
    (root / "link").symlink_to(tmp_path / "alias" / "a.md")
    assert content(root, "link") == b"inside"


def test_symlink_loop_is_refused(root):
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    with pytest.raises(FileProblem, match="more than 40 symlinks"):
        content(root, "one")


def test_forty_hops_are_followed_and_no_more(root):
    (root / "0").write_bytes(b"end")
    for number in range(MOST_HOPS + 1):
        (root / str(number + 1)).symlink_to(str(number))
    assert content(root, str(MOST_HOPS)) == b"end"
    with pytest.raises(FileProblem, match="more than 40"):
        content(root, str(MOST_HOPS + 1))


def test_symlinks_of_many_parts_end_soon(root, monkeypatch):
    (root / "a").mkdir()
    (root / "0").write_bytes(b"end")
    for number in range(MOST_HOPS - 1):
        (root / str(number + 1)).symlink_to("a/../" * 500 + str(number))
    assert content(root, "2") == b"end"
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *arguments, **options: opened.append(1) or real(*arguments, **options))
    with pytest.raises(FileProblem, match="symlinks of more than 2,048 parts"):
        content(root, str(MOST_HOPS - 1))
    assert len(opened) < 2048


def test_dangling_symlink_is_no_file(root):
    (root / "CLAUDE.md").symlink_to("gone/AGENTS.md")
    assert content(root, "CLAUDE.md") is None
    assert signature(root, "CLAUDE.md") is None


@pytest.mark.parametrize("text", [".", "docs", "docs/"])
def test_symlink_to_a_folder_is_no_file(root, text):
    (root / "docs").mkdir()
    (root / "CLAUDE.md").symlink_to(text)
    with pytest.raises(FileProblem, match="is a directory"):
        content(root, "CLAUDE.md")


def test_directory_named_like_a_file_is_a_problem(root):
    (root / "CLAUDE.md").mkdir()
    for look in (lambda: content(root, "CLAUDE.md"), lambda: signature(root, "CLAUDE.md")):
        with pytest.raises(FileProblem, match=r"^CLAUDE.md is a directory"):
            look()


def test_fifo_does_not_block(root):
    os.mkfifo(root / "CLAUDE.md")
    with pytest.raises(FileProblem, match="is a FIFO"):
        content(root, "CLAUDE.md")


def test_socket_is_a_problem(root, monkeypatch):
    # The path of a socket has 107 bytes at most.
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("CLAUDE.md")
        with pytest.raises(FileProblem, match="is a socket"):
            content(root, "CLAUDE.md")


def test_device_is_a_problem(root):
    try:
        os.mknod(root / "CLAUDE.md", 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(FileProblem, match="is a character device"):
        content(root, "CLAUDE.md")


@pytest.mark.parametrize("path", ["../secret.md", "/etc/passwd", "docs/../../secret.md"])
def test_path_of_the_program_itself_cannot_leave(root, path):
    with pytest.raises(OutsideProject):
        content(root, path)


@pytest.mark.parametrize("path", ["", "a//b", "./a", "a\0b"])
def test_path_that_is_not_normal_is_invalid(root, path):
    with pytest.raises(InvalidInput):
        content(root, path)


def test_file_where_a_folder_should_be_is_no_file(root):
    (root / "docs").write_bytes(b"")
    assert content(root, "docs/a.md") is None
    assert signature(root, "docs/a.md") is None


def test_missing_project_is_a_problem_and_not_a_deletion(root):
    gone = root / "gone"
    for look in (lambda: content(gone, "CLAUDE.md"), lambda: signature(gone, "CLAUDE.md")):
        with pytest.raises(FileProblem, match="cannot open the project"):
            look()


def test_folder_is_not_opened_through_a_symlink(root):
    (root / "real").mkdir()
    (root / "docs").symlink_to("real")
    with pytest.raises(NotADirectoryError), open_folder(root, "docs"):
        pass


def test_swapping_a_folder_for_a_symlink_shows_nothing_from_outside(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.md").write_bytes(b"secret")
    (root / "docs").mkdir()
    (root / "docs" / "a.md").write_bytes(b"inside")
    (root / "other").symlink_to("../outside")
    descriptor = os.open(root, os.O_RDONLY)
    if not exchange(descriptor, "docs", "other"):
        pytest.skip("this system swaps no names")
    done = threading.Event()
    flips = 0

    def flip():
        nonlocal flips
        while not done.is_set():
            exchange(descriptor, "docs", "other")
            flips += 1

    thread = threading.Thread(target=flip)
    thread.start()
    seen = set()
    try:
        for _ in range(2000):
            try:
                seen.add(content(root, "docs/a.md"))
            except OutsideProject:
                seen.add("refused")
    finally:
        done.set()
        thread.join()
        os.close(descriptor)
    assert flips > 100
    # None means that the folder was swapped at every step of the walk. The next look finds the file again.
    assert seen <= {b"inside", "refused", None}
    assert {b"inside", "refused"} <= seen


def test_file_that_becomes_a_symlink_after_the_look_is_not_followed(root, monkeypatch):
    (root / "a.md").write_bytes(b"inside")
    real = safe_open.link_text

    def look(folder, name):
        found = real(folder, name)
        (root / "a.md").unlink()
        (root / "a.md").symlink_to("../secret.md")
        return found

    monkeypatch.setattr(safe_open, "link_text", look)
    with pytest.raises(OutsideProject):
        content(root, "a.md")


def test_file_that_is_a_symlink_at_every_second_look_is_a_problem(root, monkeypatch):
    (root / "a.md").symlink_to("../secret.md")
    monkeypatch.setattr(safe_open, "link_text", lambda *_: None)
    with pytest.raises(FileProblem, match="changes between a file and a symlink"):
        content(root, "a.md")


def test_no_descriptor_stays_open(root):
    (root / "docs").mkdir()
    (root / "docs" / "a.md").write_bytes(b"x")
    (root / "link").symlink_to("docs/../docs/a.md")
    (root / "out").symlink_to("docs/../../secret.md")
    os.mkfifo(root / "docs" / "fifo")
    before = len(list(Path("/dev/fd").iterdir()))
    for path in ("docs/a.md", "link", "out", "docs/fifo", "docs/gone", "gone/a"):
        with contextlib.suppress(FileProblem):
            content(root, path)
    assert len(list(Path("/dev/fd").iterdir())) == before
