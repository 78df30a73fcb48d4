"""Projects are listed, archived, deleted and purged from the command line."""

import pytest


@pytest.fixture
def project(dsn, atlas, folder, monkeypatch):
    """Return a project of the user for whom the commands act, in a database of its own."""
    user = atlas.users.create("ada@example.com")
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    monkeypatch.setenv("ATLAS_USER", user.email)
    project = atlas.projects.create(user, path=folder)
    atlas.memory.capture(project)
    return project


def test_list_and_show(project, atlas, folder, cli):
    (line,) = cli("projects", "list").out.splitlines()
    assert line.split()[:3] == [project.id.hex[:12], "active", str(folder)]
    (record,) = cli("projects", "list", "--json").records
    assert list(record) == ["id", "name", "path", "status", "created_at", "session_id", "updated_at", "worktree_of"]
    assert (record["id"], record["session_id"]) == (str(project.id), project.session_id)
    for given in (folder, project.id, project.id.hex[:12]):
        found = cli("projects", "show", given, "--json").record
        assert (found["id"], found["memory_files"], found["builds"]) == (str(project.id), 2, 0)
    shown = cli("projects", "show", folder).out
    assert f"id          {project.id}\n" in shown
    assert "memory      2 files, 26 B, last version " in shown


def test_list_of_nothing_says_so(project, atlas, cli):
    atlas.users.create("bob@example.com")
    ran = cli("projects", "list", "--user", "bob@example.com")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "no projects yet; atlasctl init in a folder registers it\n"


def test_archive_and_activate(project, atlas, folder, cli):
    ran = cli("projects", "archive", folder)
    assert (ran.code, ran.out) == (0, f"{folder} is archived; atlasctl projects activate takes that back\n")
    assert cli("projects", "list", "--json").records == []
    assert [one["status"] for one in cli("projects", "list", "--all", "--json").records] == ["archived"]
    assert cli("projects", "activate", folder, "--json").record["status"] == "active"
    assert cli("projects", "activate", folder).out == f"{folder} is active\n"


def test_a_purge_comes_after_a_delete_and_both_need_yes(project, atlas, folder, cli):
    for command in ("delete", "purge"):
        refused = cli("projects", command, folder)
        assert refused.code == 2
        assert refused.sentence.startswith(
            "this cannot be taken back; without a terminal it needs --yes"
            if command == "delete"
            else f"{folder} is active; first run: atlasctl projects delete {folder}"
        )
    assert atlas.projects.at(folder, user=atlas.users.get(project.user_id)) is not None
    gone = cli("projects", "delete", folder, "--yes")
    assert gone.out == f"{folder} is deleted; atlasctl projects purge removes its versions\n"
    assert cli("projects", "purge", folder).code == 2
    assert len(atlas.memory.history(project)) == 2
    assert cli("projects", "purge", folder, "--yes").out == f"{folder} is purged, with 2 versions and 0 checkpoints\n"
    assert cli("projects", "purge", folder, "--yes").code == 3


def test_delete_and_purge_as_json(project, folder, cli):
    assert cli("projects", "delete", folder, "--yes", "--json").record["status"] == "deleted"
    record = cli("projects", "purge", project.id, "--yes", "--json").record
    assert record["project"]["id"] == str(project.id)
    assert record["removed"] == {"memory_snapshots": 2, "checkpoints": 0, "builds": 0, "previews": 0}


def test_a_folder_means_its_living_project_and_of_two_deleted_ones_an_id_is_needed(project, atlas, folder, cli):
    user = atlas.users.get(project.user_id)
    for _ in range(2):
        atlas.projects.delete(atlas.projects.at(folder, user=user))
        living = atlas.projects.create(user, path=folder)
    assert cli("projects", "show", folder, "--json").record["id"] == str(living.id)
    refused = cli("projects", "purge", folder, "--yes")
    assert refused.code == 2
    assert "fits several projects: " in refused.sentence
    assert str(project.id) in refused.sentence
    assert str(living.id) not in refused.sentence
    assert cli("projects", "purge", project.id, "--yes").code == 0


@pytest.mark.parametrize("command", ["show", "archive", "activate", "delete", "purge"])
def test_what_is_no_project_exits_with_3(project, tmp_path, cli, command):
    yes = ["--yes"] if command in {"delete", "purge"} else []
    ran = cli("projects", command, tmp_path, *yes)
    assert (ran.code, ran.sentence) == (3, f"{tmp_path} is not a project; run: atlasctl init {tmp_path}")
    ran = cli("projects", command, "0123456789ab", *yes)
    assert (ran.code, ran.sentence) == (3, "0123456789ab is not a project; atlasctl projects list --all shows them")
    assert cli("projects", command, tmp_path, "--user", "bob@example.com", *yes).code == 3
