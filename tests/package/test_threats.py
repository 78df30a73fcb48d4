"""Every wall in docs/threats.md names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (?!wall |---)(?P<wall>[^|]+) \|.*\| (?P<tests>[^|]+) \|$", re.MULTILINE)
_NAME = re.compile(r"`([^`]+)`")


def rows() -> dict[str, list[str]]:
    """Return, for each wall, the names in the last column of its row."""
    text = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
    return {found["wall"]: _NAME.findall(found["tests"]) for found in _ROW.finditer(text)}


def test_every_wall_has_a_test_that_exists() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    written = "\n".join(files.values())
    walls = rows()
    assert len(walls) > 30
    missing = {
        wall: name
        for wall, names in walls.items()
        for name in names or ["nothing"]
        if not (
            name in files
            or name.startswith("make ")
            or (ROOT / name).is_dir()
            or re.search(rf"^ *def {re.escape(name)}\(", written, re.MULTILINE)
        )
    }
    assert missing == {}
