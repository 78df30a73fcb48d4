"""Forgetting a project, and getting it back with its history."""

import pytest


def paths_of_all(cli):
    return [project["path"] for project in cli("status", "--all", "--json").record["projects"]]


def test_forget_leaves_the_project_out_and_init_brings_it_back_with_its_history(app, cli):
    before = cli("log", "--json").records
    gone = cli("forget")
    assert (gone.code, gone.out) == (0, f"{app} is not protected any more; its history is kept\n")
    assert gone.err == f"protect it again with: atlasctl init {app}\n"
    assert str(app) not in paths_of_all(cli)
    for command in ("log", "status", "snapshot", "checkpoints"):
        ran = cli(command)
        assert (ran.code, ran.sentence) == (3, f"{app} is not in a registered project; run: atlasctl init {app}")

    (app / "CLAUDE.md").write_text("changed while it was forgotten")
    back = cli("init")
    assert back.code == 0
    assert back.out.startswith(f"{app} is saved again, with its history, not watched: 2 memory files\n")
    assert paths_of_all(cli).count(str(app)) == 1
    newest, *older = cli("log", "--json").records
    assert (newest["path"], newest["seq"]) == ("CLAUDE.md", 2)
    assert older == before
    assert cli("init").out.startswith(f"{app} is already saved, not watched")


def test_forget_and_init_as_json(app, cli):
    first = cli("init", "--json").record
    assert (first["created"], first["activated"]) == (False, False)
    gone = cli("forget", app, "--json").record
    assert gone["archived"] is True
    assert gone["project"] == first["project"] | {"status": "archived"}
    assert cli("forget", app, "--json").record["archived"] is False
    back = cli("init", "--json").record
    assert (back["created"], back["activated"], back["project"]) == (False, True, first["project"])


def test_forgetting_again_says_so_and_spares_the_project_around(app, cli):
    inner = app / "inner"
    inner.mkdir()
    cli("init", inner)
    assert cli("forget", inner).code == 0
    again = cli("forget", inner)
    assert (again.code, again.out) == (0, f"{inner} is forgotten already; its history is kept\n")
    assert cli("forget", "--project", inner).out == again.out
    assert str(app) in paths_of_all(cli)


def test_forget_of_a_part_names_the_whole(app, cli, monkeypatch):
    (app / "src").mkdir()
    ran = cli("forget", "src")
    assert (ran.code, ran.sentence) == (3, f"src is not a project but a part of one; run: atlasctl forget {app}")
    assert str(app) in paths_of_all(cli)
    monkeypatch.chdir(app / "src")
    assert cli("forget").out.startswith(f"{app} is not protected any more")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_forget_of_what_is_no_project_exits_with_3(app, tmp_path, cli, arguments):
    elsewhere = tmp_path / "elsewhere"
    ran = cli("forget", elsewhere, *arguments)
    assert ran.code == 3
    assert f"atlasctl init {elsewhere}" in ran.err


def test_forget_in_a_database_without_projects_names_the_folder_too(dsn, tmp_path, cli):
    ran = cli("forget", tmp_path, "--dsn", dsn)
    assert ran.code == 3
    assert f"atlasctl init {tmp_path}" in ran.err


def test_a_folder_that_is_gone_can_be_forgotten(app, cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    app.rename(tmp_path / "elsewhere")
    assert cli("forget", app).code == 0
    assert str(app) not in paths_of_all(cli)
