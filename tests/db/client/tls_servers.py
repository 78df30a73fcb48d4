"""Debian's server with TLS, and functions that wait for a server."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from attrs import frozen
from made_once import server_folder
from patience import PATIENCE_S


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(done: Callable[[], bool], *, what: str, within_s: float = PATIENCE_S) -> None:
    """Wait for a condition. Fail after `within_s` seconds."""
    deadline, pause = time.monotonic() + within_s, threading.Event()
    while not done():
        assert time.monotonic() < deadline, f"still waiting for: {what}"
        pause.wait(0.01)


def answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=60).close()
    except psycopg.OperationalError:
        return False
    return True


@frozen
class TlsServer:
    """A server that requires TLS and a password. Its certificate is for "localhost"."""

    port: int
    data: Path
    #: The server's own certificate, which is self-signed.
    authority: Path
    #: A certificate that has not signed the server's certificate.
    stranger: Path
    #: Percent-encoding changes this text. Where a URL has it without encoding, its characters split the URL.
    password: str = "S3cr3t:x/Qw9z@Zk7p?"

    def url(self, *, host: str = "localhost", password: str | None = None, **query: str) -> str:
        login = f"atlas:{quote(password or self.password, safe='')}"
        return f"postgresql://{login}@{host}:{self.port}/postgres?{urlencode({'sslmode': 'require', **query})}"


def _certificate(folder: Path, name: str) -> Path:
    made = folder / f"{name}.crt"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    files = ["-out", str(made), "-keyout", str(folder / f"{name}.key")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return made


@contextmanager
def run_tls_server() -> Iterator[TlsServer]:
    """Run Debian's server with TLS, passwords, and no schema."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda found: int(found.parent.name))
    if not binaries or shutil.which("openssl") is None:
        pytest.skip("Debian's PostgreSQL or openssl is not installed: apt-get install postgresql openssl")
    folder = server_folder("atlas-tls-")
    data = folder / "data"
    server = TlsServer(free_port(), data, _certificate(folder, "localhost"), _certificate(folder, "stranger"))
    (folder / "password").write_text(server.password)
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        for found in (folder, *folder.iterdir()):
            os.chown(found, account.pw_uid, account.pw_gid)

    def do(program: str, *arguments: str) -> None:
        command = [str(binaries[-1] / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **identity)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"

    login = ["-U", "atlas", "-A", "scram-sha-256", f"--pwfile={folder}/password"]
    do("initdb", "-D", str(data), *login, "-N", "-E", "UTF8")
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    settings = {"listen_addresses": "127.0.0.1", "port": server.port, "unix_socket_directories": "", "fsync": "off"}
    settings |= {"ssl": "on", "ssl_cert_file": server.authority, "ssl_key_file": folder / "localhost.key"}
    options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    do("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield server
    do("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(folder)
