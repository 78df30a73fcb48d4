"""Names of folders and files in the watcher's log stay on one line and send no commands to a terminal."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import programs
import pytest
from daemons import Daemon, NewProject, newest, until
from patience import PATIENCE_S

from atlas_sdk import Atlas
from watcher.status import STATUS

_FORGED = "app\n2026-11-30 12:00:00,000 INFO watcher.worker: all is well\x1b[2J\u202e"


def test_a_folder_forges_no_line_of_the_log(
    daemon: Daemon, atlas: Atlas, new_project: NewProject, tmp_path: Path
) -> None:
    project = new_project(_FORGED)
    (tmp_path / _FORGED / "CLAUDE.md").write_text("x")
    (tmp_path / _FORGED / "notes\n2026 INFO forged.md").mkdir()
    (tmp_path / _FORGED / "NOTES.md").symlink_to("/etc/a\n2026 INFO forged")
    daemon.spawn(daemon.command("--log-level", "debug"))
    until(lambda: newest(atlas, project) == b"x", "the file is stored")
    until(lambda: daemon.status().ready, "the daemon is ready")
    fields = json.loads((daemon.home / STATUS).read_text("ascii"))
    assert [one["path"] for one in fields["projects"]] == [str(tmp_path / _FORGED)]
    shutil.rmtree(tmp_path / _FORGED)
    until(lambda: "is lost" in daemon.log.read_text(), "the loss is told")
    daemon.stop()
    text = daemon.log.read_text()
    assert "app\\n2026-11-30 12:00:00,000 INFO watcher.worker: all is well\\x1b[2J\\u202e is lost" in text
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if line.startswith("2026 ") or "12:00:00" in line[:30]] == []


@pytest.mark.parametrize(
    "line", [["--log-level", "a\nb\x1b[2J"], ["postgresql://ada:s3cr3t@h/db"], ["--home", "/dev/null/a\n\x1b[2J"]]
)
def test_what_was_typed_wrong_is_quoted_safely(line: list[str]) -> None:
    program = [sys.executable, "-m", "watcher", *line]
    ran = programs.run(program, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode != 0
    assert "s3cr3t" not in ran.stderr
    assert "\x1b" not in ran.stderr
    assert "Traceback" not in ran.stderr
