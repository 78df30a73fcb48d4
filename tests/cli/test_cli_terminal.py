"""Differences on a terminal: colours, relative times, and a question before files are written."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from contextlib import suppress

import programs
import pytest
from patience import PATIENCE_S


class Terminal:
    def __init__(self, command, **environment):
        self._mine, theirs = pty.openpty()
        self.process = programs.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"} | environment
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, wanted=None):
        deadline = time.monotonic() + PATIENCE_S
        while wanted is None or wanted not in self.text:
            ready, _, _ = select.select([self._mine], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"waited for {wanted!r} in vain: {self.text!r}"
            try:
                raw = os.read(self._mine, 4096)
            except OSError:
                # On Linux, reading fails with EIO after the other side was closed.
                break
            if not raw:
                break
            self.text += raw.decode(errors="replace")
        return self.text

    def type(self, text):
        os.write(self._mine, text.encode())

    def interrupt(self):
        """Press Ctrl-C until the process ends, as a person does. The first one may come just before the reading."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self.process.send_signal(signal.SIGINT)
            select.select([self._mine], [], [], 3)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(3)

    def end(self):
        self.read_until()
        os.close(self._mine)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def terminal(app, atlasctl):
    started = []

    def run(*arguments, **environment):
        started.append(Terminal([atlasctl, *arguments], **environment))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.wait()


def test_colours_and_relative_times(app, terminal):
    shown = terminal("log")
    assert shown.end() == 0
    assert "\x1b[" in shown.text
    assert " s ago" in shown.text or " min ago" in shown.text


def test_quotas_are_gauges_on_a_terminal(app, terminal):
    shown = terminal("quota", "show", COLUMNS="140")
    assert shown.end() == 0
    assert "░" in shown.text
    assert "\x1b[" in shown.text
    assert "(in " in shown.text
    shown = terminal("quota", "show", NO_COLOR="1")
    assert shown.end() == 0
    assert "tokens " in shown.text
    assert "░" not in shown.text
    assert "\x1b[" not in shown.text


@pytest.mark.parametrize(
    ("arguments", "environment"), [([], {"NO_COLOR": "1"}), (["--no-color"], {}), ([], {"TERM": "dumb"})]
)
def test_colours_can_be_refused(app, terminal, arguments, environment):
    (app / "CLAUDE.md").write_text("changed")
    shown = terminal("diff", *arguments, **environment)
    assert shown.end() == 0
    assert "+changed" in shown.text
    assert "\x1b[" not in shown.text


def test_names_stay_harmless_in_colour(app, terminal):
    (app / "scratch").mkdir()
    (app / "scratch" / "\x1b[2J[red]\n.md").write_text("\x1b[2Jcontrol\n")
    for command in (["status"], ["diff"], ["snapshot"]):
        shown = terminal(*command)
        shown.end()
        assert "\x1b[2J" not in shown.text
        assert "scratch/\\x1b[2J[red]\\n.md" in shown.text.replace("\r\n", "")


def test_restore_asks_and_no_writes_nothing(app, cli, terminal):
    cli("checkpoint", "v1")
    (app / "CLAUDE.md").write_text("gutted")
    asked = terminal("restore", "v1")
    asked.read_until("Restore now?")
    asked.type("n\n")
    assert asked.end() == 1
    assert "nothing was written" in asked.text
    assert (app / "CLAUDE.md").read_text() == "gutted"
    asked = terminal("restore", "v1")
    asked.read_until("Restore now?")
    asked.type("y\n")
    assert asked.end() == 0
    assert (app / "CLAUDE.md").read_text() != "gutted"
    assert terminal("undo", "--yes").end() == 0
    assert (app / "CLAUDE.md").read_text() == "gutted"


def test_interrupt_at_the_question_writes_nothing(app, cli, terminal):
    cli("checkpoint", "v1")
    (app / "CLAUDE.md").write_text("gutted")
    asked = terminal("restore", "v1")
    asked.read_until("Restore now?")
    asked.interrupt()
    assert asked.end() == 130
    assert "Traceback" not in asked.text
    assert (app / "CLAUDE.md").read_text() == "gutted"


