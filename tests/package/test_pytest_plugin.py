"""The fixtures of our pytest plug-in, used by a test suite of another project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import programs
import pytest
from patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("machine_in_memory")

BLOCKING = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_database_is_new(atlas, number):
    assert atlas.users.list() == []
    atlas.users.create("ada@example.com")
"""
ASYNC = """
import pytest

@pytest.mark.{mark}
@pytest.mark.parametrize("number", [1, 2])
async def test_database_is_new(async_atlas, number):
    assert await async_atlas.users.list() == []
    await async_atlas.users.create("ada@example.com")
"""
ANYIO = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
OWN = """
import pytest

@pytest.fixture
def atlas():
    return "mine"

def test_own_fixture_wins(atlas):
    assert atlas == "mine"
"""


#: Without this option pytest-asyncio warns.
LOOP = "asyncio_default_fixture_loop_scope=function"


def run(folder: Path, test: str, *options: str) -> str:
    """Run a test file with our plug-in and the plug-ins that the options name, and no others."""
    (folder / "test_theirs.py").write_text(test)
    (folder / "home").mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *options, "-p", "atlas_sdk.pytest_plugin", "."]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ATLAS_HOME": str(folder / "home")}
    environment.pop("PYTEST_ADDOPTS", None)
    done = programs.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((folder / "home").iterdir()) == []
    return done.stdout


def test_each_test_has_a_database_of_its_own(tmp_path: Path) -> None:
    assert "2 passed" in run(tmp_path, BLOCKING)


@pytest.mark.parametrize(
    ("options", "test"),
    [
        (["-p", "pytest_asyncio.plugin", "-o", LOOP], ASYNC.format(mark="asyncio")),
        (["-p", "anyio.pytest_plugin"], ANYIO + ASYNC.format(mark="anyio")),
    ],
    ids=["pytest-asyncio", "anyio"],
)
def test_each_async_test_has_a_database_of_its_own(options: list[str], test: str, tmp_path: Path) -> None:
    assert "2 passed" in run(tmp_path, test, *options)


def test_a_fixture_of_the_suite_takes_precedence(tmp_path: Path) -> None:
    assert "1 passed" in run(tmp_path, OWN)


def test_a_run_that_uses_no_fixture_waits_for_no_driver() -> None:
    code = "import sys, atlas_sdk.pytest_plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"psycopg", "psycopg_pool", "watchdog", "rich"} & set(done.stdout.split())
