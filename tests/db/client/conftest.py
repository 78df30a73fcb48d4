"""Both clients with options, a PgBouncer of one's own, and a server that speaks TLS."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import psycopg
import pytest
from attrs import frozen
from either import Open, opener
from patience import PATIENCE_S

_PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@pytest.fixture(params=["blocking", "asyncio"])
def open_client(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens clients of one kind, once with each: `open_client(dsn, **options)`."""
    with opener(request.param) as opened:
        yield opened


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(done: Callable[[], bool], *, what: str, within_s: float = PATIENCE_S) -> None:
    """Wait until something is so."""
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


@pytest.fixture
def pgbouncer(server: str, dsn: str) -> Iterator[Callable[..., str]]:
    """Starts a PgBouncer before the database of the test: `pgbouncer(pool_mode)` gives its URL."""
    if _PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    assert server == "system", "only the system's server trusts whoever runs PgBouncer"
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        # PgBouncer refuses to run as root.
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="atlas-pgbouncer-"))
    started: list[subprocess.Popen[bytes]] = []

    def start(pool_mode: str, *, pool_size: int = 2) -> str:
        port = free_port()
        parts = urlsplit(dsn)
        given = parse_qs(parts.query)
        settings = folder / f"{port}.ini"
        settings.write_text(
            f"""[databases]
* = host={given["host"][0]} user={given["user"][0]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
default_pool_size = {pool_size}
logfile = {folder}/{port}.log
"""
        )
        if identity:
            os.chown(folder, account.pw_uid, account.pw_gid)
        started.append(subprocess.Popen([_PGBOUNCER, "-q", str(settings)], cwd="/", **identity))
        url = f"postgresql://atlas@127.0.0.1:{port}{parts.path}"
        until(lambda: answers(url), what="PgBouncer")
        return url

    yield start
    for process in started:
        process.terminate()
        process.wait(PATIENCE_S)
    shutil.rmtree(folder)


@frozen
class TlsServer:
    """A server that takes nobody without TLS and a password; its certificate is for "localhost"."""

    port: int
    data: Path
    #: The certificate that proves its own.
    authority: Path
    #: Another one, which proves nothing here.
    stranger: Path
    #: Percent-encoded it is another text, and what is not encoded shows where it is split.
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
    folder = Path(tempfile.mkdtemp(prefix="atlas-tls-"))
    folder.chmod(0o755)
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


@pytest.fixture(scope="session")
def tls_server() -> Iterator[TlsServer]:
    """A server that all tests share."""
    with run_tls_server() as server:
        yield server
