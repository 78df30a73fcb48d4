"""Guards while a real server is down, and after it runs again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from embedded_homes import embedded_server
from guard_adapter import QuotaClient, until, used
from patience import PATIENCE_S

from atlas_sdk import DatabaseUnreachable
from atlas_sdk._embedded import EmbeddedServer

# A server that is really stopped


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """Yield a server that a test may stop. `ensure_running` starts it again."""
    with embedded_server() as server:
        yield server


def stop(server: EmbeddedServer) -> None:
    """Kill the server without a shutdown, as in a crash."""
    pid = int((server.data_dir / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_guards_outlive_a_server_that_is_down_for_a_while(own_server: EmbeddedServer, kind: str) -> None:
    # A client with the server's address, unlike one with the home, does not start the server again.
    with closing(QuotaClient(kind, own_server.dsn, connect_timeout_s=1)) as client:
        user = client.user(tokens=1000)
        with client.guard(user, tokens=400) as lost:
            lost.progress(tokens=10)
            stop(own_server)
            with pytest.raises(DatabaseUnreachable) as caught, client.guard(user, tokens=1):
                pytest.fail("entered without a database")
            assert caught.value.http_status == 503
            lost.settle(tokens=25)
        assert lost.settlement is None
        assert client.quotas.settle_pending() == 2
        own_server.ensure_running()
        with client.guard(user, tokens=600) as g:
            g.settle(tokens=1)
        client.settle_down()
        assert used(client, user)[0] == 26


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_an_embedded_server_that_died_is_started_again(own_server: EmbeddedServer, kind: str) -> None:
    # On a busy machine the start of a server takes longer than a client waits by default.
    with closing(QuotaClient(kind, None, home=own_server.home, connect_timeout_s=PATIENCE_S)) as client:
        user = client.user()
        stop(own_server)
        with client.guard(user, tokens=400) as g:
            # The server waits for the disk at a reservation, but not at a settlement.
            stop(own_server)
            g.settle(tokens=25)
        assert g.settlement.tokens == 25
        assert used(client, user)[0] == 25
