"""The demo and the watcher, as processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import programs
import pytest
from patience import PATIENCE_S


@pytest.fixture
def place(tmp_path_factory, monkeypatch):
    """Set TMPDIR to an empty folder, so that leftover files show; return it."""
    found = tmp_path_factory.mktemp("demo")
    monkeypatch.setenv("TMPDIR", str(found))
    return found


def data_folder(root):
    return (root / "home" / "postgres").resolve()


def test_demo_holds_and_leaves_nothing(atlasctl, place, monkeypatch):
    # The demo must ignore the settings of the person who runs it, and so never reach their own data.
    monkeypatch.setenv("ATLAS_DATABASE_URL", "postgresql://127.0.0.1:1/x")
    done = programs.run([atlasctl, "demo"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    steps = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert len(steps) == 14
    assert "\x1b" not in done.stdout
    assert "-- Ask before" in done.stdout
    # The demo prints the path of the program where the shell would not find its name.
    program = "atlasctl" if shutil.which("atlasctl") else atlasctl
    assert done.stdout.endswith(f"Next, in a project of yours:\n$ {program} init\n$ {program} watch\n")
    assert list(place.iterdir()) == []


def test_demo_json_keeps_when_asked(atlasctl, place):
    done = programs.run(
        [atlasctl, "demo", "--json", "--keep"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert all(step["ok"] for step in found["steps"])
    root = Path(found["folder"])
    assert (root / "app" / "CLAUDE.md").exists()
    clean_up(root)


def clean_up(root):
    data = data_folder(root)
    deadline = time.monotonic() + PATIENCE_S
    while (data / "postmaster.pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    subprocess.run(["rm", "-rf", data, root], check=True)


@pytest.mark.parametrize(("number", "when"), [(signal.SIGINT, "watching, process"), (signal.SIGTERM, "at work, in")])
def test_interrupted_demo_leaves_nothing(atlasctl, place, number, when):
    with programs.Popen([atlasctl, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        seen = ""
        for line in running.stdout:
            seen += line
            if when in line:
                break
        root = Path(re.search(r"at work, in (.+)", seen)[1])
        watcher = re.search(r"watching, process (\d+)", seen)
        data = data_folder(root)
        running.send_signal(number)
        _, err = running.communicate(timeout=PATIENCE_S)
        assert (running.returncode, err) == (130, "atlasctl: interrupted\n")
    assert not data.exists()
    assert list(place.iterdir()) == []
    if watcher is not None:
        with pytest.raises(ProcessLookupError):
            os.kill(int(watcher[1]), 0)


def test_watch_captures_until_it_is_told_to_stop(app, cli, atlasctl):
    with programs.Popen([atlasctl, "watch"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + PATIENCE_S
        while not cli("status", "--json").record["watcher"].get("ready"):
            assert time.monotonic() < deadline
        (app / "CLAUDE.md").write_text("captured by itself")
        while cli("show", "CLAUDE.md").raw != b"captured by itself":
            assert time.monotonic() < deadline
        second = cli("watch")
        assert second.code == 1
        running.terminate()
        running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 0
    assert cli("log", "CLAUDE.md", "--json").records[0]["attribution"]["source"] == "watcher"
