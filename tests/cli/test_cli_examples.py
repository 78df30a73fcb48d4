"""The examples in the help of every command and the commands of two pages run as they are written."""

import io
import os
import re
import shlex
import sys
from pathlib import Path

import click
import psycopg
import pytest
from fake_manager import Manager
from test_cli_program import commands

from atlas_sdk import Atlas, SigningKeys
from atlas_sdk.cli import main, service_manager, service_plan
from atlas_sdk.cli.invocation import Invocation

EXAMPLES = {words: command.examples for words, command in commands()}
#: Commands whose examples do not run here, each with the reason.
NOT_RUN = {
    ("demo",): "test_cli_demo.py runs it",
    ("watch",): "it runs until it is interrupted: tests/watcher",
    ("db", "load"): "it makes a database: test_cli_backups.py runs it",
    ("db", "init"): "it makes logins of the whole server: tests/cli/provision runs it",
}
#: `db doctor` exits with 1 when it finds a problem, and a test's server has some, such as no fsync.
#: The charge of the example of `quota refund` does not exist.
#: Without a watcher, `status` and `doctor` exit with 6.
CODES = {("db", "doctor"): {0, 1}, ("quota", "refund"): {3}, ("status",): {6}, ("doctor",): {6}}
#: The account of an example does not exist.
CODES |= {("service", "install"): {0, 3}}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(dsn, tmp_path, monkeypatch):
    """Prepare a home folder with ~/code/app and the settings that the examples need.

    Yield a function that makes the users, projects and checkpoints that the examples of one command name. Programs of
    the test stand for systemd, so that no example installs a service on this machine.
    """
    _stand_in_for_systemd(tmp_path, monkeypatch)
    app = tmp_path / "code" / "app"
    app.mkdir(parents=True)
    (app / "notes.md").write_text("a note\n")
    monkeypatch.chdir(app)
    SigningKeys.generate().write(tmp_path / "keys")
    for name, value in {
        "HOME": tmp_path,
        "ATLAS_DATABASE_URL": dsn,
        "ATLAS_SIGNING_KEYS": tmp_path / "keys",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n" * 9))
    # Behave as on a terminal where a person confirms every question.
    monkeypatch.setattr(Invocation, "interactive", property(lambda run: not run.flags.json))
    monkeypatch.setattr(click, "confirm", lambda *_, **__: True)
    with Atlas.open(dsn) as atlas:
        yield lambda words: _prepare(atlas, dsn, app, words)


def _stand_in_for_systemd(tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    Manager(programs).says("systemctl", out="LoadState=loaded\nActiveState=active\nMainPID=77\n")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(service_manager, "BOOTED", tmp_path)
    monkeypatch.setattr(service_plan, "is_root", lambda: False)


def _prepare_move(atlas, app, words):
    if words in {("init",), ("projects", "move")}:
        atlas.projects.create(atlas.users.local(), path=app.parents[1] / "old" / "app")
        (app.parent / "new").mkdir()


def _prepare_service(words):
    if words[0] == "service" and words != ("service", "install"):
        assert main(["service", "install"]) == 0


def _prepare(atlas, dsn, app, words):
    _prepare_move(atlas, app, words)
    _prepare_service(words)
    ada = atlas.users.create("ada@example.com")
    if words != ("user", "create"):
        atlas.users.create("bob@example.com")
    for user in (ada, atlas.users.local()):
        project = atlas.projects.create(user, path=app)
        for number, name in enumerate(("v1", "v2", "before-refactor")):
            (app / "CLAUDE.md").write_text(f"{number}\n")
            atlas.memory.capture(project)
            if words != ("checkpoint",):
                atlas.memory.checkpoint(project, name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE memory_snapshots SET created_at = created_at - interval '2 days'")
    if words in {("undo",), ("redo",)}:
        for name in ("v1", "v2"):
            atlas.memory.restore(project, name)
    if words == ("redo",):
        for _ in range(2):
            atlas.memory.undo(project)
    if words == ("projects", "purge"):
        atlas.projects.delete(project)


def _arguments(line, dsn):
    """Return the arguments of a command line without the shell's syntax, with the DSN of the test's server."""
    line = line.removeprefix("psql $(").removesuffix(")")
    line = re.split(r" [<>] ", re.sub(r"postgresql://\S+", shlex.quote(dsn), line))[0]
    name, *arguments = shlex.split(line, comments=True)
    assert name == "atlasctl"
    return [str(Path(one).expanduser()) if one.startswith("~") else one for one in arguments]


@pytest.mark.parametrize("words", [words for words in EXAMPLES if words not in NOT_RUN], ids=" ".join)
def test_the_examples_of_a_command_run(world, dsn, cli, words):
    world(words)
    for example in EXAMPLES[words]:
        ran = cli(*_arguments(example, dsn))
        assert ran.code in CODES.get(words, {0}), f"{example}: {ran.err}"


def test_every_exception_is_a_command():
    assert NOT_RUN.keys() | CODES.keys() <= EXAMPLES.keys()


@pytest.mark.parametrize(
    ("page", "heading", "amount"),
    [("README.md", "For a developer with agents", 9), ("docs/quotas.md", "Quota accounting", 9)],
)
def test_the_commands_of_a_page_run(world, dsn, cli, page, heading, amount):
    world(("checkpoint",))
    section = (ROOT / page).read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\$ (atlasctl (?!watch|service|doctor).+)", section, re.MULTILINE)
    assert len(lines) == amount
    for line in lines:
        ran = cli(*_arguments(line, dsn))
        words = tuple(line.partition("#")[0].split()[1:3])
        assert ran.code in CODES.get(words, {0}), f"{line}: {ran.err}"


@pytest.mark.parametrize("group", ["user", "plans", "sessions", "projects"])
def test_the_readme_names_every_command_of_an_operator(group):
    found = re.findall(rf"`atlasctl\s+{group}\s+([a-z|]+)", (ROOT / "README.md").read_text("utf-8"))
    listed = {name for names in found for name in names.split("|")}
    assert listed == {words[1] for words in EXAMPLES if words[0] == group}
