"""The mounts of this system: which file system a path is on, and where mounts appear and go.

The kernel lists the mounts in /proc/self/mountinfo (see proc_pid_mountinfo(5)). Other systems have no such file; then
every path counts as local.
"""

import os
import re
import select
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

__all__ = ["Mount", "Mounts", "is_remote", "parse", "steps"]

#: File systems whose files other machines, a hypervisor or another process can change without an event here.
_REMOTE: Final = frozenset(
    {
        *(
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "ncpfs",
            "afs",
            "coda",
            "ceph",
            "lustre",
            "gpfs",
            "beegfs",
            "orangefs",
        ),
        *("9p", "drvfs", "wslfs", "vboxsf", "vmhgfs", "prl_fs", "virtiofs", "fakeowner", "grpcfuse", "osxfs"),
        *("fuse", "sshfs", "davfs", "glusterfs"),
    }
)
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
#: A line has at least ten fields, and the mount point is the fifth.
_FIELDS, _POINT = 10, 4


@frozen
class Mount:
    """One line of mountinfo."""

    id: str
    #: The id of the mount on which this one is mounted.
    parent: str
    point: str
    #: The type of the file system, such as `ext4` or `fuse.sshfs`.
    type: str


def parse(content: bytes) -> Iterator[Mount]:
    """Yield the mounts of a mountinfo file, in its order. A line that has another form is left out."""
    for line in content.split(b"\n"):
        fields = line.split(b" ")
        # Optional fields come before the separator, so its place differs from line to line.
        if len(fields) < _FIELDS or b"-" not in fields[_POINT + 2 : -2]:
            continue
        separator = fields.index(b"-", _POINT + 2)
        point = _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), fields[_POINT])
        yield Mount(fields[0].decode(), fields[1].decode(), os.fsdecode(point), os.fsdecode(fields[separator + 1]))


def is_remote(kind: str) -> bool:
    """Return whether files on a file system of this type can change without an event."""
    return kind in _REMOTE or kind.startswith("fuse.")


def steps(path: str) -> Iterator[str]:
    """Yield `/`, and then every folder on the way to a path, and the path."""
    yield "/"
    place = path.find("/", 1)
    while place > 0:
        yield path[:place]
        place = path.find("/", place + 1)
    if path != "/":
        yield path


class Mounts:
    """The mounts of this process. A look at a path costs no system call."""

    def __init__(self, file: Path = Path("/proc/self/mountinfo")) -> None:
        """Read the mounts. Without the file there are none."""
        try:
            self._descriptor: int | None = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = None
        self._below: Mapping[tuple[str, str], Mount] = {}
        self._first: Mount | None = None
        self._has_remote = False
        self._read()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def of(self, path: str) -> Mount | None:
        """Return the mount that an absolute path without symlinks is on; None if it is unknown.

        The mount with the longest mount point wins, unless a later mount hides it: like the kernel, the call enters the
        mounts on the way to the path one after the other.
        """
        at = self._first
        if at is None:
            return None
        for step in steps(path):
            while (deeper := self._below.get((at.id, step))) is not None:
                at = deeper
        return at

    def remote_type(self, path: str) -> str | None:
        """Return the type of the file system of a path if its files can change without an event, else None."""
        if not self._has_remote:
            return None
        found = self.of(path)
        return found.type if found is not None and is_remote(found.type) else None

    def changed(self) -> frozenset[str]:
        """Return the mount points that appeared or went since the last call. A call without a change takes some µs."""
        if self._descriptor is None or not self._is_news(self._descriptor):
            return frozenset()
        before = set(self._below.values())
        self._read()
        return frozenset(mount.point for mount in before ^ set(self._below.values()))

    def _is_news(self, descriptor: int) -> bool:
        waiting = select.poll()
        # The kernel reports a change of the mounts as an exceptional condition.
        waiting.register(descriptor, select.POLLPRI | select.POLLERR)
        return bool(waiting.poll(0))

    def _read(self) -> None:
        if self._descriptor is None:
            return
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        blocks = []
        while block := os.read(self._descriptor, 2**16):
            blocks.append(block)
        self._take(tuple(parse(b"".join(blocks))))

    def _take(self, mounts: tuple[Mount, ...]) -> None:
        ids = {mount.id for mount in mounts}
        self._below = {(mount.parent, mount.point): mount for mount in mounts if mount.parent != mount.id}
        self._first = next((mount for mount in mounts if mount.parent not in ids or mount.parent == mount.id), None)
        self._has_remote = any(is_remote(mount.type) for mount in mounts)
