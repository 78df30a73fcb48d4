"""A folder that root makes gets another owner only if it is still the folder that root made."""

import os

import pytest

from atlas_sdk.files import ownership

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away: run the tests as root")


@pytest.fixture
def folder(tmp_path):
    os.chown(tmp_path, NOBODY, NOBODY)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def swapping_mkdir(monkeypatch, tmp_path, take_its_place):
    """Let `take_its_place` put something else in the place of a folder right after it was made."""
    real = os.mkdir

    def mkdir(name, *arguments, **options):
        real(name, *arguments, **options)
        (tmp_path / name).rename(tmp_path / "made")
        take_its_place(tmp_path / name)

    monkeypatch.setattr(os, "mkdir", mkdir)


def test_new_folder_belongs_to_the_owner_of_the_folder_above(folder, tmp_path):
    ownership.folder_maker((0o750,))(folder, "new", 0)
    found = (tmp_path / "new").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (NOBODY, NOBODY, 0o750)


def test_full_folder_of_root_in_its_place_is_not_given_away(folder, tmp_path, monkeypatch):
    (tmp_path / "root's own").mkdir(mode=0o700)
    (tmp_path / "root's own" / "key").write_text("secret")
    swapping_mkdir(monkeypatch, tmp_path, (tmp_path / "root's own").rename)
    ownership.folder_maker((0o777,))(folder, "new", 0)
    found = (tmp_path / "new").stat()
    assert (found.st_uid, found.st_mode & 0o777) == (0, 0o700)
    assert (tmp_path / "new" / "key").stat().st_uid == 0


def test_symlink_in_its_place_is_not_followed(folder, tmp_path, tmp_path_factory, monkeypatch):
    outside = tmp_path_factory.mktemp("outside")
    mode = outside.stat().st_mode
    swapping_mkdir(monkeypatch, tmp_path, lambda name: name.symlink_to(outside))
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        ownership.folder_maker((0o777,))(folder, "new", 0)
    assert (outside.stat().st_uid, outside.stat().st_mode) == (0, mode)


def test_folder_that_somebody_else_made_is_left_alone(folder, tmp_path):
    (tmp_path / "there").mkdir(mode=0o711)
    ownership.folder_maker((0o777,))(folder, "there", 0)
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o711
