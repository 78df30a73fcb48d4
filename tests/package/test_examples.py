"""The examples run unchanged, and never touch the user's own database.

A program that uses that database, or leaves a project in it, makes the home. So no home may be there afterwards.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import programs
import pytest
from patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("machine_in_memory")

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_example_runs_beside_the_users_own_database(example: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "ATLAS_HOME": str(home), "ATLAS_DATABASE_URL": ""}
    done = programs.run([sys.executable, example], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""
    assert not home.exists()
    if example.stem == "03_runtime":
        shown = (ROOT / "README.md").read_text("utf-8").partition("$ python examples/03_runtime.py\n")[2]
        assert shown.partition("```")[0] == done.stdout
