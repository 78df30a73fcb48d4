"""The embedded server under real races, real kill -9 and real other users. Every test has a home of its own."""

import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from homes import ROOT, Homes, home_of, is_up, supervisor_of, until, user_process, value
from quick_clusters import REAL

from atlas_sdk._embedded import EmbeddedServer, postmaster
from atlas_sdk._embedded.account import find_account


@pytest.fixture(autouse=True)
def _real_first_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of these tests run initdb, because the tests are about it."""
    monkeypatch.setenv(REAL, "1")


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
    # The server refuses every OS user but the mapped one, for any role. Without root, try a role that is not mapped.
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
    """Act as a server of another account, which accepts every message of a client. Never returns."""
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
    home = homes.started("/".join(["deep" * 8] * 5))
    server = homes.use(home)
    account = find_account().name
    assert server.dsn.endswith(f"&requirepeer={account}")
    if not ROOT:
        # Only root can start a server as another account. So require another account than the real server's.
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
            # Python 3.12 warns that another thread may hold a lock. The child only makes a few system calls.
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
