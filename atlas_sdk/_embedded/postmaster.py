"""Is a server up, and is it the one of this data directory? Asked on its socket, without libpq or another program."""

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
#: Only the name of the socket; no server of ours listens on TCP.
PORT = 5432

#: The protocol version 3.0 and the two messages that we send, from the manual's "Message Formats".
_PROTOCOL = 3 << 16
_PARAMETERS = f"user\0{ROLE}\0database\0{DATABASE}\0\0".encode()
_STARTUP = struct.pack("!ii", 8 + len(_PARAMETERS), _PROTOCOL) + _PARAMETERS
_TERMINATE = struct.pack("!ci", b"X", 4)

#: cannot_connect_now: starting, recovering or stopping. Every other refusal comes from a server that works.
_NOT_NOW = b"C57P03\0"

#: macOS, <sys/un.h>: SOL_LOCAL and LOCAL_PEERPID.
_MACOS_PEER = (0, 2)

_ANSWER_WITHIN_S = 2.0


@frozen(kw_only=True)
class Postmaster:
    """The content of a running server's `postmaster.pid`."""

    pid: int
    #: The data directory as it was named at the start: another folder's in a copy, and after a move.
    data_dir: Path
    #: Believe it only of a server that `is_of` the data directory in question.
    socket_dir: Path
    ready: bool

    def is_of(self, data_dir: Path) -> bool:
        """Return whether this was written for this very folder, and not for the one that it was copied from."""
        try:
            return self.data_dir.samefile(data_dir)
        except OSError:
            return False


def socket_path(folder: Path) -> Path:
    """Return where a server with this socket folder listens."""
    return folder / f".s.PGSQL.{PORT}"


def recorded(data_dir: Path) -> Postmaster | None:
    """Return what is written in a data directory about its last server, dead or alive; None when it left.

    In a copy that is the server of the original, see `Postmaster.is_of`.
    """
    try:
        # Lines: pid, data directory, start time, port, socket directory, TCP address, shared memory, status.
        lines = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        return Postmaster(
            pid=int(lines[0]),
            data_dir=Path(lines[1]),
            socket_dir=Path(lines[4]),
            ready=lines[7].strip() == "ready",
        )
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None  # not there, or half written by a server that is just starting


def answering(data_dir: Path) -> Postmaster | None:
    """Return the server of this data directory when it accepts connections now."""
    server = recorded(data_dir)
    if server is None or not server.ready or not server.is_of(data_dir):
        return None
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(_ANSWER_WITHIN_S)
        try:
            wire.connect(os.fspath(socket_path(server.socket_dir)))
            # The file can be stale and the folder foreign, but the kernel knows who listens.
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
    """Return whether a process can be the server of a folder: a postmaster works in its data directory.

    True where the system does not tell (macOS).
    """
    if sys.platform != "linux":
        return True
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data_dir)
    except OSError:
        return False


def forget_dead(data_dir: Path) -> int | None:
    """Remove what a killed server left in its folder, or return the id of a live one that others started by hand.

    Only to be called while no process of a server of ours lives. PostgreSQL itself goes by the process id alone, and
    refuses to start when, after a reboot, some other program of this user has it, or when no init reaps a zombie.
    Removes nothing outside the folder: in a copy, the file names the socket of the original.
    """
    if sys.platform == "linux":
        server = recorded(data_dir)
        if server is not None and may_work_in(server.pid, data_dir):
            return server.pid
        remove_socket(data_dir)
        # Half written ones too: PostgreSQL stops at an empty one.
        (data_dir / "postmaster.pid").unlink(missing_ok=True)
    return None


def remove_socket(folder: Path) -> None:
    """Remove the socket of a dead server and its lock file from a folder that only the caller's servers use."""
    at = socket_path(folder)
    at.unlink(missing_ok=True)
    at.with_name(at.name + ".lock").unlink(missing_ok=True)


def last_complaint(log: Path, *, since: int) -> str:
    """Return the last thing that kept a server from starting, out of its log from the offset `since`."""
    with log.open("rb") as file:
        file.seek(since)
        text = file.read().decode(errors="replace")
    found: list[str] = re.findall(r"(?:FATAL|PANIC|ERROR|error):\s+(.+)", text)
    return found[-1] if found else (text.strip().splitlines() or ["no word about why"])[-1]


def _listener(wire: socket.socket) -> tuple[int, int | None]:
    """Return the process that listens at the other end, 0 when it is outside our view, as in another container.

    And its OS user; None where the system does not tell.
    """
    if sys.platform == "darwin":
        return int(wire.getsockopt(*_MACOS_PEER)), None
    pid, uid, _ = struct.unpack("3i", wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid
