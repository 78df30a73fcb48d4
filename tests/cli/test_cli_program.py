import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from atlas_sdk.cli.command import Command
from atlas_sdk.cli.program import COMMANDS, program

NAMES = [name for section in COMMANDS.values() for name in section]


def commands():
    """Yield the words of every command that can be called, and the command."""
    ctx = click.Context(program)
    for name in NAMES:
        command = program.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from (((name, sub), found) for sub, found in command.commands.items())
        else:
            yield (name,), command


def test_help_imports_no_command_and_nothing_slow():
    code = "import sys; from atlas_sdk.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    heavy = {"psycopg", "rich", "watchdog", "attrs", "attr", "platformdirs", "logging", "watcher"}
    assert not loaded & heavy
    assert {name.removeprefix("atlas_sdk.") for name in loaded if name.startswith("atlas_sdk.")} == {
        "cli",
        "cli.command",
        "cli.failures",
        "cli.program",
        "errors",
        "errors.base",
        "errors.database",
        "errors.quotas",
        "text",
    }
    assert "checkpoint" in done.stdout


def test_help_of_a_command_opens_nothing():
    code = (
        "import sys; from atlas_sdk.cli import main; main(['restore', '--help']); "
        "assert not {'psycopg', 'rich', 'watchdog', 'attrs', 'atlas_sdk.client'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_table_says_what_the_commands_say():
    ctx = click.Context(program)
    for section in COMMANDS.values():
        for name, (_, text) in section.items():
            command = program.get_command(ctx, name)
            assert command.name == name
            assert command.get_short_help_str(limit=200) == text


@pytest.mark.parametrize(
    ("words", "command"), list(commands()), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_a_paragraph_json_and_examples_that_parse(words, command, cli):
    assert isinstance(command, Command)
    assert "\n\n" in command.help
    assert any("--json" in option.opts for option in command.params)
    shown = cli(*words, "--help")
    assert shown.code == 0
    assert "Examples:" in shown.out
    assert "global options --project, --dsn, --home" in shown.out
    assert command.examples
    assert {f"  {example}" for example in command.examples} <= set(shown.out.splitlines())
    for example in command.examples:
        # Remove the shell's syntax: a redirection, or the command around a substitution.
        line = re.split(" [<>] ", example.removeprefix("psql $(").removesuffix(")"))[0]
        name, *arguments = shlex.split(line)
        assert name == "atlasctl"
        assert tuple(arguments[: len(words)]) == words
        command.make_context(" ".join(words), arguments[len(words) :]).close()


def test_without_arguments_is_help(cli):
    assert cli().out == cli("--help").out
    assert cli("-h").out == cli("--help").out


def test_version(cli):
    assert cli("--version").out.startswith("atlasctl 0.")
    assert cli("-V").out == cli("--version").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["chekpoint", "x"], "no command is called 'chekpoint'; did you mean checkpoint?; see: atlasctl --help"),
        (["frobnicate"], "no command is called 'frobnicate'; see: atlasctl --help"),
        (["log", "--frob"], "no such option '--frob'; see: atlasctl log --help"),
        (["checkpoint"], "missing argument 'NAME'; see: atlasctl checkpoint --help"),
        (
            ["log", "-n", "0"],
            "invalid value for '-n' / '--limit': 0 is not in the range 1<=x<=1000000; see: atlasctl log --help",
        ),
        (["db"], None),
    ],
)
def test_usage_errors_are_one_line_and_exit_with_2(cli, arguments, sentence):
    ran = cli(*arguments)
    assert ran.code == 2
    if sentence is not None:
        assert ran.sentence == sentence


def test_json_error_is_an_object_on_stderr(cli):
    ran = cli("log", "--json", "--frob")
    assert (ran.code, ran.raw) == (2, b"")
    assert json.loads(ran.err) == {"error": "no such option '--frob'; see: atlasctl log --help", "kind": "NoSuchOption"}


def test_unexpected_error_is_one_sentence_and_verbose_shows_more(cli, monkeypatch, home):
    def explode(*_, **__):
        raise ZeroDivisionError("by\x1bzero")

    monkeypatch.setattr("atlas_sdk.Atlas.open", explode)
    ran = cli("log")
    assert ran.code == 1
    assert ran.sentence == "unexpected ZeroDivisionError: by\\x1bzero; run again with --verbose to see where"
    assert "Traceback" in cli("log", "--verbose").err


def test_interrupt_exits_with_130(cli, monkeypatch, home):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("atlas_sdk.Atlas.open", interrupt)
    ran = cli("log")
    assert (ran.code, ran.sentence) == (130, "interrupted")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(cli, shell):
    ran = cli("completion", shell)
    assert ran.code == 0
    assert "_ATLASCTL_COMPLETE" in ran.out


def test_completion_offers_commands(atlasctl):
    environment = os.environ | {
        "_ATLASCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "atlasctl check",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([atlasctl], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain,checkpoint", "plain,checkpoints"]


def test_bash_accepts_the_script(cli):
    script = cli("completion", "bash").raw
    assert subprocess.run(["bash", "-n"], input=script, check=False).returncode == 0


def test_reader_that_goes_away_is_no_news(app, atlasctl):
    done = subprocess.run(
        ["bash", "-c", f"{shlex.quote(atlasctl)} log --json > >(true); exit $?"], capture_output=True, check=False
    )
    assert done.stderr == b""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run([atlasctl, "log"], stdout=gone, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_closed_stdout_loses_nothing_and_says_so(app, cli, atlasctl):
    (app / "CLAUDE.md").write_text("new")
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.quote(atlasctl)} snapshot >&-"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert "standard output is closed" in done.stderr
    assert cli("show", "CLAUDE.md").raw == b"new"


def test_full_disk_behind_stdout_is_an_error(app, atlasctl):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [atlasctl, "show", "CLAUDE.md"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "no space left" in done.stderr.lower()
    assert len(done.stderr.splitlines()) == 1


def test_help_of_a_command_is_the_same_both_ways(cli):
    assert cli("help").out == cli("--help").out
    assert cli("help", "log").out == cli("log", "--help").out
    assert cli("help", "db", "maintain").out == cli("db", "maintain", "--help").out
    assert cli("help", "db", "--json").record == {"command": "atlasctl db", "help": cli("db", "-h").out.strip()}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["lgo"], "no command is called 'lgo'; did you mean log?; see: atlasctl --help"),
        (["db", "maintian"], "no such command 'maintian'"),
        (["log", "x"], "atlasctl log has no commands of its own; see: atlasctl log --help"),
    ],
)
def test_help_of_what_is_no_command_exits_with_2(cli, words, sentence):
    ran = cli("help", *words)
    assert ran.code == 2
    assert ran.sentence.startswith(sentence)
