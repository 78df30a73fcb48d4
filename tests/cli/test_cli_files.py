"""`atlasctl files`, the search of a monorepo, and a user's own memory."""

from pathlib import Path

import pytest


def put(root, *paths, text="x\n"):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def monorepo(home, folder, monkeypatch):
    put(folder, "packages/api/CLAUDE.md", "packages/web/.claude/rules/a.md", "gen/AGENTS.md", "claude.local.md")
    put(folder, ".gitignore", text="gen/\n")
    monkeypatch.chdir(folder)
    return folder


def test_init_and_status_find_nested_files_and_name_what_is_left_out(monorepo, cli):
    ran = cli("init")
    assert "4 memory files" in ran.out
    assert "packages/web/.claude/rules/a.md" in ran.out
    left_out = "not tracked: gen/AGENTS.md: the folder gen is ignored by git: gen/, line 1 of .gitignore"
    assert left_out in ran.err
    shown = cli("status")
    assert left_out in shown.err
    assert "gen/AGENTS.md" not in shown.out
    (project,) = cli("status", "--json").record["projects"]
    assert [one["path"] for one in project["not_tracked"]] == ["claude.local.md", "gen/AGENTS.md"]
    assert "gen/AGENTS.md" not in [file["path"] for file in project["files"]]


def test_untracked_files_do_not_flood_init(monorepo, cli):
    put(monorepo, *(f"gen{number}/CLAUDE.md" for number in range(20)))
    put(monorepo, ".gitignore", text="gen*/\n")
    ran = cli("init")
    assert ran.err.count("not tracked:") == 11
    assert "not tracked: 12 more; atlasctl files shows them" in ran.err
    assert len(cli("init", "--json").record["not_tracked"]) == 22


def test_files_lists_the_rule_of_each(monorepo, cli):
    cli("init")
    lines = [line.split() for line in cli("files").out.splitlines()]
    assert ["packages/api/CLAUDE.md", "instructions", "preset", "claude,", "nested"] in lines
    assert ["notes.md", "notes", "preset", "scratch"] in lines
    record = cli("files", "--json").record
    assert record["complete"] is True
    assert record["project"]["path"] == str(monorepo)
    assert {one["path"]: one["reason"] for one in record["files"]}["CLAUDE.md"] == "preset claude"
    assert [one["path"] for one in record["not_tracked"]] == ["claude.local.md", "gen/AGENTS.md"]
    everything = cli("files", "--all")
    assert (everything.code, str(monorepo) in everything.out) == (0, True)


def test_a_lost_project_hides_no_other(monorepo, cli, tmp_path):
    lost = tmp_path / "lost"
    lost.mkdir()
    assert cli("init", str(lost)).code == 0
    lost.rmdir()
    cli("init")
    ran = cli("files", "--all")
    assert (ran.code, str(monorepo) in ran.out, str(lost) in ran.err) == (0, True, True)


def test_why(monorepo, cli, monkeypatch):
    cli("init")
    assert cli("files", "--why", "CLAUDE.md").out == "tracked: CLAUDE.md: instructions, preset claude\n"
    monkeypatch.chdir(monorepo / "gen")
    ran = cli("files", "--why", "AGENTS.md")
    assert ran.code == 0
    assert ran.out.startswith("not tracked: gen/AGENTS.md: the folder gen is ignored by git")
    assert cli("files", "--why", "AGENTS.md", "--json").record["tracked"] is False
    assert cli("files", "--why", "/etc/passwd").code == 1
    assert cli("files", "--why", "AGENTS.md", "--all").code == 2


def test_memory_of_the_user(home, tmp_path, cli, monkeypatch):
    person = tmp_path / "ada"
    app = person / "code/app"
    slug = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in str(app))
    memory = f".claude/projects/{slug}/memory/topics/db.md"
    put(person, ".claude/CLAUDE.md", memory, ".claude/.credentials.json", f".claude/projects/{slug}/1.jsonl")
    put(person, "code/app/main.py", "code/app/CLAUDE.md", ".ssh/id_rsa")
    monkeypatch.setenv("HOME", str(person))
    monkeypatch.chdir(person)
    assert "--user for your own memory" in cli("init").sentence
    assert cli("init", "--user", ".").code == 2
    ran = cli("init", "--user")
    assert "2 memory files" in ran.out
    assert "of ~/code/app" in ran.out
    listed = cli("files", "--json").record
    assert listed["project"]["name"] == "user"
    assert {one["path"]: one["memory_of"] for one in listed["files"]} == {".claude/CLAUDE.md": None, memory: str(app)}
    assert cli("files", "--why", memory).out.endswith("notes, preset claude, of ~/code/app\n")
    assert "add it" not in cli("files", "--why", ".claude/.credentials.json").out
    # A folder of an agent is in the project, any other folder in the home is not.
    monkeypatch.chdir(person / ".claude/projects")
    assert cli("status").code == 6, "saved, not watched"
    monkeypatch.chdir(app)
    assert cli("status").code == 3
    assert "is not in a registered project" in cli("log").sentence
    assert cli("init").code == 0
    assert cli("status").code == 6, "as above"
    assert Path.cwd() == app
