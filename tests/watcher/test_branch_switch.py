"""Switching a branch changes thousands of files at once; the events of the kernel and a worker with a fake database."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import until
from rig import Rig

from atlas_sdk import Project

if sys.platform != "linux":
    pytest.skip("inotify is Linux's", allow_module_level=True)

from watcher.inotify import Inotify

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed: apt-get install git")

_FILES = 2_000


def git(root: Path, *arguments: str) -> None:
    names = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "core.fsync=none"]
    subprocess.run(["git", *names, *arguments], cwd=root, check=True, capture_output=True)


def on_disk(root: Path) -> dict[str, bytes]:
    return {f"notes/{path.name}": path.read_bytes() for path in (root / "notes").iterdir()}


def newest(rig: Rig, project: Project) -> dict[str, bytes]:
    """Return the newest content of every file that is not deleted."""
    found = {path: versions[-1][1] for (_, path), versions in rig.atlas.history.items() if path.startswith("notes/")}
    return {path: content for path, content in found.items() if content is not None}


def test_every_file_of_a_branch_is_captured_there_and_back(rig: Rig, root: Path) -> None:
    """One branch has half of its files changed, a quarter removed and a quarter renamed."""
    (root / "notes").mkdir()
    for number in range(_FILES):
        (root / f"notes/{number}.md").write_text(f"main {number % 10}")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    git(root, "switch", "-qc", "other")
    for number in range(_FILES):
        if number % 4 < 2:
            (root / f"notes/{number}.md").write_text(f"other {number % 10}")
        elif number % 4 == 2:
            (root / f"notes/{number}.md").unlink()
        else:
            (root / f"notes/{number}.md").rename(root / f"notes/new{number}.md")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "two")
    git(root, "switch", "-q", "main")

    backend = Inotify()
    backend.start(rig.queue)
    rig.worker._backend = rig.worker._projects._backend = backend
    try:
        project = rig.atlas.add(root)
        rig.settle(1.0)
        assert newest(rig, project) == on_disk(root)
        for branch in ("other", "main"):
            git(root, "switch", "-q", branch)

            def is_captured() -> bool:
                rig.leap(1.0)
                return newest(rig, project) == on_disk(root)

            until(is_captured, f"the branch {branch} is captured")
    finally:
        backend.stop()
    for versions in rig.atlas.history.values():
        contents = [content for _, content in versions]
        assert all(before != after for before, after in itertools.pairwise(contents))
