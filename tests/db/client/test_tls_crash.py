"""A crash of a TLS server counts as a lost connection, not as unsafe encryption, so the call may be repeated."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from client_adapter import Open
from patience import PATIENCE_S
from psycopg import OperationalError
from tls_servers import TlsServer, answers, run_tls_server, until

from atlas_sdk import DatabaseUnreachable, EncryptionFailed
from atlas_sdk._translate import translate


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    """Yield a server that a test may crash. It starts again by itself."""
    with run_tls_server() as found:
        yield found


def crash(server: TlsServer) -> None:
    """Kill -9 a process of the server. The server then ends all its other processes and starts again."""
    postmaster = (server.data / "postmaster.pid").read_text().split("\n")[0]
    for child in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
        # A child, such as the process of a closed connection, may end before we look at it.
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"checkpointer" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)


def test_a_crash_in_the_middle_of_a_statement_is_a_lost_connection(open_client: Open, server: TlsServer) -> None:
    url = server.url(sslmode="verify-full", sslrootcert=str(server.authority))
    until(lambda: answers(url), what="the server is there")
    client = open_client(url, migrate=True, retries=0)
    assert client.health().encrypted is True
    email = "ada@example.com"
    user = client.users.by_email(email) or client.users.create(email)
    # Close these connections instead of committing, because the crash ends them too.
    with closing(psycopg.connect(url)) as holder, closing(psycopg.connect(url, autocommit=True)) as watcher:
        holder.execute("SELECT FROM user_quotas WHERE user_id = %s FOR UPDATE", [user.id])
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

        def kill() -> None:
            until(lambda: watcher.execute(waiting).fetchone() is not None, what="the statement waits")
            (pid,) = watcher.execute(waiting).fetchone() or (0,)
            os.kill(pid, signal.SIGKILL)

        with ThreadPoolExecutor(1) as threads:
            killing = threads.submit(kill)
            with pytest.raises(DatabaseUnreachable) as failure:
                client.quotas.reserve(user, tokens=1)
            killing.result(PATIENCE_S)
    assert not isinstance(failure.value, EncryptionFailed)
    # The connection ended without a message of the server.
    assert isinstance(failure.value.__cause__, OperationalError)
    assert failure.value.__cause__.sqlstate is None
    assert "is the server running?" in str(failure.value)
    until(lambda: answers(url), what="the server is back")
    assert client.users.get(user.id).email == email


class Between:
    """A proxy before the server. It crashes the server each time the server has agreed to TLS."""

    def __init__(self, server: TlsServer) -> None:
        self._server = server
        self.crashes = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            with caller, socket.create_connection(("127.0.0.1", self._server.port)) as behind:
                behind.sendall(caller.recv(8))
                if behind.recv(1) != b"S":
                    continue
                crash(self._server)
                # Wait until the server's process for this connection has ended too.
                behind.recv(1)
                self.crashes += 1
                caller.sendall(b"S")
                caller.recv(4096)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listening.close()


def test_a_crash_while_connecting_is_a_server_out_of_reach(open_client: Open, server: TlsServer) -> None:
    url = server.url(sslmode="verify-full", sslrootcert=str(server.authority))
    until(lambda: answers(url), what="the server is there")
    between = Between(server)
    try:
        with pytest.raises(DatabaseUnreachable, match="cannot reach PostgreSQL") as failure:
            open_client(url.replace(f":{server.port}/", f":{between.port}/"), retries=0)
    finally:
        between.close()
    assert between.crashes
    assert not isinstance(failure.value, EncryptionFailed)
    assert server.password not in str(failure.value)


AT = 'connection to server at "h", port 1 failed: '
LOST = [
    "consuming input failed: SSL connection has been closed unexpectedly",
    "consuming input failed: SSL SYSCALL error: EOF detected",
    f"{AT}SSL SYSCALL error: Connection reset by peer",
    f"{AT}SSL error: unexpected eof while reading",
]
UNSAFE = [
    f"{AT}SSL error: certificate verify failed",
    f"{AT}SSL error: tlsv1 alert protocol version",
    f"{AT}SSL error: wrong version number",
    # One of two addresses has the wrong certificate.
    f"{AT}SSL SYSCALL error: EOF detected {AT}SSL error: certificate verify failed",
]


@pytest.mark.parametrize("said", LOST)
def test_a_lost_connection_is_out_of_reach(said: str) -> None:
    assert type(translate(OperationalError(said), "postgresql://h/d")) is DatabaseUnreachable


@pytest.mark.parametrize("said", UNSAFE)
def test_what_is_wrong_with_tls_is_unsafe(said: str) -> None:
    assert type(translate(OperationalError(said), "postgresql://h/d")) is EncryptionFailed
