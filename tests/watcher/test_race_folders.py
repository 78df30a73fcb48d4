"""Another user swaps folders for symlinks while root restores, undoes and watches: see `benchmarks.race_folders`."""

from __future__ import annotations

import os
import subprocess
import sys

import programs
import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the attacker is another user: run the tests as root")


def race(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.race_folders", *arguments]
    return programs.run(command, capture_output=True, text=True)


def test_nothing_outside_of_a_project_is_opened_read_or_written() -> None:
    done = race("--races", "12", "--seed", "7")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "0 opens, reads or writes outside of the projects",
    ), done.stdout + done.stderr
    # Some operations were done and some were refused, so there were real races.
    assert " 0 operations done" not in done.stdout
    assert " 0 refused" not in done.stdout


def test_race_finds_a_walk_that_follows_links() -> None:
    done = race("--races", "3", "--seed", "7", "--sabotage")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "race 0, restore" in done.stdout
