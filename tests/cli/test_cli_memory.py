"""The commands of an ordinary day: init, snapshot, checkpoint, log, show, diff, restore, undo, redo, verify."""

import re
import stat
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from atlas_sdk.files import from_text
from watcher import status as watcher_status
from watcher.status import Status


def test_init_protects_and_writes_nothing_into_the_folder(home, folder, cli):
    (folder / "leak.md").symlink_to("/etc/hostname")
    (folder / "NOTES.md").symlink_to("/etc/hostname")
    before = sorted(folder.iterdir())
    ran = cli("init", folder)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"{folder} is saved, not watched: 2 memory files",
        "  CLAUDE.md  18 B",
        "  notes.md   8 B",
    ]
    assert "NOTES.md is a symlink to /etc/hostname, outside the project" in ran.err
    assert "atlasctl watch" in ran.err
    assert "atlasctl checkpoint" in ran.err
    assert sorted(folder.iterdir()) == before
    again = cli("init", folder)
    assert again.code == 0
    assert again.out.startswith(f"{folder} is already saved, not watched")


def test_init_says_protected_only_when_a_watcher_works(home, folder, cli, monkeypatch):
    ran = cli("init", folder)
    assert ran.out.startswith(f"{folder} is saved, not watched: 2 memory files\n")
    assert "No watcher runs, so the next change is not captured.\nNext:\n  atlasctl service install " in ran.err
    now = datetime.now(UTC)
    for age_s, word in ((0, "protected"), (60, "saved, not watched")):
        status = Status(pid=1, started_at=now, written_at=now - timedelta(seconds=age_s), ready=True, projects=())
        monkeypatch.setattr(watcher_status, "read_status", lambda _, status=status: status)
        ran = cli("init", folder)
        assert ran.out.startswith(f"{folder} is already {word}: 2 memory files\n")
        assert ("No watcher runs" in ran.err) is ("service install" in ran.err) is (word != "protected")


def test_init_without_memory_files(home, tmp_path, cli):
    (tmp_path / "empty").mkdir()
    ran = cli("init", tmp_path / "empty")
    assert ran.out == f"{tmp_path}/empty is registered; no memory files yet\n"


def test_init_json(home, folder, cli):
    found = cli("init", folder, "--json").record
    assert found["created"] is True
    assert found["project"]["path"] == str(folder)
    assert [file["path"] for file in found["files"]] == ["CLAUDE.md", "notes.md"]
    assert found["skipped"] == []
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["project"]["created_at"])
    assert cli("--json", "init", folder).record["created"] is False


@pytest.mark.parametrize("argument", ["/", "~"])
def test_init_refuses_what_holds_everything(home, cli, argument):
    ran = cli("init", argument)
    assert ran.code == 2
    assert "holds everything else" in ran.sentence


def test_inner_project_wins(app, cli, monkeypatch):
    inner = app / "inner"
    inner.mkdir()
    (inner / "AGENTS.md").write_text("inner")
    assert cli("init", inner, "--json").record["created"] is True
    monkeypatch.chdir(inner)
    assert [one["path"] for one in cli("log", "--json").records] == ["AGENTS.md"]
    assert {one["path"] for one in cli("log", "--json", "--project", app).records} == {"CLAUDE.md", "notes.md"}


def test_snapshot_of_everything_and_of_paths(app, cli):
    assert cli("snapshot").err == "up to date: 2 files\n"
    assert cli("snapshot", "CLAUDE.md").err == "up to date: 1 file\n"
    (app / "CLAUDE.md").write_text("two")
    (app / "notes.md").unlink()
    (app / "other.txt").write_text("not tracked")
    assert [line.split()[1:3] for line in cli("snapshot").out.splitlines()] == [
        ["changed", "CLAUDE.md"],
        ["deleted", "notes.md"],
    ]
    ran = cli("snapshot", "other.txt", "CLAUDE.md", "--json")
    assert [version["path"] for version in ran.record["taken"]] == ["other.txt"]


def test_snapshot_does_not_call_up_to_date_what_it_could_not_read(app, cli):
    (app / "notes.md").unlink()
    (app / "notes.md").symlink_to("/etc/hostname")
    ran = cli("snapshot", "notes.md")
    assert ran.code == 1
    assert "up to date" not in ran.err
    ran = cli("snapshot")
    assert ran.code == 1
    assert ran.err.startswith("up to date: 1 file\n")


