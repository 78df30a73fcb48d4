"""On a full disk the old file stays, without leftovers."""

import hashlib
import os
import resource
import signal
import subprocess

import pytest

from atlas_sdk.errors import FileProblem
from atlas_sdk.files import replace_file


def sha(data):
    return hashlib.sha256(data).digest()


@pytest.fixture
def full_disk(tmp_path):
    """Yield a folder on a disk with 64 KiB left, or limit files to this size; also yield the text of the error."""
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
    assert [path.name for path in root.iterdir()] == ["a"]
    replace_file(root, "a", b"small", mode=0o644, expect=sha(b"old"))
    assert (root / "a").read_bytes() == b"small"
