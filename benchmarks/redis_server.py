"""A Redis server for the bench, if the program is installed."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas_sdk._embedded.locks import polling
from benchmarks.peers import MissingPeer

_READY_S = 10.0
_END_S = 10.0


@contextmanager
def redis_server(folder: Path, *, durable: bool = False) -> Iterator[str]:
    """Start a server on a socket in a new folder; yield its address for `limits`.

    The server works in memory. With `durable` it syncs every answered write to the disk, as our server does.
    """
    program = shutil.which("redis-server")
    if program is None:
        message = "the program redis-server is not on the PATH"
        raise MissingPeer(message)
    folder.mkdir()
    socket = folder / "redis.sock"
    kept = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
    command = [program, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", *kept]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            if not any(socket.exists() or process.poll() is not None for _ in polling(_READY_S)):
                message = f"{program} does not listen within {_READY_S:.0f} s"
                raise TimeoutError(message)
            yield f"redis+unix://{socket}"
        finally:
            process.terminate()
            process.wait(_END_S)
