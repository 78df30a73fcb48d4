"""Ask a server on its socket whether it is up and serves this data directory, without libpq or another program."""

import os
import re
import socket
import struct
import sys
from pathlib import Path

from attrs import frozen

__all__ = [
    "DATABASE",
    "PORT",
    "ROLE",
    "Postmaster",
    "answering",
    "forget_dead",
    "last_complaint",
    "may_work_in",
    "recorded",
    "remove_socket",
    "socket_path",
]

ROLE = "atlas"
DATABASE = "atlasengine"
#: This number is only in the name of the socket. Our servers do not listen on TCP.
PORT = 5432

#: Protocol version 3.0 and the two messages that we send, from the manual's "Message Formats".
_PROTOCOL = 3 << 16
_PARAMETERS = f"user\0{ROLE}\0database\0{DATABASE}\0\0".encode()
_STARTUP = struct.pack("!ii", 8 + len(_PARAMETERS), _PROTOCOL) + _PARAMETERS
_TERMINATE = struct.pack("!ci", b"X", 4)

#: The error cannot_connect_now: the server is starting, recovering or stopping. Any other error means that the server
#: is up.
_NOT_NOW = b"C57P03\0"

#: macOS, <sys/un.h>: SOL_LOCAL and LOCAL_PEERPID.
_MACOS_PEER = (0, 2)

_ANSWER_WITHIN_S = 2.0


@frozen(kw_only=True)
class Postmaster:
    """The content of a running server's `postmaster.pid`."""

    pid: int
    #: The path of the data directory at the start. After a copy or a move it is the path of another folder.
    data_dir: Path
    #: Valid only for a server that `is_of` the data directory in question.
    socket_dir: Path
    ready: bool

    def is_of(self, data_dir: Path) -> bool:
        """Return True if the server wrote the file for this folder, and the file is no copy from another folder."""
        try:
            return self.data_dir.samefile(data_dir)
        except OSError:
            return False


def socket_path(folder: Path) -> Path:
    """Return the socket of a server with this socket folder."""
    return folder / f".s.PGSQL.{PORT}"


def recorded(data_dir: Path) -> Postmaster | None:
    """Return the recorded server of a data directory, dead or alive; None if the last server has stopped.

    In a copy this is the server of the original: see `Postmaster.is_of`.
    """
    try:
        # Lines: pid, data directory, start time, port, socket directory, TCP address, shared memory, status.
        lines = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        return Postmaster(
            pid=int(lines[0]), data_dir=Path(lines[1]), socket_dir=Path(lines[4]), ready=lines[7].strip() == "ready"
        )
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None  # missing, or half written by a server that is starting


def answering(data_dir: Path) -> Postmaster | None:
    """Return the server of this data directory if it accepts connections now, else None."""
    server = recorded(data_dir)
    if server is None or not server.ready or not server.is_of(data_dir):
        return None
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(_ANSWER_WITHIN_S)
        try:
            wire.connect(os.fspath(socket_path(server.socket_dir)))
            # The file may be old, and another server may listen in the folder. The kernel knows which process listens.
            pid, uid = _listener(wire)
            if pid not in {server.pid, 0} or uid not in {data_dir.stat().st_uid, None}:
                return None
            wire.sendall(_STARTUP)
            reply = wire.recv(4096)
            if reply[:1] == b"R":
                wire.sendall(_TERMINATE)
        except OSError:
            return None
    return server if reply[:1] == b"R" or (reply[:1] == b"E" and _NOT_NOW not in reply) else None


def may_work_in(pid: int, data_dir: Path) -> bool:
    """Return True if a process may be the server of a folder, since a postmaster runs in its data directory.

    Return True also where the system does not reveal that (macOS).
    """
    if sys.platform != "linux":
        return True
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data_dir)
    except OSError:
        return False


def forget_dead(data_dir: Path) -> int | None:
    """Remove the files of a killed server from its folder, or return the id of a live one that was started by hand.

    Call this only while no process of our server runs. PostgreSQL itself compares only the process id. So it refuses to
    start if another program of this user has that id after a reboot, or if no init process reaps a zombie. The call
    removes nothing outside of the folder, because in a copy the file names the socket of the original.
    """
    if sys.platform == "linux":
        server = recorded(data_dir)
        if server is not None and may_work_in(server.pid, data_dir):
            return server.pid
        remove_socket(data_dir)
        # Remove incomplete files too, because PostgreSQL does not start with an empty one.
        (data_dir / "postmaster.pid").unlink(missing_ok=True)
    return None


def remove_socket(folder: Path) -> None:
    """Remove the socket and lock file of a dead server from a folder that only the caller's servers use."""
    at = socket_path(folder)
    at.unlink(missing_ok=True)
    at.with_name(at.name + ".lock").unlink(missing_ok=True)


def last_complaint(log: Path, *, since: int) -> str:
    """Return the last error in a server's log after the offset `since`."""
    with log.open("rb") as file:
        file.seek(since)
        text = file.read().decode(errors="replace")
    found: list[str] = re.findall(r"(?:FATAL|PANIC|ERROR|error):\s+(.+)", text)
    return found[-1] if found else (text.strip().splitlines() or ["no reason given"])[-1]


def _listener(wire: socket.socket) -> tuple[int, int | None]:
    """Return the id of the listening process, and its OS user id.

    The process id is 0 if the process is in another container. The user id is None if the system does not reveal it.
    """
    if sys.platform == "darwin":
        return int(wire.getsockopt(*_MACOS_PEER)), None
    pid, uid, _ = struct.unpack("3i", wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid
