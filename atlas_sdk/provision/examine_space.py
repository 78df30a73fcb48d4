"""Examine the free space on the disks of the data and of the home."""

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from atlas_sdk._drive.admin import AdminSession
from atlas_sdk._sql import statements
from atlas_sdk.provision.findings import Finding, fine, problem, unknown, warning

__all__ = ["examine_folders", "examine_space"]

sql = statements("doctor")

_MIB: Final = 2**20
#: Four times the embedded server's write-ahead log (`max_wal_size`), which grows before anything else does.
_LOW_BYTES: Final = 1024 * _MIB
#: Two segments of the write-ahead log: without room for the next segment the server stops.
_FULL_BYTES: Final = 32 * _MIB
#: Our data directory has some 1,000 files, and an upgrade makes a second data directory.
_LOW_FILES: Final = 5_000
_FULL_FILES: Final = 100


def examine_space(session: AdminSession, *, home: Path | None, is_embedded: bool) -> Iterator[Finding]:
    """Yield a verdict on the disk of the home, and for the embedded server on the disk of its data.

    PostgreSQL does not report how full its disk is, and the data of another server may be on another machine or in a
    container.
    """
    found = session.rows(sql["data_directory"])
    data = Path(found[0]["setting"]) if found else None
    folders = [folder for folder in (data if is_embedded else None, home) if folder is not None and folder.exists()]
    yield from examine_folders(folders)
    if not is_embedded:
        place = "DATA_DIRECTORY" if data is None else shlex.quote(str(data))
        yield unknown(
            "space",
            "PostgreSQL does not tell how much room the disk of its data has; look on its machine",
            f"df -h {place} && df -i {place}    # where the server runs",
        )


def examine_folders(
    folders: list[Path], *, statvfs: Callable[[Path], os.statvfs_result] = os.statvfs
) -> Iterator[Finding]:
    """Yield a verdict on each disk that holds one of these folders."""
    disks: dict[int, list[Path]] = {}
    for folder in folders:
        disks.setdefault(folder.stat().st_dev, []).append(folder)
    for on_disk in disks.values():
        yield _judge(on_disk, statvfs(on_disk[0]))


def _judge(folders: list[Path], disk: os.statvfs_result) -> Finding:
    names = " and ".join(map(str, folders))
    place = shlex.quote(str(folders[0]))
    # Do not count the space that is reserved for root, because the server never runs as root.
    free = disk.f_bavail * disk.f_frsize
    room = "# remove what nobody needs there, enlarge the disk, or move the home to another one (docs/backups.md)"
    if disk.f_flag & os.ST_RDONLY:
        return problem(
            "space", f"the disk of {names} takes no writes", f"findmnt -T {place}    # then see dmesg for why"
        )
    if free < _FULL_BYTES:
        return problem("space", f"the disk of {names} is full: {_size(free)} free", f"df -h {place}", room)
    # Some file systems create inodes on demand, and report 0 of 0.
    files = disk.f_favail if disk.f_files else None
    if files is not None and files < _FULL_FILES:
        return problem("space", f"the disk of {names} takes {files} more files", f"df -i {place}", room)
    if free < _LOW_BYTES:
        return warning("space", f"the disk of {names} is nearly full: {_size(free)} free", f"df -h {place}", room)
    if files is not None and files < _LOW_FILES:
        return warning("space", f"the disk of {names} takes {files:,} more files only", f"df -i {place}", room)
    return fine("space", f"{_size(free)} free for {names}")


def _size(size: int) -> str:
    if size < _LOW_BYTES:
        return f"{size / _MIB:,.0f} MiB" if size else "0 bytes"
    return f"{size / _LOW_BYTES:,.1f} GiB"
