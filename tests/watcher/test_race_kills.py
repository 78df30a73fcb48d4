"""A watcher is killed again and again while files change: see `benchmarks.race_kills`."""

from __future__ import annotations

import subprocess
import sys

import programs


def race(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.race_kills", *arguments]
    return programs.run(command, capture_output=True, text=True)


def test_nothing_that_was_acknowledged_is_lost() -> None:
    done = race("--kills", "8", "--seed", "7")
    lines = done.stdout.splitlines() or [""]
    assert (done.returncode, lines[-1]) == (0, "0 lost, 0 duplicate, 0 missing, 0 order, 0 times"), (
        done.stdout + done.stderr
    )
    assert ", 0 of them seen in the journal" not in lines[0], "nothing was acknowledged, so this run proves nothing"


def test_race_finds_a_record_that_is_forgotten() -> None:
    done = race("--kills", "6", "--seed", "7", "--sabotage")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "was acknowledged" in done.stdout
