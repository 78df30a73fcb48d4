"""Files that changed their kind, links that lead nowhere and files that are not tracked any more stop no command."""


def states(ran):
    return {file["path"]: (file["state"], file["why"]) for file in ran.record["projects"][0]["files"]}


def test_file_that_became_a_folder_is_deleted_and_blocks_only_itself(app, cli):
    (app / ".clinerules").write_text("rule")
    assert cli("checkpoint", "asfile").code == 0
    (app / ".clinerules").unlink()
    (app / ".clinerules").mkdir()
    (app / ".clinerules/a.md").write_text("n")
    (app / "notes.md").write_text("changed")
    assert states(cli("status", "--json"))[".clinerules"][0] == "deleted"
    taken = cli("snapshot", "--json")
    assert (taken.code, taken.record["skipped"]) == (0, [])
    assert {one["path"]: one["deleted"] for one in taken.record["taken"]} == {
        ".clinerules": True,
        ".clinerules/a.md": False,
        "notes.md": False,
    }
    assert cli("checkpoint", "asfolder").code == 0
    assert states(cli("status", "--json"))[".clinerules"] == ("deleted", "a folder is in its place")

    # The checkpoint has a file where the folder is: everything else is restored.
    planned = cli("restore", "asfile", "--dry-run", "--json")
    actions = {step["path"]: step["action"] for step in planned.record["steps"]}
    assert actions == {
        ".clinerules": "blocked",
        ".clinerules/a.md": "kept",
        "CLAUDE.md": "same",
        "notes.md": "write",
    }
    restored = cli("restore", "asfile", "--yes")
    assert restored.code == 1
    assert "not restored: .clinerules is a directory" in restored.err
    assert (app / "notes.md").read_text() != "changed"
    named = cli("restore", "asfile", ".clinerules", "--yes")
    assert (named.code, ".clinerules is a directory" in named.err) == (1, True)

    # The other way round: a file is where the checkpoint has a folder.
    (app / ".clinerules/a.md").unlink()
    (app / ".clinerules").rmdir()
    (app / ".clinerules").write_text("rule")
    restored = cli("restore", "asfolder", "--yes")
    assert restored.code == 1
    assert ".clinerules is a file, in the place of the folder of .clinerules/a.md" in restored.err
    assert (app / "notes.md").read_text() == "changed"
    assert cli("restore", "asfolder", "--delete", "--yes").code == 0
    assert (app / ".clinerules/a.md").read_text() == "n"


def test_link_whose_target_is_gone_is_said_and_is_no_risk(app, cli):
    (app / "AGENTS.md").write_text("v1")
    (app / "CLAUDE.md").unlink()
    (app / "CLAUDE.md").symlink_to("AGENTS.md")
    assert cli("snapshot").code == 0
    (app / "AGENTS.md").unlink()
    shown = cli("status", "--json")
    reason = "CLAUDE.md is a symlink that leads to no file: AGENTS.md does not exist"
    assert states(shown)["CLAUDE.md"] == ("deleted", reason)
    assert states(shown)["AGENTS.md"][0] == "deleted"
    assert reason in cli("status").err
    assert cli("snapshot").code == 0
    assert states(cli("status", "--json"))["CLAUDE.md"] == ("deleted", reason)


def test_file_that_is_not_tracked_any_more_is_no_risk(app, cli):
    (app / ".atlas.toml").write_text('[track]\nexclude = ["notes.md"]\n')
    (app / "notes.md").write_text("n2")
    shown = cli("status", "--json")
    state, why = states(shown)["notes.md"]
    assert (state, why) == ("not_tracked", "no preset, glob or import of .atlas.toml names it; its history is kept")
    assert "not tracked any more" in cli("status").out
    taken = cli("snapshot", "--json")
    assert (taken.code, taken.record["taken"], taken.record["untracked"]) == (0, [], ["notes.md"])
    told = cli("snapshot")
    assert "up to date: 1 file" in told.err
    assert "notes.md is not tracked any more (history kept)" in told.err
    assert cli("log", "notes.md").code == 0
    # The end of the file is recorded.
    (app / "notes.md").unlink()
    assert [one["deleted"] for one in cli("snapshot", "--json").record["taken"]] == [True]
    assert states(cli("status", "--json"))["notes.md"] == ("deleted", None)
