"""The start-up time of the command line."""

import shutil
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.table import Row, at_most, count, exactly, ms
from benchmarks.timing import elapsed

_RUNS = 15
#: The slowest imports, which `--help` does not need.
_HEAVY = ("psycopg", "watchdog", "rich")


def startup(_: Bench) -> list[Row]:
    """Compare `atlasctl --help` with importing click and nothing else."""
    script = shutil.which("atlasctl", path=sysconfig.get_path("scripts"))
    if script is None:
        return [Row(what="atlasctl --help", missing="atlasctl is not installed: pip install --editable .")]
    ours, theirs = [script, "--help"], [sys.executable, "-c", "import click"]
    tried = subprocess.run(ours, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        last = (tried.stderr.strip().splitlines() or ["no message"])[-1]
        return [Row(what="atlasctl --help", missing=f"it ends with code {tried.returncode}: {last}")]
    times: tuple[list[float], list[float]] = ([], [])
    for _run in range(_RUNS):
        for seconds, command in zip(times, (ours, theirs), strict=True):
            seconds.append(elapsed(lambda c=command: subprocess.run(c, stdout=subprocess.DEVNULL, check=True)))
    imported = sorted(set(_HEAVY) & _imports(Path(script)))
    return [
        Row(
            what='atlasctl --help : python -c "import click"',
            ours=ms(statistics.median(times[0])),
            peer=ms(statistics.median(times[1])),
            target=at_most(1.5),
            note=f"medians of {_RUNS}",
        ),
        Row(
            what=f"of {', '.join(_HEAVY)} imported by it",
            ours=count(len(imported)),
            target=exactly(0),
            note=", ".join(imported),
        ),
    ]


def _imports(script: Path) -> set[str]:
    """Return the packages that the command imports."""
    command = [sys.executable, "-X", "importtime", script, "--help"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {line.rsplit("|", 1)[-1].strip().partition(".")[0] for line in report.splitlines()}
