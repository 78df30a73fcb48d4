"""Data directories of embedded servers for tests that are not about making them: copies of one.

initdb takes 0.7 s of CPU time, and a copy of its result a tenth of that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_once import copy_content, made_once

from atlas_sdk._embedded.cluster import Cluster

#: A variable that lets a test's processes make their data directories.
REAL = "TESTS_REAL_INITDB"

_must: Callable[..., None] = Cluster._must


def _quick(self: Cluster, command: tuple[str | Path, ...], *, lock: int, stdin: str = "") -> None:
    if os.environ.get(REAL):
        _must(self, command, lock=lock, stdin=stdin)
        return
    program = Path(command[0]).name
    if program == "postgres":
        # The copy has the database.
        return
    assert program == "initdb"
    options = command[:2] + command[3:]
    digest = hashlib.sha256(f"{options}".encode()).hexdigest()[:8]

    def make(folder: Path) -> None:
        data = folder / "data"
        data.mkdir(mode=0o700)
        self._account.give(data)
        _must(self, (*command[:2], data, *command[3:]), lock=lock)
        single = (self.bin_dir / "postgres", "--single", "-D", data, "postgres")
        _must(self, single, lock=lock, stdin="CREATE DATABASE atlasengine OWNER atlas\n")

    copy_content(made_once(f"cluster-{digest}", make) / "data", Path(os.fspath(command[2])))


def copy_new_clusters(patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let new data directories be copies, unless the variable REAL is set."""
    patch(Cluster, "_must", _quick)
