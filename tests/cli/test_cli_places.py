"""The folder of a project: moved projects, roots of repositories, worktrees, and the home folder."""

import shutil
from pathlib import Path

import click
import pytest

from atlas_sdk.cli.invocation import Invocation


@pytest.fixture
def folder(folder):
    """Return the folder of a project whose files no other test has: `init` would ask about a folder that is gone."""
    for file in folder.iterdir():
        file.write_text(f"{file}\n")
    return folder


@pytest.fixture
def answers(monkeypatch):
    """Return a function that sets the answers of a person on a terminal; it returns the list of the questions."""

    def answer(*given):
        left, asked = list(given), []

        def ask(question, **_):
            asked.append(question)
            return left.pop(0)

        monkeypatch.setattr(Invocation, "interactive", property(lambda _: True))
        monkeypatch.setattr(click, "confirm", ask)
        monkeypatch.setattr(click, "prompt", ask)
        return asked

    return answer


def with_worktree(folder: Path, name: str = "w1") -> Path:
    """Make what `git worktree add .claude/worktrees/NAME` makes in a repository; return the worktree's folder."""
    (folder / ".git" / "worktrees" / name).mkdir(parents=True)
    worktree = folder / ".claude" / "worktrees" / name
    worktree.mkdir(parents=True)
    (worktree / ".git").write_text(f"gitdir: {folder}/.git/worktrees/{name}\n")
    (worktree / "CLAUDE.md").write_text(f"of {name}")
    return worktree


def renamed(app: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    new = app.with_name("renamed")
    app.rename(new)
    monkeypatch.chdir(new)
    return new


def test_a_renamed_project_is_continued_on_a_terminal(app, cli, answers, monkeypatch):
    old = cli("init", "--json").record["project"]["id"]
    new = renamed(app, monkeypatch)
    asked = answers(True)
    ran = cli("init")
    assert asked == ["Continue its history here?"]
    assert f"This folder looks like {app}, which is gone: the same folder, 2 same files." in ran.err
    assert ran.out.startswith(f"{new} is saved now, with the history of its old folder, not watched: 2 memory files\n")
    assert cli("projects", "show", ".", "--json").record["id"] == old


def test_a_renamed_project_starts_anew_if_the_answer_is_no(app, cli, answers, monkeypatch):
    old = cli("init", "--json").record["project"]["id"]
    new = renamed(app, monkeypatch)
    answers(False)
    assert cli("init").out.startswith(f"{new} is saved, not watched: 2 memory files\n")
    assert cli("projects", "show", ".", "--json").record["id"] != old


def test_without_a_terminal_the_command_is_told_and_works(app, cli, monkeypatch):
    old = cli("init", "--json").record["project"]["id"]
    new = renamed(app, monkeypatch)
    ran = cli("init")
    command = f"atlasctl projects move {app} {new} --force"
    assert f"which is gone: the same folder, 2 same files. To continue its history: {command}" in ran.err
    assert cli(*command.split()[1:]).out == f"{new} is the project of {app} now, with its history\n"
    assert cli("projects", "show", ".", "--json").record["id"] == old
    assert cli("projects", "move", old, ".").out == f"{new} is there already, with its history\n"


def test_from_names_the_old_folder(app, cli, monkeypatch):
    old = cli("init", "--json").record["project"]["id"]
    cli("forget")
    renamed(app, monkeypatch)
    found = cli("init", "--from", app, "--json").record
    assert (found["project"]["id"], found["project"]["status"]) == (old, "active")
    assert (found["moved"], found["created"], found["moved_from"]) == (True, False, str(app))


def test_a_move_that_would_leave_files_behind_is_refused(app, cli, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(app, copy)
    assert "still has files" in cli("projects", "move", app, copy).sentence
    assert cli("init", copy).code == 0
    shutil.rmtree(app)
    refused = cli("projects", "move", app, copy)
    assert refused.code == 1
    assert refused.sentence.startswith(f"{copy} is a project already; atlasctl projects move --force deletes that one")
    assert cli("projects", "move", app, tmp_path / "nowhere").code == 3


def test_a_worktree_inside_of_a_project_is_a_border(app, cli, monkeypatch):
    worktree = with_worktree(app)
    assert cli("checkpoint", "base").code == 0
    monkeypatch.chdir(worktree)
    for command in (["status"], ["restore", "base", "--yes"], ["snapshot"], ["log"], ["forget"]):
        refused = cli(*command)
        assert refused.code == 3
        assert refused.sentence == (
            f"{worktree} has a git repository of its own, so the project {app} ends there; run: atlasctl init "
            f"{worktree}, or give --project {app} for the outer project"
        )
    assert (worktree / "CLAUDE.md").read_text() == "of w1"
    assert cli("log", "--project", app).code == 0


def test_a_worktree_is_a_project_that_names_its_repository(app, cli, monkeypatch):
    worktree = with_worktree(app)
    monkeypatch.chdir(worktree)
    # The worktree is the root of its own repository, so nothing is asked or told about the outer one.
    assert "inside of the git repository" not in cli("init").err
    found = {one["path"]: one["worktree_of"] for one in cli("projects", "list", "--json").records}
    assert (found[str(app)], found[str(worktree)]) == (None, str(app))
    (line,) = [line for line in cli("projects", "list").out.splitlines() if f" {worktree} " in line]
    assert line.endswith(f"worktree of {app}")


@pytest.fixture
def below(home, folder, monkeypatch):
    """Return the folder `src` of a repository; it is the current folder."""
    (folder / ".git").mkdir()
    below = folder / "src"
    below.mkdir()
    (below / "CLAUDE.md").write_text(f"{below}")
    monkeypatch.chdir(below)
    return below


@pytest.mark.parametrize("answer", ["1", "2"])
def test_below_a_repository_a_terminal_asks_for_the_root(below, cli, answers, answer):
    asked = answers(answer)
    ran = cli("init")
    assert asked == ["Which one?"]
    assert f"  2  {below.parent}, the whole repository" in ran.err
    assert ran.out.startswith(f"{below if answer == '1' else below.parent} is saved, not watched")
    assert "to protect all of it" not in ran.err.replace("to protect all of it", "", answer == "1")
    # A folder that is registered is not asked about again.
    again = answers()
    assert cli("init", *([] if answer == "1" else [".."])).code == 0
    assert again == []


@pytest.mark.parametrize("arguments", [["--here"], ["."]])
def test_a_root_that_is_given_is_not_asked_about(below, cli, answers, arguments):
    assert answers() == []
    assert cli("init", *arguments).out.startswith(f"{below} is saved, not watched")


def test_without_a_terminal_the_other_root_is_told(below, cli):
    ran = cli("init")
    assert ran.out.startswith(f"{below} is saved, not watched")
    top = below.parent
    assert f"is inside of the git repository {top}; to protect all of it: atlasctl init {top}" in ran.err
    assert "inside of" not in cli("init").err
    assert cli("init", "--json").record["repository"] == str(top)


def test_in_the_home_folder_no_refused_command_is_advised(home, cli, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for command in (["status"], ["log"], ["init"]):
        told = cli(*command).sentence
        assert "--user" in told
        assert f"atlasctl init {tmp_path}" not in told
