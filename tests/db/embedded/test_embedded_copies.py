"""Copied and moved homes: a copy is an independent home or is refused, and never touches the original."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from embedded_homes import started_home
from homes import ROOT, Homes, copy, is_up, put, stop, supervisor_of, until, user_process, value, words
from made_once import made_once
from patience import PATIENCE_S

from atlas_sdk._embedded import EmbeddedServer, identity, places, postmaster, supervisor
from atlas_sdk._embedded.account import find_account
from atlas_sdk._embedded.cluster import Cluster
from atlas_sdk._embedded.places import Site
from atlas_sdk.errors import EmbeddedServerFailed


def _with_word(folder: Path) -> None:
    made = Homes(folder)
    home = made()
    home.mkdir(mode=0o755)
    put(made.use(started_home(home)), "one")
    made.close()


def kept(home: Path) -> Path:
    """Make a stopped home with one word. Its data is inside if the server's account can enter the home."""
    return copy(made_once("kept", _with_word) / "home", home)


def linked(homes: Homes, folder: Path) -> Path:
    """Make a stopped home whose data is behind a link, as in root's homes."""
    home = homes("linked")
    if not ROOT:
        home.mkdir(mode=0o700)
        (folder / "data").mkdir(mode=0o700)
        (home / "postgres").symlink_to(folder / "data")
    server = homes.use(started_home(home))
    assert (home / "postgres").is_symlink()
    put(server, "one")
    stop(server, home)
    return home


def in_child(check: Callable[[], None]) -> None:
    """Run a check in a forked child, which may change its user. Fail if the check fails."""
    with warnings.catch_warnings():
        # Python 3.12 warns that another thread may hold a lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def files_of(data: Path) -> dict[str, int]:
    """Return the inodes of the files that a running server needs in its folder."""
    socket = postmaster.socket_path(data).name
    return {name: (data / name).lstat().st_ino for name in ("postmaster.pid", socket, f"{socket}.lock")}


@pytest.mark.parametrize("way", ["cp", "tar"])
def test_copy_of_a_stopped_home_is_a_home_of_its_own(open_homes: Homes, way: str) -> None:
    home = kept(open_homes())
    second = open_homes("copy")
    if way == "cp":
        copy(home, second)
    else:
        second.mkdir(mode=0o755)
        script = 'tar -C "$1" -cf - . | tar -C "$2" -xpf -'
        subprocess.run(["bash", "-c", script, "bash", home, second], check=True)
    servers = [open_homes.use(home), open_homes.use(second)]
    put(servers[0], "original")
    put(servers[1], "copy")
    assert [words(server) for server in servers] == ["one original", "copy one"]
    assert servers[1].data_dir == second / "postgres"
    assert (home / "identity").read_text() != (second / "identity").read_text()
    # Both homes have identities now, so a kill of the copy's server is like any other kill.
    os.kill(postmaster.recorded(servers[1].data_dir).pid, signal.SIGKILL)
    servers[1].ensure_running()
    assert words(servers[1]) == "copy one"


def test_copy_that_was_given_to_another_user_lets_only_that_one_in(open_homes: Homes) -> None:
    if not ROOT:
        pytest.skip("needs root, to give a copy to the OS user nobody and to work as that one")
    home = kept(open_homes())
    second = copy(home, open_homes("copy"), "-r")
    nobody = pwd.getpwnam("nobody")
    for path in (second, *second.rglob("*")):
        os.lchown(path, nobody.pw_uid, nobody.pw_gid)

    def check() -> None:
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        # `nobody` may have no access to this Python, so start no supervisor.
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(EmbeddedServer, "ensure_supervisor", lambda _: None)
            own = EmbeddedServer.acquire(second)
            try:
                assert words(own) == "one"
                assert (own.data_dir / "pg_ident.conf").read_text() == 'atlas "nobody" atlas\n'
                assert own.dsn.endswith("&requirepeer=nobody")
            finally:
                Cluster(site=own._site, data_dir=own.data_dir, bin_dir=own.bin_dir).stop()

    in_child(check)
    # The error tells root, who does not own the home, to work as `nobody`.
    with pytest.raises(EmbeddedServerFailed, match=rf"belongs to OS user id {nobody.pw_uid}; work as that user"):
        open_homes.use(second)
    os.chown(second, 0, 0)
    with pytest.raises(EmbeddedServerFailed, match="is not a private file of this OS user|is not a private folder"):
        open_homes.use(second)


