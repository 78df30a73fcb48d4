"""Fixtures that run command lines, in this process or in processes of their own, on the session's embedded server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from recycling import RECYCLER

from atlas_sdk.cli import main, service_manager

ATLASCTL = str(Path(sys.executable).with_name("atlasctl"))


class Ran(NamedTuple):
    """The result of a command line."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def record(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def sentence(self) -> str:
        """The text of the error line, which is the only line on stderr."""
        (line,) = self.err.splitlines()
        assert line.startswith("atlasctl: ")
        assert not self.raw
        return line.removeprefix("atlasctl: ")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings of the environment in which the tests run."""
    for name in [name for name in os.environ if name.startswith("ATLAS_") and "LINGER" not in name]:
        monkeypatch.delenv(name)
    for name in ("NO_COLOR", "DATABASE_URL", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    # No command line of a test may reach the service manager of the machine: `init` offers to install a service, and
    # some tests agree to every question. A test of the service puts programs of its own in their place.
    monkeypatch.setattr(service_manager, "BOOTED", tmp_path / "no-systemd")
    monkeypatch.setattr(service_manager.platform, "system", lambda: "Linux")


@pytest.fixture
def home(atlas_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set ATLAS_HOME to the session's home; return the home."""
    monkeypatch.setenv("ATLAS_HOME", str(atlas_home))
    return atlas_home


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Return a function that runs a command line in this process."""
    RECYCLER.patch(monkeypatch)

    def run(*arguments: str | Path) -> Ran:
        capfdbinary.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Ran(code, out, err.decode())

    return run


@pytest.fixture
def app(home: Path, folder: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a protected project with two memory files; it is the current folder."""
    monkeypatch.chdir(folder)
    assert cli("init").code == 0
    return folder


@pytest.fixture
def atlasctl() -> str:
    """Return the path of the installed script, to run it as a process."""
    return ATLASCTL
