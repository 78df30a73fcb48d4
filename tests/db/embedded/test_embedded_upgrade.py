"""The upgrade of an older major version's data at the first opening: also by several processes, and with kill -9."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import programs
import psycopg
import pytest
from homes import Homes, is_up, supervisor_of, until, user_process, value
from old_homes import OLD, ROWS, SUM, old_cluster, old_data
from patience import PATIENCE_S

from atlas_sdk._embedded import EmbeddedServer, places, postmaster, upgrade
from atlas_sdk._embedded.account import find_account
from atlas_sdk._embedded.server import _dsn
from atlas_sdk.errors import EmbeddedServerFailed

#: A program that acquires the home, and kills itself at a given call of a given function of `upgrade`.
KILLED = """
import os, signal, sys
from pathlib import Path
from atlas_sdk._embedded import EmbeddedServer, upgrade
owner, name, times = upgrade, sys.argv[2], int(sys.argv[3])
if "." in name:
    owner, name = getattr(upgrade, name.split(".")[0]), name.split(".")[1]
original = getattr(owner, name)
calls = 0
def killed(*arguments, **named):
    global calls
    calls += 1
    if calls == times:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
setattr(owner, name, killed)
EmbeddedServer.acquire(Path(sys.argv[1]))
print("came through")
"""


def old_home(home: Path) -> str:
    """Make an old home with data; return the result of `SUM`."""
    old_cluster(home, ROWS)
    return old_data(ROWS)[1]


def beside(home: Path) -> list[str]:
    """Return the suffixes of the folders beside the data directory."""
    data = (home / "postgres").resolve()
    return sorted(path.name.removeprefix(data.name) for path in data.parent.glob(f"{data.name}.*") if path != data)


@pytest.fixture(autouse=True)
def _nothing_left(homes: Homes, quick_clusters: None):
    yield
    homes.close()
    for home in homes._made:
        data = (home / "postgres").resolve()
        for path in data.parent.glob(f"{data.name}.*"):
            if data.parent != home and path.is_dir():
                shutil.rmtree(path)
    homes._made.clear()


def check_upgraded(homes: Homes, home: Path, before: str) -> EmbeddedServer:
    server = homes.use(home)
    assert value(server, "SHOW server_version").startswith(places.MAJOR)
    assert value(server, SUM) == before
    assert value(server, "SELECT has_table_privilege('reader', 'kept', 'SELECT')") is True
    assert f".{OLD}" in beside(home)
    assert not [name for name in beside(home) if "upgrade" in name]
    assert not (home / "postgres.run" / "upgrade").exists()
    return server


def test_old_data_is_upgraded_at_its_first_use_and_kept_beside(homes: Homes, caplog) -> None:
    home = homes()
    before = old_home(home)
    server = check_upgraded(homes, home, before)
    said = [record.getMessage() for record in caplog.records if record.name == upgrade.__name__]
    assert said[0].startswith(f"Upgrading {server.data_dir} from PostgreSQL {OLD} to {places.MAJOR}")
    assert str(server.data_dir.with_name(f"{server.data_dir.name}.{OLD}")) in said[-1]
    # The upgraded home has the settings of a new home, not those of the old one.
    assert value(server, "SHOW data_checksums") == "on"
    locale = "SELECT datlocprovider::text FROM pg_database WHERE datname = 'atlasengine'"
    assert value(server, locale) == "b"
    # The kept old data is whole: its own programs can read it.
    account = find_account()
    kept = server.data_dir.with_name(f"{server.data_dir.name}.{OLD}")
    control = account.run(places.binaries_of(OLD, account) / "pg_controldata", "-D", kept, timeout_s=PATIENCE_S)
    assert "shut down" in control.stdout
    # The second use finds nothing to do.
    caplog.clear()
    homes.use(home)
    assert not [record for record in caplog.records if record.name == upgrade.__name__]


def test_databases_and_owners_made_by_hand_come_along(homes: Homes) -> None:
    home = homes()
    cluster = old_cluster(home)
    dsn = _dsn(cluster.serve(), find_account().name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ROWS)
        connection.execute("""CREATE ROLE "o'wner; x" """)
        connection.execute("ALTER DATABASE atlasengine OWNER TO reader")
        connection.execute("""CREATE DATABASE "my = base'; --" OWNER "o'wner; x" """)
    with psycopg.connect(dsn, dbname="my = base'; --", autocommit=True) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 7 AS n")
    cluster.stop()
    server = homes.use(home)
    owners = value(
        server,
        "SELECT string_agg(pg_get_userbyid(datdba), ',' ORDER BY datname) FROM pg_database "
        "WHERE NOT datistemplate AND datname <> 'postgres'",
    )
    assert owners == "reader,o'wner; x"
    with psycopg.connect(server.dsn, dbname="my = base'; --") as connection:
        assert connection.execute("SELECT n FROM mine").fetchone() == (7,)


def test_server_that_was_killed_is_recovered_before_it_is_read(homes: Homes) -> None:
    home = homes()
    cluster = old_cluster(home)
    running = cluster.serve()
    with psycopg.connect(_dsn(running, find_account().name), autocommit=True) as connection:
        connection.execute(ROWS)
        (before,) = connection.execute(SUM).fetchone()
    os.kill(running.pid, signal.SIGKILL)
    until(lambda: not is_up(home), "its processes left")
    check_upgraded(homes, home, before)


def test_several_open_at_once_and_one_upgrades(homes: Homes) -> None:
    home = homes()
    before = old_home(home)
    with ExitStack() as stack:
        racers = [stack.enter_context(user_process(home)) for _ in range(6)]
        assert len({racer.stdout.readline() for racer in racers}) == 1
        check_upgraded(homes, home, before)
    assert beside(home).count(f".{OLD}") == 1
    assert f".{OLD}-2" not in beside(home)


#: The function at which the process is killed, the number of the call, the folders that are then beside the data, and
#: True if the data itself is there.
STEPS = {
    "before anything": ("_Upgrade._dump", 1, [], True),
    "after the roles": ("_Upgrade._ask", 3, [], True),
    "all dumped": ("_Upgrade._load", 1, [], True),
    "new server is up": ("_Upgrade._psql", 2, [".upgrade"], True),
    "half loaded": ("_Upgrade._ask", 8, [".upgrade"], True),
    "all loaded": ("_rename", 1, [".upgrade"], True),
    "complete": ("_rename", 2, [".upgraded"], True),
    "between the two renames": ("_rename", 3, [f".{OLD}", ".upgraded"], False),
}


def kill_at(home: Path, step: str) -> None:
    name, times, left, has_data = STEPS[step]
    command = [sys.executable, "-c", KILLED, os.fspath(home), name, str(times)]
    killed = programs.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=4 * PATIENCE_S)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert beside(home) == left
    assert (home / "postgres").resolve().exists() is has_data


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step(homes: Homes, step: str) -> None:
    home = homes()
    before = old_home(home)
    kill_at(home, step)
    check_upgraded(homes, home, before)


def test_killed_and_never_opened_again_leaves_no_server(homes: Homes) -> None:
    home = homes()
    old_home(home)
    for step in ("after the roles", "half loaded"):
        kill_at(home, step)
        until(lambda: supervisor_of(home) is None and not is_up(home), "the supervisor has stopped what was left")


def test_failure_leaves_the_old_data_as_it_was(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    home = homes()
    before = old_home(home)
    data = (home / "postgres").resolve()
    with monkeypatch.context() as patched:
        original = upgrade._Upgrade._ask

        def failing(self, server, program, *arguments, **more):
            if program == "pg_restore":
                arguments = ("--no-such-option",)
            return original(self, server, program, *arguments, **more)

        patched.setattr(upgrade._Upgrade, "_ask", failing)
        with pytest.raises(EmbeddedServerFailed, match=f"by PostgreSQL {OLD} and could not be upgraded.*pg_restore"):
            homes.use(home)
    assert upgrade.major_of(data) == OLD
    assert beside(home) == []
    assert not is_up(home)
    check_upgraded(homes, home, before)


def test_full_disk_is_told_before_anything_is_done(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    home = homes()
    before = old_home(home)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
        with pytest.raises(EmbeddedServerFailed, match=r"takes up to \d+ MiB.*and 95 MiB are free: make room"):
            homes.use(home)
    assert beside(home) == []
    check_upgraded(homes, home, before)


def test_disk_that_fills_leaves_the_old_data(homes: Homes) -> None:
    home = homes()
    before = old_home(home)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
    code = KILLED.replace("owner, name", f"{limit}owner, name", 1)
    command = [sys.executable, "-c", code, os.fspath(home), "_rename", "99"]
    failed = programs.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "EmbeddedServerFailed" in failed.stderr
    assert upgrade.major_of((home / "postgres").resolve()) == OLD
    assert beside(home) == []
    check_upgraded(homes, home, before)


def test_older_release_at_work_is_not_cut_off(homes: Homes) -> None:
    home = homes()
    cluster = old_cluster(home)
    with psycopg.connect(_dsn(cluster.serve(), find_account().name), autocommit=True) as connection:
        connection.execute(ROWS)
        (before,) = connection.execute(SUM).fetchone()
        with pytest.raises(EmbeddedServerFailed, match=r"an older release is using it \(1 connection\)"):
            homes.use(home)
        connection.execute("INSERT INTO kept SELECT 0, ''")
        (before,) = connection.execute(SUM).fetchone()
    # The old server still runs, but no client is connected.
    check_upgraded(homes, home, before)


def test_older_release_that_joins_meanwhile_cannot_write(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    home = homes()
    before = old_home(home)
    refused: list[str] = []

    def dumping(self, server, program, *arguments, **more) -> str:
        if program == "pg_dump" and not refused:
            dsn = _dsn(postmaster.answering(self.old.data_dir), find_account().name)
            with psycopg.connect(dsn, autocommit=True) as connection:
                try:
                    connection.execute("INSERT INTO kept SELECT 0, ''")
                except psycopg.errors.ReadOnlySqlTransaction as problem:
                    refused.append(str(problem))
        return ask(self, server, program, *arguments, **more)

    ask = upgrade._Upgrade._ask
    monkeypatch.setattr(upgrade._Upgrade, "_ask", dumping)
    check_upgraded(homes, home, before)
    assert refused


def test_name_of_the_kept_folder_is_never_taken_twice(homes: Homes) -> None:
    home = homes()
    before = old_home(home)
    data = (home / "postgres").resolve()
    data.with_name(f"{data.name}.{OLD}").mkdir()
    check_upgraded(homes, home, before)
    assert beside(home) == [f".{OLD}", f".{OLD}-2"]


@pytest.mark.parametrize(
    ("major", "sentence"),
    [
        ("99", f"which is newer than {places.MAJOR}, the one of this release: upgrade AtlasEngine"),
        ("nonsense", "which is newer than"),
        ("9", r"this release has .* dump it with a release of AtlasEngine that has 9 \(atlasctl db dump"),
    ],
)
def test_data_that_cannot_be_served_is_said(homes: Homes, major: str, sentence: str) -> None:
    home = homes()
    data = home / "postgres"
    data.mkdir(mode=0o700, parents=True)
    (data / "PG_VERSION").write_text(f"{major}\n")
    find_account().give(data)
    with pytest.raises(EmbeddedServerFailed, match=f"made by PostgreSQL {major}, .*{sentence}|made by .*{sentence}"):
        homes.use(home)
    assert sorted(path.name for path in data.iterdir()) == ["PG_VERSION"]
