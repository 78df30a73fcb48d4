"""Findings of `atlasctl db doctor` about disks that fill up."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from atlas_sdk.provision.examine_space import examine_folders

MIB = 2**20


def disk(free_bytes, free_files=10**6, *, files=10**7, flags=0):
    """Return the result of statvfs(2) for a disk with blocks of 4 KiB. Root could use 100 MiB more."""
    blocks = free_bytes // 4096
    return SimpleNamespace(
        f_frsize=4096,
        f_bsize=2**20,
        f_bavail=blocks,
        f_bfree=blocks + 25_600,
        f_favail=free_files,
        f_ffree=free_files + 1000,
        f_files=files,
        f_flag=flags,
    )


@pytest.mark.parametrize(
    ("found", "verdict", "sentence"),
    [
        (disk(20 * 1024 * MIB), "ok", "20.0 GiB free for"),
        (disk(1024 * MIB), "ok", "1.0 GiB free for"),
        (disk(1023 * MIB), "warning", "is nearly full: 1,023 MiB free"),
        (disk(32 * MIB), "warning", "is nearly full: 32 MiB free"),
        (disk(31 * MIB), "problem", "is full: 31 MiB free"),
        (disk(0), "problem", "is full: 0 bytes free"),
        (disk(1024 * MIB, 5000), "ok", "1.0 GiB free for"),
        (disk(1024 * MIB, 4999), "warning", "takes 4,999 more files only"),
        (disk(1024 * MIB, 99), "problem", "takes 99 more files"),
        (disk(100 * MIB, 0), "problem", "takes 0 more files"),
        (disk(1024 * MIB, 0, files=0), "ok", "1.0 GiB free for"),
        (disk(1024 * MIB, flags=os.ST_RDONLY), "problem", "takes no writes"),
    ],
)
def test_a_low_disk_is_a_warning_and_a_full_one_a_problem(tmp_path, found, verdict, sentence):
    (finding,) = examine_folders([tmp_path], statvfs=lambda _: found)
    assert (finding.name, finding.verdict) == ("space", verdict)
    assert sentence in finding.detail
    assert str(tmp_path) in finding.detail
    assert bool(finding.fix) is (verdict != "ok")


def test_two_folders_of_one_disk_are_one_finding(tmp_path):
    (tmp_path / "home").mkdir()
    (finding,) = examine_folders([tmp_path, tmp_path / "home"])
    assert f"{tmp_path} and {tmp_path}/home" in finding.detail


def test_folders_of_two_disks_are_two_findings(tmp_path):
    others = [other for other in (Path("/dev/shm"), Path("/")) if other.is_dir()]
    found = [other for other in others if other.stat().st_dev != tmp_path.stat().st_dev]
    if not found:
        pytest.skip("needs a second file system at /dev/shm")
    assert len(list(examine_folders([tmp_path, found[0]]))) == 2
