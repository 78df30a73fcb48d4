"""The home and the files in it belong to the caller alone, or are refused in a sentence."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from atlas_sdk import Atlas, EmbeddedServerFailed, FileProblem, InvalidInput
from atlas_sdk._shared_versions import SharedVersions
from atlas_sdk.config import home_folder, load_settings
from atlas_sdk.home import check_private_file, open_private_file, prepare_home, private_folder
from watcher.daemon import run
from watcher.lock import LOCK, holder, take
from watcher.status import STATUS, Status, read_status, write

ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def of_another_user(path: Path) -> Path:
    """Give a file or folder to another user. Without root, return one that belongs to root instead."""
    if not ROOT:
        return Path("/usr") if path.is_dir() else Path("/etc/passwd")
    os.chown(path, NOBODY, NOBODY)
    return path


def test_missing_folders_above_the_home_are_made_private(tmp_path):
    home = prepare_home(tmp_path / "a" / "b" / "home")
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (home, home.parent, home.parent.parent)] == [0o700] * 3


def test_a_home_that_others_may_read_is_accepted_and_keeps_its_mode(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    assert prepare_home(home) == home
    assert stat.S_IMODE(home.stat().st_mode) == 0o755


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_home_that_others_may_write_to_is_refused(tmp_path, mode):
    home = tmp_path / "it's home"
    home.mkdir()
    home.chmod(mode)
    with pytest.raises(FileProblem, match=rf"mode {mode:04o}\).*chmod go-w '.*home'"):
        prepare_home(home)
    assert list(home.iterdir()) == []


def test_a_home_of_another_user_is_refused(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    with pytest.raises(FileProblem, match=r"belongs to OS user id \d+; work as that user, or set ATLAS_HOME"):
        prepare_home(of_another_user(home))


def test_a_folder_above_in_which_everybody_may_rename_is_refused(tmp_path):
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(FileProblem, match=r"every user may write to .*above \(mode 0777\)"):
        prepare_home(above / "deep" / "home")
    assert list(above.iterdir()) == []
    above.chmod(0o1777)
    assert prepare_home(above / "deep" / "home") == above / "deep" / "home"


def test_links_on_the_way_are_followed_when_nobody_else_can_change_them(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to("real")
    assert prepare_home(link / "home") == tmp_path / "real" / "home"
    assert prepare_home(link / ".." / "real" / "home") == tmp_path / "real" / "home"
    if not ROOT:
        pytest.skip("the rest needs root, to give a link to another OS user")
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(FileProblem, match=f"through the link {link} of OS user id {NOBODY}, who could change it"):
        prepare_home(link / "home")


@pytest.mark.parametrize("kind", ["file", "below a file", "loop", "line break"])
def test_what_cannot_be_a_home_is_said(tmp_path, kind):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    home, sentence = {
        "file": (tmp_path / "file", "is not a folder"),
        "below a file": (tmp_path / "file" / "home", "cannot be used: not a directory"),
        "loop": (tmp_path / "loop", "too many links"),
        "line break": (tmp_path / "a\nb", "has a line break in its name"),
    }[kind]
    with pytest.raises(FileProblem, match=f"{sentence}.*set ATLAS_HOME to a folder of your own"):
        prepare_home(home)
    with pytest.raises(EmbeddedServerFailed, match=f"{sentence}.*or give a server with --dsn"):
        Atlas.open(home=home)


def make_odd(path: Path, kind: str, tmp_path: Path) -> None:
    """Replace a file by something that is not a private file."""
    path.unlink(missing_ok=True)
    if kind == "link":
        target = tmp_path / "target"
        target.write_text("theirs")
        target.chmod(0o600)
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.write_text("ours")
        path.chmod(0o660 if kind == "of a group" else 0o604)


ODD = ["link", "folder", "pipe", "of a group", "readable"]


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_private_file_is_not_opened(tmp_path, kind):
    path = tmp_path / "file"
    make_odd(path, kind, tmp_path)
    with pytest.raises(FileProblem, match=r"is a link, which is not followed|cannot be opened|is not a private file"):
        os.close(open_private_file(path, os.O_RDWR | os.O_CREAT))
    with pytest.raises(FileProblem, match="is not a private file"):
        check_private_file(path)


def test_a_file_of_another_user_is_not_opened(tmp_path):
    path = tmp_path / "file"
    path.touch(mode=0o600)
    theirs = of_another_user(path)
    for check in (check_private_file, lambda path: os.close(open_private_file(path, os.O_RDONLY))):
        with pytest.raises(FileProblem, match="is not a private file of this OS user .a file, owner id"):
            check(theirs)


def test_a_private_file_is_made_and_opened_again(tmp_path):
    path = check_private_file(tmp_path / "file")
    os.close(open_private_file(path, os.O_RDWR | os.O_CREAT))
    os.close(open_private_file(path, os.O_RDWR))
    assert stat.S_IMODE(check_private_file(path).stat().st_mode) == 0o600
    with pytest.raises(FileNotFoundError):
        open_private_file(tmp_path / "missing", os.O_RDONLY)


def test_a_folder_that_others_can_enter_or_a_link_is_no_private_one(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(private_folder(tmp_path / "mine"))
    for name in ("open", "link"):
        with pytest.raises(FileProblem, match="is not a private folder of this OS user"):
            private_folder(tmp_path / name)


@pytest.mark.parametrize("kind", ODD)
def test_the_table_of_versions_is_private(tmp_path, kind):
    make_odd(tmp_path / "heads", kind, tmp_path)
    with pytest.raises(FileProblem, match=r"heads"):
        SharedVersions(tmp_path / "heads")


@pytest.mark.parametrize("name", ["home", "watcher", "lock"])
def test_a_watcher_refuses_a_home_that_another_user_could_change(tmp_path, name, caplog):
    os.close(take(tmp_path))
    {"home": tmp_path, "watcher": tmp_path / LOCK.parent, "lock": tmp_path / LOCK}[name].chmod(0o777)
    assert run(dsn="postgresql:///nowhere", home=tmp_path) == 1
    assert "0777" in caplog.text


@pytest.mark.parametrize("kind", ODD)
def test_a_lock_or_status_that_another_user_could_have_made_says_nothing(tmp_path, kind):
    lock = take(tmp_path)
    status = Status(pid=os.getpid(), started_at=Status(pid=1, started_at="2026-02-03T04:05:06+00:00").started_at)
    write(tmp_path, status)
    text = (tmp_path / STATUS).read_text()
    make_odd(tmp_path / STATUS, kind, tmp_path)
    for path in (tmp_path / STATUS, tmp_path / "target"):
        if path.is_file():
            path.write_text(text)
    assert read_status(tmp_path) != status
    if kind != "folder":
        write(tmp_path, status)
        assert read_status(tmp_path) == status
    os.close(lock)
    make_odd(tmp_path / LOCK, kind, tmp_path)
    assert holder(tmp_path / LOCK) is None


def test_status_is_not_written_through_a_link_of_a_killed_write(tmp_path):
    lock = take(tmp_path)
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / f"{STATUS}.new").symlink_to(target)
    write(tmp_path, Status(pid=os.getpid(), started_at="2026-02-03T04:05:06+00:00"))
    assert target.read_text() == "mine"
    assert read_status(tmp_path).pid == os.getpid()
    os.close(lock)


def test_a_relative_home_is_taken_from_the_current_folder_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATLAS_HOME", "memory")
    assert home_folder() == load_settings().folder == tmp_path / "memory"
    assert load_settings(home="other").folder == tmp_path / "other"
    monkeypatch.setenv("ATLAS_HOME", "")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert home_folder() == Path("/home/ada/.local/share/atlasengine")


@pytest.mark.parametrize("given", ["~nobody-has-this-name/x", "a\0b"])
def test_a_home_that_is_no_folder_is_said(given, monkeypatch):
    with pytest.raises(InvalidInput, match="^home '"):
        load_settings(home=given).folder  # noqa: B018
    for home in (given, ""):
        with pytest.raises(InvalidInput, match="^home '"):
            Atlas.open(home=home)
    if "\0" not in given:
        monkeypatch.setenv("ATLAS_HOME", given)
        with pytest.raises(InvalidInput, match="^ATLAS_HOME '"):
            home_folder()


def test_a_user_without_a_folder_is_told_to_name_one(monkeypatch):
    def unknown(path):
        return path  # as os.path.expanduser does without HOME for an unknown user id

    for name in ("ATLAS_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", unknown)
    with pytest.raises(InvalidInput, match="set ATLAS_HOME to a folder"):
        home_folder()
