"""Fixtures for clients of either kind with options, PgBouncer, and a server with TLS."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from client_adapter import KINDS, Open, opener
from patience import PATIENCE_S
from tls_servers import TlsServer, answers, free_port, run_tls_server, until

_PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@pytest.fixture(params=KINDS)
def open_client(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Yield a function that opens clients, once for each kind: `open_client(dsn, **options)`."""
    with opener(request.param) as opened:
        yield opened


@pytest.fixture
def pgbouncer(server: str, dsn: str) -> Iterator[Callable[..., str]]:
    """Yield a function that starts a PgBouncer for the test's database: `pgbouncer(pool_mode)` returns its URL."""
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


@pytest.fixture(scope="session")
def tls_server() -> Iterator[TlsServer]:
    """Yield a server with TLS that all tests share."""
    with run_tls_server() as server:
        yield server