@pytest.mark.parametrize("left_out", ["", "postmaster.pid"])
def test_copy_of_a_running_home_is_refused_and_the_original_is_left_alone(open_homes: Homes, left_out: str) -> None:
    home = kept(open_homes())
    server = open_homes.use(home)
    second = copy(home, open_homes("copy"))
    if left_out:
        (second / "postgres" / left_out).unlink()
    before = files_of(server.data_dir)
    with pytest.raises(EmbeddedServerFailed, match="was copied while its server ran"):
        open_homes.use(second)
    assert files_of(server.data_dir) == before
    # The copy is also refused after a new start of the original, because the copied file names the original's socket.
    os.kill(postmaster.recorded(server.data_dir).pid, signal.SIGKILL)
    server.ensure_running()
    before = files_of(server.data_dir)
    with pytest.raises(EmbeddedServerFailed, match="was copied while its server ran") as refused:
        open_homes.use(second)
    assert files_of(server.data_dir) == before
    assert words(server) == "one"
    # A person can accept the copy with the command in the error. From then on it is an independent home.
    command = str(refused.value).split("is: ")[1].split(";")[0]
    subprocess.run(["bash", "-c", command], check=True)
    own = open_homes.use(second)
    put(own, "copy")
    assert words(own) == "copy one"
    assert words(server) == "one"
    assert files_of(server.data_dir) == before


def test_backup_of_a_running_home_is_refused_in_the_place_of_the_original_too(open_homes: Homes) -> None:
    home = kept(open_homes())
    server = open_homes.use(home)
    second = copy(home, open_homes("copy"))
    stop(server, home)
    shutil.rmtree(home)
    second.rename(home)
    with pytest.raises(EmbeddedServerFailed, match="was copied while its server ran"):
        open_homes.use(home)


def test_snapshot_of_a_running_home_recovers_beside_the_original(open_homes: Homes) -> None:
    """A snapshot of a file system has the original's inodes, and all its files as of one moment."""
    home = kept(open_homes())
    server = open_homes.use(home)
    second = copy(home, open_homes("copy"))
    identity.mark(Site.prepare(second), second / "postgres")
    before = files_of(server.data_dir)
    own = open_homes.use(second)
    put(own, "copy")
    assert [words(server), words(own)] == ["one", "copy one"]
    assert files_of(server.data_dir) == before


@pytest.mark.parametrize("name", ["pg_wal", "pg_tblspc/16384"])
def test_copy_that_leads_to_files_of_the_original_is_refused(open_homes: Homes, name: str) -> None:
    home = kept(open_homes())
    second = copy(home, open_homes("copy"))
    place = second / "postgres" / name
    shutil.rmtree(place, ignore_errors=True)
    place.symlink_to(home / "postgres" / "pg_wal")
    with pytest.raises(EmbeddedServerFailed, match="which belongs to the original; dump the original"):
        open_homes.use(second)


def test_copy_by_hard_links_is_refused_and_the_original_works(open_homes: Homes) -> None:
    home = kept(open_homes())
    stop(open_homes.use(home), home)
    second = copy(home, open_homes("copy"), "-al")
    with pytest.raises(EmbeddedServerFailed, match="shares its files with another folder by hard links"):
        open_homes.use(second)
    assert words(open_homes.use(home)) == "one"


@pytest.mark.parametrize("state", ["stopped", "running"])
def test_copied_link_is_refused_until_the_copy_has_data_of_its_own(homes: Homes, tmp_path: Path, state: str) -> None:
    home = linked(homes, tmp_path)
    server = homes.use(home) if state == "running" else None
    second = copy(home, homes("copy"))
    with pytest.raises(EmbeddedServerFailed, match=f"is a copy of the home {home}, and still uses its data") as refused:
        homes.use(second)
    assert not is_up(second)
    assert supervisor_of(second) is None
    if server is not None:
        assert words(server) == "one"
        stop(server, home)
    command = str(refused.value).split("the other: ")[1]
    subprocess.run(["bash", "-c", command], check=True)
    own, server = homes.use(second), homes.use(home)
    put(own, "copy")
    assert [words(server), words(own)] == ["one", "copy one"]
    assert own.data_dir != server.data_dir


