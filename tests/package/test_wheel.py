"""The wheel holds what an installation needs, and nothing else at top level."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_the_sql_inside_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"atlas_sdk", "watcher"}
    for file in (ROOT / "sql").rglob("*.*"):
        assert f"atlas_sdk/sql/{file.relative_to(ROOT / 'sql').as_posix()}" in names
    assert not [name for name in names if "__pycache__" in name]


def test_the_package_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import atlas_sdk, pathlib\n"
        "from atlas_sdk._sql import migrations, topics\n"
        f"assert pathlib.Path(atlas_sdk.__file__).is_relative_to({str(tmp_path)!r})\n"
        "assert len(migrations()) >= 4 and 'memory' in topics()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, check=True)


def test_the_scripts_are_declared(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entry,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    text = archive.read(entry).decode()
    assert "atlasctl = atlas_sdk.cli:main" in text
    assert "atlas-watcher = watcher.__main__:main" in text
    assert "[pytest11]\natlasengine = atlas_sdk.pytest_plugin" in text
