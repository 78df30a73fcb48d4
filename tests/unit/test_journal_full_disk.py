"""A full disk refuses an append, and deliveries go on."""

from __future__ import annotations

import os
import resource
import signal
import subprocess

import pytest
from journaling import record

from atlas_sdk.journal import Journal, JournalProblem

ROOT = os.geteuid() == 0


@pytest.fixture
def small_disk(tmp_path):
    """Yield a home on a disk of one MiB; without root, limit files to this size."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if ROOT and subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        try:
            yield folder / "home"
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    yield from limited_files(folder)


@pytest.fixture
def small_files(tmp_path):
    yield from limited_files(tmp_path)


def limited_files(folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        yield folder / "home"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("disk", ["small_disk", "small_files"])
def test_a_full_disk_refuses_the_append_and_keeps_what_is_there(request, disk):
    home = request.getfixturevalue(disk)
    acknowledged = []
    with Journal.open(home) as journal:
        filler = home / "filler"
        filler.write_bytes(b"x" * 200_000)
        with pytest.raises(JournalProblem, match="the disk is full or broken; free some space, then try again"):
            while True:
                made = record(os.urandom(20_000))
                journal.append([made])
                acknowledged.append(made)
        assert len(acknowledged) > 5
        assert [one.id for one in journal.pending(limit=10**6)] == [one.id for one in acknowledged]
        # A delivery goes on, although nothing can be marked.
        with pytest.raises(JournalProblem, match="disk is full"):
            while True:
                journal.delivered([acknowledged[0].id])
                acknowledged.pop(0)
        assert [one.id for one in journal.pending(limit=10**6)] == [one.id for one in acknowledged[1:]]
        filler.unlink()
        if disk == "small_files":
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        journal.append([record(b"goes on")])
        journal.delivered([])
    with Journal.existing(home) as again:
        assert [one.id for one in again.pending(limit=10**6)][:-1] == [one.id for one in acknowledged[1:]]
        assert again.pending(limit=10**6)[-1].content == b"goes on"


def test_a_disk_without_room_for_a_journal_is_said(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "journal").mkdir(mode=0o500)
    if ROOT:
        (home / "journal").rmdir()
        (home / "journal").write_text("")
    with pytest.raises(JournalProblem, match="journal"):
        Journal.open(home)
