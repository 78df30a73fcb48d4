"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_example_runs(example: Path, atlas_home: Path) -> None:
    environment = {**os.environ, "ATLAS_HOME": str(atlas_home), "ATLAS_DATABASE_URL": ""}
    done = subprocess.run(
        [sys.executable, example], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""


def test_the_readme_shows_what_the_third_example_prints(atlas_home: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "ATLAS_HOME": str(atlas_home), "ATLAS_DATABASE_URL": ""}
    command = [sys.executable, root / "examples" / "03_runtime.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    shown = (root / "README.md").read_text("utf-8").partition("$ python examples/03_runtime.py\n")[2]
    assert shown.partition("```")[0] == done.stdout
