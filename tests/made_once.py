"""Folders that one process of a run makes, and all its processes copy, such as the data directory of a server.

initdb takes 1.2 s of CPU time, and a copy of its data directory a tenth of that.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from atlas_sdk._embedded.locks import exclusive

#: Linux keeps the files of this folder in memory.
_IN_MEMORY = Path("/dev/shm")
#: Free memory for the servers of four processes, of some 0.5 GB each, with a reserve.
_NEEDED_BYTES = 6 << 30

#: Names the folder of the run, for processes that this one starts.
_VARIABLE = "TESTS_MADE_ONCE"


def server_folder(prefix: str) -> Path:
    """Make a folder for a server, in memory if there is enough of it.

    CREATE DATABASE takes 14 ms of CPU time in memory, and between 20 and 400 ms on a disk, because its files are new.
    """
    in_memory = _IN_MEMORY.is_dir() and min(shutil.disk_usage(_IN_MEMORY).free, _free_memory_bytes()) > _NEEDED_BYTES
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=_IN_MEMORY if in_memory else None))
    # The account that runs the server enters it.
    folder.chmod(0o755)
    return folder


def _remove_left() -> None:
    """Remove what killed runs have left in memory."""
    for folder in _IN_MEMORY.glob("atlas-*-*-*"):
        pid = folder.name.split("-")[-2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _free_memory_bytes() -> int:
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def share_folder() -> Path:
    """Return the folder of this run. The first process of the run makes it, and removes it at its end."""
    if _VARIABLE not in os.environ:
        _remove_left()
        folder = server_folder("atlas-t-")
        atexit.register(shutil.rmtree, folder)
        os.environ[_VARIABLE] = str(folder)
    return Path(os.environ[_VARIABLE])


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` fills, once in a run. Do not write to it."""
    folder = share_folder()
    made = folder / name
    with exclusive(folder / f"{name}.lock"):
        if not made.exists():
            half = folder / f"{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(mode=0o755)
            make(half)
            half.rename(made)
    return made


def copy_content(source: Path, target: Path) -> None:
    """Copy what a folder contains, with owners and modes."""
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)
