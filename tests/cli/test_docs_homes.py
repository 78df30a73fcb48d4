"""The commands of docs/backups.md about homes run as they are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from atlas_sdk import Atlas
from atlas_sdk._embedded import locks, places

ROOT = os.geteuid() == 0
DOCS = Path(__file__).parents[2] / "docs" / "backups.md"
SECTION = DOCS.read_text(encoding="utf-8").split("## Copying, moving and backing up a home\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
#: The home that each block makes, by a text that only this block contains.
MADE = {
    "db load": "loaded",
    "~/copy": "copy",
    "tar ": "unpacked/atlasengine",
    "roots-copy": "roots-copy",
    "mv ": "moved",
}


@pytest.fixture(scope="module")
def made():
    """Yield a stopped home with a user in it. It is made once, because that takes longer than copying it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="atlas-test-docs-") as name:
        Path(name).chmod(0o755)
        home = Path(name, "home")
        # If the account of root's server can enter the home, the data is in the home, as without root.
        home.mkdir(mode=0o755)
        fill(home)
        wait_until_stopped(home)
        yield home


def fill(home):
    with Atlas.open(home=home) as atlas:
        atlas.users.create("ada@example.com", name="Ada")


def wait_until_stopped(home):
    names = ("server.lock", "supervisor.lock")
    if not any(not any(locks.is_held(home / "postgres.run" / name) for name in names) for _ in locks.polling(60)):
        pytest.fail(f"the server of {home} does not stop")


@pytest.fixture
def user_home(monkeypatch):
    """Set HOME to a temporary folder; yield it."""
    for name in [name for name in os.environ if name.startswith(("ATLAS_", "XDG_", "DB_"))]:
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="atlas-test-docs-") as name:
        monkeypatch.setenv("HOME", name)
        monkeypatch.setenv("ATLAS_EMBEDDED_LINGER_S", "0.2")
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        yield Path(name)
        homes = [Path(name, made) for made in (".local/share/atlasengine", *MADE.values()) if Path(name, made).exists()]
        for home in homes:
            wait_until_stopped(home)
            data = (home / "postgres").resolve()
            if data.is_relative_to(places.MACHINE_DIR):
                shutil.rmtree(data)


def test_every_block_is_run_by_a_test():
    assert [[word for word in MADE if word in block] for block in BLOCKS] == [[word] for word in MADE]


@pytest.mark.parametrize("word", MADE)
def test_commands_about_homes_do_what_they_promise(user_home, made, word):
    if word == "roots-copy" and not ROOT:
        pytest.skip("needs root: these are the commands for root, whose data lies outside the home")
    user_home.chmod(0o755)
    original = user_home / ".local/share/atlasengine"
    original.parent.mkdir(parents=True)
    if word == "roots-copy":
        fill(original)
    else:
        subprocess.run(["cp", "-a", made, original], check=True)
    (block,) = (block for block in BLOCKS if word in block)
    if word == "tar ":
        # The unpacked home is below a folder of mode 0700, which the account of root's server cannot enter.
        block = block.replace("mkdir -m 700", "mkdir -m 755")
    ran = subprocess.run(["bash", "-euc", block], capture_output=True, text=True, cwd="/", check=False)
    assert ran.returncode == 0, ran.stderr
    with Atlas.open(home=user_home / MADE[word]) as atlas:
        found = atlas.users.by_email("ada@example.com")
        assert found is not None
        atlas.users.create("made-in-copy@example.com", name="Copy")
    if word == "mv ":
        assert not original.exists()
        return
    with Atlas.open(home=original) as atlas:
        assert atlas.users.by_email("made-in-copy@example.com") is None
        assert atlas.users.by_email("ada@example.com") is not None
