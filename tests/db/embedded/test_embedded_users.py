"""The embedded server and its users. It starts with its first user and stops after its last."""

import os
import signal
import subprocess
import time
from contextlib import ExitStack

import pytest
from homes import USE, Homes, is_up, supervisor_of, until, user_process, value
from patience import PATIENCE_S

from atlas_sdk._embedded import locks
from atlas_sdk.errors import EmbeddedServerFailed


def test_killed_client_does_not_keep_the_server(homes: Homes) -> None:
    home = homes.started()
    with user_process(home) as client:
        client.stdout.readline()
        assert is_up(home)
        client.kill()
        until(lambda: not is_up(home), "the server stops although its only user was killed")


def test_server_stays_for_the_second_user_and_stops_with_the_last(homes: Homes) -> None:
    home = homes.started()
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
    """Commands that follow each other within the lingering time start the server only once."""
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "1")
    home = homes.started()
    homes.use(home).release()
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 0.7, "most of the first wait is over")
    last = homes.use(home)
    released = time.monotonic()
    last.release()
    until(lambda: not is_up(home), "the server stops")
    assert time.monotonic() - released > 0.9


def test_child_of_a_fork_keeps_its_parents_server(homes: Homes) -> None:
    home = homes.started()
    code = USE.replace("sys.stdin.read()", "import os; os.fork() or (sys.stdin.read(), print('bye', flush=True))")
    with user_process(home, code) as parent:
        parent.stdout.readline()
        parent.wait(PATIENCE_S)
        assert locks.try_exclusive(home / "postgres.run" / "users.lock") is None
        parent.stdin.close()
        assert parent.stdout.readline() == "bye\n"
        until(lambda: not is_up(home), "the server stops with the child")


def test_supervisor_waits_for_a_session_by_hand(homes: Homes) -> None:
    home = homes.started()
    server = homes.use(home)
    command = [server.bin_dir / "psql", "-XAtq", server.dsn]
    # The supervisor connects to the database postgres, so its connections can be counted there.
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
    home = homes.started()
    homes.use(home)
    until(lambda: supervisor_of(home), "the supervisor is there")
    first = supervisor_of(home)
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor_of(home) is None, "the supervisor is gone")
    homes.use(home)
    until(lambda: supervisor_of(home) not in {None, 0, first}, "another supervisor took the place")


def test_keep_for_outlasts_the_last_user(homes: Homes) -> None:
    home = homes.started()
    server = homes.use(home)
    began = time.time()
    server.keep_for(1.5)
    server.keep_for(0.5)
    server.release()
    until(lambda: not is_up(home), "the server stops")
    assert time.time() - began >= 1.5


def test_newcomers_while_the_server_stops_start_it_again(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "0")
    home = homes.started()
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