def test_paths_are_relative_to_where_they_are_typed(app, cli, monkeypatch):
    (app / "scratch").mkdir()
    (app / "scratch" / "a.md").write_text("a")
    monkeypatch.chdir(app / "scratch")
    assert cli("snapshot", "a.md", "--json").record["taken"][0]["path"] == "scratch/a.md"
    assert [one["path"] for one in cli("log", "../CLAUDE.md", "--json").records] == ["CLAUDE.md"]
    assert cli("show", "a.md").raw == b"a"


def test_checkpoint_captures_first(app, cli):
    (app / "CLAUDE.md").write_text("two")
    assert cli("checkpoint", "v1", "--note", "reviewed").out == "v1: 2 files, 11 B, 1 new version\n"
    assert cli("show", "v1:CLAUDE.md").raw == b"two"
    (found,) = cli("checkpoints", "--json").records
    assert (found["name"], found["note"], found["files"], found["kind"]) == ("v1", "reviewed", 2, "named")
    taken = cli("checkpoint", "v1")
    assert (taken.code, taken.sentence) == (1, "app has a checkpoint 'v1' already")


def test_checkpoint_warns_of_what_it_could_not_keep(app, cli):
    (app / "AGENTS.md").symlink_to("/etc/hostname")
    ran = cli("checkpoint", "v1")
    assert ran.code == 0
    assert "warning: not captured: AGENTS.md is a symlink to /etc/hostname, outside the project" in ran.err


def test_log_is_newest_first_with_sizes_people_and_checkpoints(app, cli):
    cli("checkpoint", "v1")
    (app / "CLAUDE.md").write_text("two")
    cli("snapshot")
    newest, first, notes = cli("log", "--json").records[0], *cli("log", "--json").records[1:]
    assert (newest["path"], newest["seq"], newest["size"], newest["delta"]) == ("CLAUDE.md", 2, 3, -15)
    assert newest["checkpoints"] == []
    assert first["path"] == "notes.md"
    assert notes["checkpoints"] == ["v1"]
    assert notes["delta"] is None
    assert newest["attribution"]["source"] == "cli"
    UUID(newest["id"])
    line = cli("log").out.splitlines()[0]
    assert line.startswith(newest["id"].replace("-", "")[:12])
    assert " -15 " in line
    assert " ".join(line.split()[3:6]) == "instructions manual CLAUDE.md"


def test_log_limits_pages_and_goes_on(app, cli, monkeypatch):
    monkeypatch.setattr("atlas_sdk.cli.log._PAGE_ROWS", 2)
    for number in range(5):
        (app / "CLAUDE.md").write_text(str(number))
        for name in ("a", "b", "c"):
            assert cli("checkpoint", f"{name}{number}").code == 0
    for arguments in (("CLAUDE.md",), ("CLAUDE.md", "--all")):
        found = cli("log", *arguments, "--json").records
        assert [one["seq"] for one in found] == [6, 5, 4, 3, 2, 1]
        assert found[0]["checkpoints"] == ["a4", "b4", "c4"]
    assert [one["seq"] for one in cli("log", "CLAUDE.md", "-n", "2", "--json").records] == [6, 5]
    limited = cli("log", "-n", "2")
    assert len(limited.out.splitlines()) == 2
    assert limited.err == "the newest 2; --limit or --all shows more\n"
    assert len(cli("log", "--all").out.splitlines()) == 7
    # The version before the oldest shown one is looked up, so that the difference of sizes is right.
    assert cli("log", "CLAUDE.md", "-n", "5", "--json").records[-1]["delta"] == -17


def test_show_writes_the_exact_bytes(app, cli):
    raw = bytes(range(256)) + b"\r\nno newline at the end"
    (app / "CLAUDE.md").write_bytes(raw)
    cli("checkpoint", "v:1")
    (app / "CLAUDE.md").write_bytes(b"")
    cli("snapshot")
    version = cli("log", "CLAUDE.md", "--json").records[1]["id"]
    for reference in (
        "v:1:CLAUDE.md",
        "CLAUDE.md@v:1",
        version,
        version[:23],
        "@{0s ago}:CLAUDE.md@v:1"[:0] or version,
    ):
        assert cli("show", reference).raw == raw
    assert cli("show", "CLAUDE.md").raw == b""
    assert cli("show", "latest:CLAUDE.md").raw == b""
    assert cli("show", "@{now}:notes.md").raw == b"- first\n"
    assert cli("show", "v:1:CLAUDE.md", "--json").record["size"] == len(raw)


