"""A database server that crashes on request. Nothing but the race starts it again."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas_sdk import Atlas
from atlas_sdk._embedded import EmbeddedServer
from atlas_sdk._embedded.locks import polling
from benchmarks.bench import remove_home

#: "immediate" is PostgreSQL's word for a shutdown without a checkpoint. "kill" kills the postmaster, and the other
#: processes must notice that by themselves.
CRASHES = {"immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
_END_S = 30.0


class CrashingServer:
    """The embedded server of a home folder. Clients use its DSN, so that none of them starts it again."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self.dsn = server.dsn

    def crash(self, how: str) -> None:
        """Crash the server, and return when it has ended. Data that was not on the disk is lost."""
        pid = int((self._server.data_dir / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
        os.kill(pid, CRASHES[how])
        for _ in polling(_END_S):
            if not _runs(pid):
                return
        message = f"the server, process {pid}, does not end"
        raise TimeoutError(message)

    def start(self) -> None:
        """Start the server again; it first replays its log."""
        self._server.ensure_running()
        if self._server.dsn != self.dsn:
            message = f"the server moved from {self.dsn} to {self._server.dsn}"
            raise RuntimeError(message)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        # Without an init process that reaps it, the ended server stays as a zombie.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return Path("/proc").is_dir() is False


@contextmanager
def crashing_server() -> Iterator[CrashingServer]:
    """Start a migrated server in a new temporary folder, and remove everything afterwards."""
    home = Path(tempfile.mkdtemp(prefix="atlas-race-")).resolve() / "home"
    server = EmbeddedServer.acquire(home)
    try:
        Atlas.open(home=home).close()
        yield CrashingServer(server)
    finally:
        server.release()
        remove_home(home)
        shutil.rmtree(home.parent)
