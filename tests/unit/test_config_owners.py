"""Settings that another user of the machine wrote have no effect and cause no error."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_files_unprivileged import NOBODY, as_nobody

from atlas_sdk.cli import main
from atlas_sdk.config import Settings, load_settings, user_file
from atlas_sdk.errors import InvalidInput

MALLORY = 65533


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that gives files to another user.

    Only root can do this. Without root, the function changes the user id that the process sees as its own.
    """

    def give(*paths: Path) -> None:
        if os.geteuid() != 0:
            monkeypatch.setattr(os, "geteuid", lambda: MALLORY)
            return
        for path in paths:
            os.chown(path, MALLORY, MALLORY, follow_symlinks=False)

    return give


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [one for one in os.environ if one.startswith("ATLAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "above" / "app"
    folder.mkdir(parents=True)
    return folder


_OURS = "[atlas]\ncolor = 'never'\n"
_BROKEN = "x="


def test_a_file_of_another_user_above_does_not_count(project, give_away):
    (project.parent / ".atlas.toml").write_text(_BROKEN)
    give_away(project.parent / ".atlas.toml")
    assert load_settings(project) == Settings()


def test_the_search_goes_on_above_a_file_that_does_not_count(project, give_away, tmp_path):
    (tmp_path / ".atlas.toml").write_text(_OURS)
    assert load_settings(project).color == "never"
    (project / ".atlas.toml").symlink_to(tmp_path / "elsewhere")
    assert load_settings(project).color == "never"


@pytest.mark.skipif("os.geteuid() != 0", reason="only root can have folders of others")
def test_the_search_ends_at_a_folder_of_another_user(project, tmp_path):
    (tmp_path / ".atlas.toml").write_text(_OURS)
    os.chown(project.parent, MALLORY, MALLORY)
    assert load_settings(project) == Settings()
    # The same is true if the search starts in that folder.
    (project.parent / ".atlas.toml").write_text(_OURS)
    assert load_settings(project.parent) == Settings()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_the_search_ends_at_a_folder_where_everybody_may_write(project, mode, caplog):
    caplog.set_level("INFO", "atlas_sdk.config")
    (project.parent / ".atlas.toml").write_text(_OURS)
    assert load_settings(project).color == "never"
    project.parent.chmod(mode)
    assert load_settings(project) == Settings()
    assert "does not count: others can put files into its folder" in caplog.text


def test_a_symlink_is_not_followed(project, tmp_path):
    secret = tmp_path / "secret.toml"
    secret.write_text("[atlas]\ncolor = 's3cret'\n")
    (project / ".atlas.toml").symlink_to(secret)
    assert load_settings(project) == Settings()


def test_a_fifo_or_a_device_is_no_settings(project):
    os.mkfifo(project / ".atlas.toml")
    assert load_settings(project) == Settings()
    user_file().parent.mkdir(parents=True)
    os.mkfifo(user_file())
    with pytest.raises(InvalidInput, match=r"config\.toml: is not a regular file"):
        load_settings()


def test_the_users_file_of_another_user_is_refused(give_away):
    user_file().parent.mkdir(parents=True)
    user_file().write_text("[atlas]\ndatabase_url = 'postgresql://evil.example/x'\n")
    give_away(user_file())
    with pytest.raises(InvalidInput, match=r"config\.toml: belongs to another user, number \d+: make it yours"):
        load_settings()


def test_the_users_file_that_everybody_can_write_is_refused():
    user_file().parent.mkdir(parents=True)
    user_file().write_text(_OURS)
    user_file().chmod(0o646)
    with pytest.raises(InvalidInput, match=r"config\.toml: can be written by everybody: chmod o-w /"):
        load_settings()
    user_file().chmod(0o644)
    assert load_settings().color == "never"


def test_the_users_file_may_be_a_link_to_where_dotfiles_are(tmp_path):
    (tmp_path / "dotfiles.toml").write_text(_OURS)
    user_file().parent.mkdir(parents=True)
    user_file().symlink_to(tmp_path / "dotfiles.toml")
    assert load_settings().color == "never"


@pytest.mark.parametrize("line", [["watch"], ["db", "url"], ["db", "status"], ["db", "migrate"], ["db", "maintain"]])
def test_a_command_that_is_about_no_project_reads_no_settings_of_one(project, monkeypatch, line, capsys):
    (project / ".atlas.toml").write_text(_BROKEN)
    monkeypatch.chdir(project)
    # After the settings, each command fails with a wrong DSN or home, so the test needs no server.
    monkeypatch.setenv("ATLAS_DATABASE_URL", "host=h password='")
    monkeypatch.setenv("ATLAS_HOME", str(project / "home"))
    if line == ["watch"]:
        monkeypatch.setattr("watcher.daemon.run", lambda **_: 2)
    assert main(line) == 2
    assert ".atlas.toml" not in capsys.readouterr().err
    assert main(["log"]) == 2
    assert ".atlas.toml: is not TOML" in capsys.readouterr().err


@pytest.fixture
def sticky() -> Iterator[Path]:
    """Yield a folder with the mode of /tmp. Other users cannot enter pytest's own folders."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        yield Path(name)


@pytest.mark.skipif("os.geteuid() != 0", reason="three users are needed")
def test_two_users_and_a_sticky_folder(sticky, monkeypatch):
    """The account `nobody` has a project in the folder. Mallory puts settings beside it, or a link to a file of nobody.

    The settings beside the project have no effect.
    """
    vp, secret = sticky / "vp", sticky / "secret"
    vp.mkdir()
    secret.write_text("[atlas]\ncolor = 's3cret'\n")
    for path in (vp, secret):
        os.chown(path, NOBODY, NOBODY)
    secret.chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(vp / "config"))
    trap = sticky / ".atlas.toml"

    def check() -> None:
        assert load_settings(vp) == Settings()

    for put in (lambda: trap.write_text(_BROKEN), lambda: trap.symlink_to(secret)):
        put()
        os.chown(trap, MALLORY, MALLORY, follow_symlinks=False)
        as_nobody(check)
        trap.unlink()

    # A hard link to a file that belongs to `nobody` has no effect either.
    os.link(secret, trap)
    assert stat.S_ISREG(trap.stat().st_mode)
    as_nobody(check)
