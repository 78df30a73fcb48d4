"""Limits of the kernel, in namespaces of child processes: the limit on watches, and mounts over a watched folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("unshare") is None, reason="needs Linux and unshare: apt-get install mount"
)

_START = f"""
import os, subprocess, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from rig import Rig
from watcher.inotify import Inotify
from watcher.mounts import Mounts
from watcher.polling import MountAware
from watcher import folder
# Rely on `stat` of files that were written a moment ago.
folder.COARSEST_NS = -1
root = Path(sys.argv[1])
rig = Rig()
backend = MountAware(Inotify(), Mounts())
backend.start(rig.queue)
rig.worker._backend = rig.worker._projects._backend = backend
project = rig.atlas.add(root)
polled = lambda: [one.path for one in rig.status_of(project).polled]
"""

_LIMIT = """
limit = Path("/proc/sys/user/max_inotify_watches")
limit.write_text("5")
rig.settle(1.0)
assert polled() == ["notes/4", "notes/5", "notes/6", "notes/7", "notes/8", "notes/9"], polled()
assert "max_user_watches" in rig.status_of(project).polled[0].reason
(root / "notes/9/a.md").write_text("polled")
rig.settle(3.0)
assert rig.atlas.contents(project, "notes/9/a.md") == [b"polled"]
limit.write_text("100")
rig.settle(rig.timing.sweep_s + 3.0)
assert polled() == [], polled()
backend.stop()
"""

_MOUNT = """
rig.settle(1.0)
run = lambda *command: subprocess.run(command, check=True)
run("mount", "-t", "tmpfs", "none", str(root / "notes"))
(root / "notes/above.md").write_text("above")
rig.settle(rig.timing.mounts_s + 1.0)
assert rig.atlas.contents(project, "notes/above.md") == [b"above"]
run("umount", str(root / "notes"))
rig.settle(rig.timing.mounts_s + 2.0)
assert rig.atlas.contents(project, "notes/above.md") == [b"above", None]
(root / "notes/below.md").write_text("below")
rig.settle(rig.timing.mounts_s)
# The whole project is hidden by an empty disk: it is lost, and nothing counts as deleted.
run("mount", "-t", "tmpfs", "none", str(root))
rig.settle(rig.timing.mounts_s + 1.0)
assert rig.status_of(project).lost
run("umount", str(root))
rig.settle(rig.timing.mounts_s + 1.0)
assert not rig.status_of(project).lost
assert rig.atlas.contents(project, "CLAUDE.md") == [b"one"]
backend.stop()
"""


def run_in(namespace: str, script: str, root: Path) -> None:
    command = ["unshare", namespace, sys.executable, "-c", _START + script, str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_beyond_the_limit_on_watches_folders_are_polled_until_it_is_raised(root: Path) -> None:
    for number in range(1, 10):
        (root / f"notes/{number}").mkdir(parents=True)
    run_in("-Ur", _LIMIT, root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount: run the tests as root")
def test_a_mount_over_a_folder_hides_it_and_over_the_project_loses_it(root: Path) -> None:
    (root / "notes").mkdir()
    (root / "CLAUDE.md").write_text("one")
    run_in("-m", _MOUNT, root)