_HIDING = "see \u202ethis\U000e0041\u200b \x1b]0;title\x07 \ufeffend\r\nnext\n"


def test_what_hides_in_a_diff_is_shown_on_a_terminal_and_whole_in_a_pipe(app, terminal, cli):
    (app / "CLAUDE.md").write_bytes(_HIDING.encode())
    run = terminal("diff", NO_COLOR="1")
    assert run.end() == 0
    assert "+see \\u202ethis\\U000e0041\\u200b \\x1b]0;title\\x07 \\ufeffend\\r" in run.text
    assert not set(run.text) & set("\u202e\U000e0041\u200b\x1b\x07\ufeff")
    assert b"+" + _HIDING.encode().splitlines()[0] in cli("diff").raw


def test_what_hides_in_a_version_is_shown_on_a_terminal_and_whole_in_a_pipe(app, terminal, cli):
    (app / "CLAUDE.md").write_bytes(_HIDING.encode() + b"\xff")
    assert cli("snapshot").code == 0
    run = terminal("show", "CLAUDE.md")
    assert run.end() == 0
    assert "see \\u202ethis\\U000e0041\\u200b \\x1b]0;title\\x07 \\ufeffend\r\nnext\r\n\\xff" in run.text
    assert not set(run.text) & set("\u202e\U000e0041\u200b\x1b\x07\ufeff")
    assert "some characters are shown as escapes" in run.text
    assert cli("show", "CLAUDE.md") == (0, _HIDING.encode() + b"\xff", "")


_COLOR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_a_narrow_terminal_leaves_columns_out_and_folds_no_name(app, cli, terminal, environment):
    (app / "notes").mkdir()
    long = f"notes/{'a' * 35}.md"
    (app / long).write_text("long\n")
    assert cli("snapshot").code == 0
    version = cli("log", long, "--json").records[0]["id"].replace("-", "")[:12]
    lines = {}
    for columns in ("80", "200"):
        shown = terminal("log", COLUMNS=columns, **environment)
        assert shown.end() == 0
        found = _COLOR.sub("", shown.text).split("\r\n")
        (lines[columns],) = (line for line in found if line.startswith(version))
        assert long in lines[columns]
    assert len(lines["80"].rstrip()) <= 80
    assert "manual" not in lines["80"]
    assert "manual" in lines["200"]


@pytest.mark.parametrize(("columns", "bar", "wait"), [("60", False, False), ("80", True, False), ("140", True, True)])
def test_gauges_fit_into_the_terminal(app, terminal, columns, bar, wait):
    shown = terminal("quota", "show", COLUMNS=columns)
    assert shown.end() == 0
    (line,) = (line for line in _COLOR.sub("", shown.text).split("\r\n") if line.startswith("tokens"))
    assert ("░" in line, "(in " in line) == (bar, wait)
    assert "until 20" in line
    if bar:
        assert len(line.rstrip()) <= int(columns)


def test_a_user_is_deleted_only_after_a_yes(app, cli, terminal):
    assert cli("user", "create", "gone@example.com").code == 0
    asked = terminal("user", "delete", "gone@example.com")
    asked.read_until("Delete gone@example.com for good, with 0 projects and every version in them? [y/N]:")
    asked.type("\n")
    assert asked.end() == 1
    assert "nothing was changed" in asked.text
    asked = terminal("user", "delete", "gone@example.com")
    asked.read_until("[y/N]:")
    asked.type("y\n")
    assert asked.end() == 0
    assert cli("user", "show", "gone@example.com").code == 3


def test_a_password_is_asked_for_twice_and_not_shown(app, cli, terminal):
    assert cli("user", "create", "typed@example.com").code == 0
    asked = terminal("user", "password", "typed@example.com")
    for question in ("New password of typed@example.com:", "Repeat for confirmation:"):
        asked.read_until(question)
        asked.type("correct horse\n")
    assert asked.end() == 0
    assert "typed@example.com has a new password; 0 sign-ins ended" in asked.text
    assert "correct horse" not in asked.text
    assert cli("user", "delete", "typed@example.com", "--yes").code == 0