def test_show_of_a_state_asks_for_the_file(app, cli):
    cli("checkpoint", "v1")
    ran = cli("show", "v1")
    assert (ran.code, ran.sentence) == (2, "'v1' names 2 files (CLAUDE.md, notes.md); name one: v1:PATH")


def test_diff_of_folder_and_states(app, cli):
    cli("checkpoint", "v1")
    (app / "CLAUDE.md").write_text("# Rules\n\nBe quick.\n")
    (app / "TODO.md").write_text("x")
    expected = "--- a/CLAUDE.md\n+++ b/CLAUDE.md\n@@ -1,3 +1,3 @@\n # Rules\n \n-Be kind.\n+Be quick.\n"
    added = "--- /dev/null\n+++ b/TODO.md\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n"
    assert cli("diff").out == expected + added
    assert cli("diff", "v1", "--", "CLAUDE.md").out == expected
    cli("checkpoint", "v2")
    assert cli("diff", "v1", "v2").out == expected + added
    assert cli("diff").err == "no differences\n"
    assert cli("diff", "v1", "--stat").out == "changed  CLAUDE.md  +1  -1\nadded    TODO.md    +1  -0\n"
    assert [(one["path"], one["change"]) for one in cli("diff", "v2", "v1", "--json").records] == [
        ("CLAUDE.md", "changed"),
        ("TODO.md", "removed"),
    ]


def test_diff_of_binary_content_has_no_text(app, cli):
    (app / "CLAUDE.md").write_bytes(b"\0\1")
    ran = cli("diff")
    assert (ran.code, ran.out) == (0, "CLAUDE.md: changed; no text to compare (binary, or over the size limit)\n")
    assert cli("diff", "--stat").out.split() == ["changed", "CLAUDE.md", "no", "text"]
    assert cli("diff", "--json").record["text"] is None


def test_diff_keeps_bytes_that_are_not_utf8(app, cli):
    (app / "notes.md").write_bytes(b"- first\n- caf\xe9\n")
    assert b"+- caf\xe9\n" in cli("diff").raw
    assert "+- caf\\xe9\n" in cli("diff", "--json").record["text"]


def test_restore_undo_redo(app, cli):
    cli("checkpoint", "v1")
    (app / "CLAUDE.md").write_text("gutted")
    (app / "notes.md").unlink()
    planned = cli("restore", "v1", "--dry-run")
    assert planned.out.splitlines() == [
        "write  CLAUDE.md  6 B -> 18 B  +3 -1 lines",
        "write  notes.md   none -> 8 B  +1 -0 lines",
    ]
    assert planned.err == "2 files would change; nothing was written\n"
    assert (app / "CLAUDE.md").read_text() == "gutted"
    assert len(cli("checkpoints", "--all", "--json").records) == 1

    done = cli("restore", "v1")
    assert done.code == 0
    assert done.err == "undo with: atlasctl undo\n"
    safety = re.search(r"what was there before is (before-restore-\w+)", done.out)[1]
    assert (app / "CLAUDE.md").read_text() == "# Rules\n\nBe kind.\n"
    assert cli("show", f"{safety}:CLAUDE.md").raw == b"gutted"

    undone = cli("undo", "--json").record
    assert (app / "CLAUDE.md").read_text() == "gutted"
    assert not (app / "notes.md").exists()
    assert undone["safety"].startswith("before-undo-")
    assert [(step["path"], step["action"]) for step in undone["steps"]] == [
        ("CLAUDE.md", "write"),
        ("notes.md", "delete"),
    ]
    assert cli("redo").code == 0
    assert (app / "notes.md").read_text() == "- first\n"
    assert cli("restore", "v1").err == "nothing to do: the files already match\n"
    assert cli("checkpoints").err == "3 safety checkpoints of restores not shown; --all shows them\n"
    assert "before-" not in cli("log").out


