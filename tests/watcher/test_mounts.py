"""Network file systems are found in mountinfo, and their folders are polled."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig import Rig

from atlas_sdk import Project
from watcher.backend import WatchedFolder
from watcher.mounts import Mounts, parse
from watcher.polling import MountAware

LINES = rb"""
27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 27 0:44 / /home/ada/code rw,relatime shared:20 master:3 - nfs4 server:/export rw,vers=4.2
41 40 0:45 / /home/ada/code/local rw,relatime - tmpfs tmpfs rw
42 27 0:46 / /mnt/a\040b\011c\134d rw,relatime - cifs //server/share rw,vers=3.1.1
43 27 0:47 / /mnt/c rw,noatime - 9p drvfs rw,aname=drvfs;path=C:\134;uid=1000
44 27 0:48 / /mnt/ssh rw,nosuid - fuse.sshfs ada@host:/ rw,user_id=1000
45 27 0:49 / /mnt/ntfs rw - fuseblk /dev/sdb1 rw
46 27 0:50 / /media/sf rw - vboxsf shared rw
47 27 0:51 / /mnt/smb rw - smb3 //server/x rw
48 27 0:52 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/a-b,upperdir=/c,workdir=/d
49 27 0:53 / /hidden/deep rw - nfs server:/deep rw
50 27 0:54 / /hidden rw - ext4 /dev/sdc1 rw
51 27 0:55 / /stacked rw - nfs server:/stacked rw
52 51 0:56 / /stacked rw - xfs /dev/sdd1 rw
a line of another form - x
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Mounts:
    (tmp_path / "mountinfo").write_bytes(LINES)
    return Mounts(tmp_path / "mountinfo")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ada/other", None),
        ("/home/ada/code", "nfs4"),
        ("/home/ada/code/app", "nfs4"),
        ("/home/ada/codes", None),
        ("/home/ada/code/local/app", None),
        ("/mnt/a b\tc\\d/app", "cifs"),
        ("/mnt/c/Users", "9p"),
        ("/mnt/ssh/app", "fuse.sshfs"),
        ("/mnt/ntfs/app", None),
        ("/media/sf", "vboxsf"),
        ("/mnt/smb/x", "smb3"),
        ("/var/lib/docker/overlay2/x/merged/app", None),
        ("/hidden/deep/app", None),
        ("/stacked/app", None),
    ],
)
def test_the_longest_mount_point_that_no_later_mount_hides_wins(mounts: Mounts, path: str, kind: str | None) -> None:
    assert mounts.remote_type(path) == kind


def test_a_system_without_mountinfo_has_no_network_file_systems(tmp_path: Path) -> None:
    mounts = Mounts(tmp_path / "missing")
    assert mounts.remote_type("/mnt") is None
    assert mounts.changed() == frozenset()


def test_the_mounts_of_this_system_are_read() -> None:
    content = Path("/proc/self/mountinfo").read_bytes()
    assert len(list(parse(content))) == content.count(b"\n")
    mounts = Mounts()
    found = mounts.of("/proc/self")
    assert found is not None
    assert found.type == "proc"
    assert mounts.changed() == frozenset()
    mounts.close()


def test_a_mount_that_appeared_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mountinfo"
    file.write_bytes(LINES)
    mounts = Mounts(file)
    news = [True, False]
    monkeypatch.setattr(mounts, "_is_news", lambda _: news.pop(0))
    with file.open("ab") as more:
        more.write(b"60 27 0:60 / /mnt/new rw - nfs4 server:/new rw\n")
    assert mounts.changed() == {"/mnt/new"}
    assert mounts.remote_type("/mnt/new/app") == "nfs4"
    assert mounts.changed() == frozenset()


@pytest.fixture
def remote(rig: Rig, root: Path, tmp_path: Path) -> Project:
    """Return a project whose folder `notes` is on NFS, as the mounts say."""
    (tmp_path / "mountinfo").write_text(
        f"27 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 27 0:44 / {root}/notes rw - nfs4 server:/ rw\n"
    )
    (root / "notes").mkdir()
    (root / "notes/a.md").write_text("one")
    aware = MountAware(rig.backend, Mounts(tmp_path / "mountinfo"))
    rig.worker._backend = aware
    rig.worker._projects._backend = aware
    project = rig.atlas.add(root)
    rig.settle(1.0)
    return project


def test_a_folder_on_a_network_file_system_is_watched_and_polled(rig: Rig, remote: Project, root: Path) -> None:
    assert WatchedFolder(remote.id, "notes") in rig.backend.watched
    (root / "notes/a.md").write_text("two")
    rig.settle(3.0)
    assert rig.atlas.contents(remote, "notes/a.md") == [b"one", b"two"]
    ((polled,),) = [one.polled for one in rig.worker.status().projects]
    assert polled.path == "notes"
    assert polled.reason == "it is on nfs4, where other machines can change files without an event here"


def test_a_folder_that_can_be_watched_later_is_polled_no_more(
    rig: Rig, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.folder.COARSEST_NS", -1)
    rig.backend.refused = {"notes"}
    (root / "notes").mkdir()
    (root / "notes/a.md").write_text("one")
    project = rig.atlas.add(root)
    rig.settle(1.0)
    assert [one.path for one in rig.status_of(project).polled] == ["notes"]
    rig.backend.refused = set()
    rig.settle(rig.timing.sweep_s + 3.0)
    assert rig.status_of(project).polled == ()
    assert WatchedFolder(project.id, "notes") in rig.backend.watched


def test_a_mount_over_a_folder_is_noticed_without_an_event(
    rig: Rig, app: Project, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.folder.COARSEST_NS", -1)
    (root / "scratch").mkdir()
    (root / "scratch/a.md").write_text("below")
    rig.event(app, "scratch", is_folder=True)
    rig.settle(2.0)
    identity = rig.backend.watched[WatchedFolder(app.id, "scratch")]
    # Another folder takes the place of the watched one, as a mount does.
    (root / "scratch").rename(root.with_name("away"))
    (root / "scratch").mkdir()
    (root / "scratch/a.md").write_text("above")
    rig.backend.mounts = frozenset({f"{root}/scratch"})
    rig.settle(rig.timing.mounts_s + 1.0)
    assert rig.backend.watched[WatchedFolder(app.id, "scratch")] != identity
    assert rig.atlas.contents(app, "scratch/a.md") == [b"below", b"above"]


def test_a_mount_somewhere_else_costs_no_scan(rig: Rig, app: Project) -> None:
    scans = rig.worker.status().counters["scans"]
    rig.backend.mounts = frozenset({"/somewhere/else", f"{app.path}2"})
    rig.settle(rig.timing.mounts_s + 1.0)
    assert rig.worker.status().counters["scans"] == scans