def test_data_behind_a_link_goes_with_its_home_only(homes: Homes, tmp_path: Path) -> None:
    """When the original is gone, its copy takes over the data. A home that never had the data cannot."""
    home = linked(homes, tmp_path)
    second, third = copy(home, homes("copy")), homes("third")
    third.mkdir(mode=0o700)
    (third / "postgres").symlink_to((home / "postgres").resolve())
    shutil.rmtree(home)
    with pytest.raises(EmbeddedServerFailed, match=f"which is the data of another home \\({home}\\)"):
        homes.use(third)
    assert words(homes.use(second)) == "one"
    with pytest.raises(EmbeddedServerFailed, match=f"is a copy of the home {second}"):
        homes.use(third)
    (third / "postgres").unlink()


def test_moved_home_keeps_its_data_and_its_old_place_starts_empty(homes: Homes, tmp_path: Path) -> None:
    for home in (linked(homes, tmp_path), kept(homes("inside")) if not ROOT else None):
        if home is None:
            continue
        moved = homes(f"{home.name}-moved")
        home.rename(moved)
        assert words(homes.use(moved)) == "one"
        assert value(homes.use(home), "SELECT to_regclass('words')::text") is None
        assert words(homes.use(moved)) == "one"


def test_home_that_moves_while_its_server_runs_starts_it_again_in_the_new_place(
    open_homes: Homes, caplog: pytest.LogCaptureFixture
) -> None:
    home = kept(open_homes())
    server = open_homes.use(home)
    first = postmaster.recorded(server.data_dir).pid
    moved = open_homes("moved")
    home.rename(moved)
    again = open_homes.use(moved)
    assert f"{home}/postgres is {moved}/postgres now" in caplog.text
    assert words(again) == "one"
    assert value(again, "SHOW data_directory") == str(moved / "postgres")
    assert postmaster.recorded(again.data_dir).pid != first
    with pytest.raises(EmbeddedServerFailed, match="cannot be used"):
        server.ensure_running()
    assert not home.exists()


def test_server_whose_home_moved_stops_after_its_last_user(open_homes: Homes) -> None:
    home = kept(open_homes())
    moved = open_homes("moved")
    with user_process(home) as client:
        client.stdout.readline()
        until(lambda: supervisor_of(home), "the supervisor is there")
        home.rename(moved)
        assert is_up(moved)
        client.kill()
        until(lambda: not is_up(moved), "the supervisor stops it by its new name")
    until(lambda: supervisor_of(moved) is None, "the supervisor ends")
    assert words(open_homes.use(moved)) == "one"


def test_server_behind_a_link_goes_on_when_its_home_moves(homes: Homes, tmp_path: Path) -> None:
    home = linked(homes, tmp_path)
    started = value(homes.use(home), "SELECT pg_postmaster_start_time()")
    moved = homes("moved")
    home.rename(moved)
    again = homes.use(moved)
    assert value(again, "SELECT pg_postmaster_start_time()") == started
    assert words(again) == "one"


def test_program_that_has_a_dead_servers_process_id_is_not_signalled(open_homes: Homes) -> None:
    """A restore on another machine leads to this state. The supervisor finds no server, so it stops nothing."""
    home = kept(open_homes())
    stop(open_homes.use(home), home)
    account = find_account()
    data = home / "postgres"
    as_account = {"user": account.uid, "group": account.gid, "extra_groups": []} if ROOT else {}
    with subprocess.Popen(["sleep", "600"], **as_account) as stranger:
        try:
            lines = [stranger.pid, data, 1, postmaster.PORT, data, "", "", "ready"]
            (data / "postmaster.pid").write_text("\n".join(map(str, lines)) + "\n")
            account.give(data / "postmaster.pid")
            programs = places.find_binaries(account)
            ids = (account.name, str(account.uid), str(account.gid))
            command = [sys.executable, "-IS", supervisor.__file__, home / "postgres.run", data, programs, "0", *ids]
            subprocess.run(command, check=True, timeout=PATIENCE_S)
            assert stranger.poll() is None
            assert words(open_homes.use(home)) == "one"
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_data_where_roots_server_cannot_enter_is_said_with_the_way_out(homes: Homes, open_homes: Homes) -> None:
    if not ROOT:
        pytest.skip("needs root, whose server runs as another account than the one that owns the home")
    home = kept(open_homes())
    closed = copy(home, homes("closed"))
    with pytest.raises(EmbeddedServerFailed, match="cannot enter") as refused:
        homes.use(closed)
    subprocess.run(["bash", "-c", str(refused.value).split("run as root: ")[1]], check=True)
    assert words(homes.use(closed)) == "one"