def test_restore_keeps_newer_files_unless_told(app, cli):
    cli("checkpoint", "v1")
    (app / "TODO.md").write_text("newer")
    cli("snapshot")
    assert "kept" in cli("restore", "v1").out
    assert (app / "TODO.md").exists()
    assert cli("restore", "v1", "--delete").code == 0
    assert not (app / "TODO.md").exists()
    assert cli("undo").code == 0
    assert (app / "TODO.md").read_text() == "newer"


def test_restore_of_a_moment_before_everything_is_refused(app, cli):
    for arguments in ([], ["--delete"], ["--dry-run"], ["CLAUDE.md"]):
        ran = cli("restore", "@{2h ago}", *arguments)
        assert ran.code == 3
        assert ran.sentence.startswith("app had no memory file on record at @{2h ago}; it is kept since 20")
    assert (app / "CLAUDE.md").exists()
    assert cli("restore", "@{now}").err == "nothing to do: the files already match\n"


def test_every_walk_names_its_own_safety_checkpoint(app, cli):
    cli("checkpoint", "v1")
    (app / "CLAUDE.md").write_text("gutted")
    named = [cli(*words, "--json").record["safety"] for words in (["restore", "v1"], ["undo"], ["redo"])]
    assert [name.rpartition("-")[0] for name in named] == ["before-restore", "before-undo", "before-redo"]
    listed = [one["name"] for one in cli("checkpoints", "--all", "--json").records if one["kind"] == "safety"]
    assert listed == named[::-1]


def test_undo_and_redo_that_find_the_files_as_they_want_them_are_recorded(app, cli):
    cli("checkpoint", "v1")
    (app / "CLAUDE.md").write_text("edited")
    cli("restore", "v1")
    for content, word in (("edited", "undo"), ("# Rules\n\nBe kind.\n", "redo")):
        (app / "CLAUDE.md").write_text(content)
        done = cli(word)
        assert (done.code, done.err) == (0, "nothing to do: the files already match\n")
        again = cli(word)
        assert (again.code, again.sentence.endswith(f"restore to {word}")) == (3, True)


def test_restore_of_one_file_and_its_mode(app, cli):
    (app / "CLAUDE.md").chmod(0o755)
    cli("checkpoint", "v1")
    (app / "CLAUDE.md").write_text("x")
    (app / "CLAUDE.md").chmod(0o644)
    (app / "notes.md").write_text("stays")
    assert cli("restore", "v1", "CLAUDE.md").code == 0
    assert stat.S_IMODE((app / "CLAUDE.md").stat().st_mode) == 0o755
    assert (app / "notes.md").read_text() == "stays"


def test_verify(app, cli):
    found = cli("verify", "--json").record
    assert found["ok"] is True
    assert found["versions"] >= 2
    assert found["broken"] == []
    checked, contents = cli("verify").out.splitlines()
    assert re.fullmatch(r"\d+ versions checked, all intact", checked)
    assert re.match(r"\d+ contents, ", contents)


ODD = ["two\nlines.md", "esc\x1b[31m.md", "back\\slash.md", "caf\udce9.md", "\u202etxt.md", "-n.md", "a:b@c.md"]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_odd_names_survive_and_never_reach_the_terminal(app, cli, name):
    (app / "scratch").mkdir()
    (app / "scratch" / name).write_bytes(b"old\n")
    assert cli("snapshot").code == 0
    cli("checkpoint", "v1")
    (app / "scratch" / name).write_bytes(b"new\n")
    path = f"scratch/{name}"
    for arguments in (("log",), ("diff",), ("diff", "--stat"), ("status",), ("restore", "v1", "--dry-run"), ("init",)):
        ran = cli(*arguments)
        text = ran.out + ran.err
        assert "scratch/" in text
        assert all(letter.isprintable() for letter in text.replace("\n", "")), arguments
    found = [one["path"] for one in cli("log", "--json").records if one["path"].startswith("scratch/")]
    assert {from_text(text) for text in found} == {path}
    assert cli("show", f"v1:{path}").raw == b"old\n"
    assert cli("restore", "v1", "--", path).code == 0
    assert (app / "scratch" / name).read_bytes() == b"old\n"
