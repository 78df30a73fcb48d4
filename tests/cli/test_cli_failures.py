"""Bad input causes one line and the right exit code, and nothing is lost."""

import ast
import errno
import json
import os
import subprocess
from pathlib import Path

import psycopg
import pytest

import atlas_sdk


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["show", "nowhere:CLAUDE.md"], 3, "no checkpoint or version of app is called 'nowhere'"),
        (["show", "absent.md"], 3, "no checkpoint or version of app is called 'absent.md'"),
        (["show", "latest:absent.md"], 3, "absent.md did not exist at 'latest'"),
        (["diff", "nowhere"], 3, "no checkpoint or version of app is called 'nowhere'"),
        (["restore", "nowhere"], 3, "no checkpoint or version of app is called 'nowhere'"),
        (["restore", "latest", "absent.md"], 3, "absent.md did not exist at 'latest'"),
        (["log", "absent.md"], 3, "no version of absent.md is on record"),
        (["snapshot", "absent.md"], 3, "absent.md: no such file"),
        (["undo"], 3, "app has no restore to undo"),
        (["redo"], 3, "app has no undone restore to redo"),
        (["checkpoint", "latest"], 2, "'latest' is reserved"),
        (["checkpoint", ""], 2, "'' is no name for a checkpoint"),
        (["checkpoint", "two\nlines"], 2, "is no name for a checkpoint"),
        (["checkpoint", "caf\udce9"], 2, "it is not UTF-8"),
        (["checkpoint", "x", "--note", "caf\udce9"], 2, "it is not UTF-8"),
        (["restore", "caf\udce9"], 2, "it is not UTF-8"),
        (["diff", "caf\udce9"], 2, "it is not UTF-8"),
        (["show", "caf\udce9.md"], 3, "no version is called caf\\xe9.md"),
        (["log", "caf\udce9.md"], 3, "no version of caf\\xe9.md is on record"),
        (["show", "@{whenever}"], 2, "@{whenever} is not a time I understand"),
        (["log", "../outside.md"], 1, "is outside the project"),
        (["log", "/etc/passwd"], 1, "/etc/passwd is outside the project"),
        (["log", ""], 2, "the path is empty"),
        (["log", "."], 2, "is the project itself"),
        (["show", "v1:../../etc/passwd"], 1, "is outside the project"),
    ],
)
def test_bad_argument(app, cli, arguments, code, sentence):
    ran = cli(*arguments)
    assert ran.code == code
    assert sentence in ran.sentence
    as_object = cli(*arguments, "--json")
    assert as_object.code == code
    assert sentence in json.loads(as_object.err)["error"]


def test_ambiguous_prefix(app, cli):
    first, second = (one["id"].replace("-", "") for one in cli("log", "--json").records)
    common = first[: next(at for at, letter in enumerate(first) if letter != second[at])]
    ran = cli("show", common)
    assert ran.code == 1
    assert "fits several versions" in ran.sentence


def test_not_a_project(home, tmp_path, cli):
    ran = cli("log", "--project", tmp_path)
    assert ran.code == 3
    assert ran.sentence == f"{tmp_path} is not in a registered project; run: atlasctl init {tmp_path}"


def test_the_advice_in_the_home_folder_is_not_refused(home, tmp_path, cli, dsn, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "holds everything else" in cli("init").sentence
    advised = "; go to a project's folder and run: atlasctl init; for your own memory run: atlasctl init --user"
    assert cli("log").sentence.endswith(advised)
    assert "; go to a project's folder and run: atlasctl init; " in cli("log", "--dsn", dsn).sentence


def test_the_library_names_values_and_no_command_where_it_finds_or_accepts_nothing():
    package = Path(atlas_sdk.__file__).parent
    named = []
    for file in package.rglob("*.py"):
        if file.relative_to(package).parts[0] in {"cli", "provision", "backups", "_embedded"}:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {
                "NotFound",
                "InvalidInput",
                "AlreadyExists",
            }:
                texts = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
                named += [f"{file.name}: {text}" for text in texts if "atlasctl" in str(text)]
    assert named == []


def test_init_of_what_is_no_folder(home, folder, cli):
    assert (cli("init", folder / "absent").code, cli("init", folder / "CLAUDE.md").code) == (3, 2)
    assert "make the folder first" in cli("init", folder / "absent").sentence
    assert "is not a folder" in cli("init", folder / "CLAUDE.md").sentence


def test_current_folder_that_is_gone(home, tmp_path, monkeypatch, cli):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    ran = cli("log")
    assert (ran.code, ran.sentence) == (1, "the current folder is gone; go to one that exists")


def test_symlink_out_of_the_project_is_not_followed(app, cli):
    (app / "NOTES.md").symlink_to("/etc/passwd")
    ran = cli("snapshot")
    assert ran.code == 1
    assert "NOTES.md is a symlink to /etc/passwd, outside the project" in ran.err
    assert cli("snapshot", "NOTES.md").code == 1
    assert cli("log", "NOTES.md").code == 3


def test_one_bad_file_stops_no_other(app, cli):
    (app / "NOTES.md").symlink_to("/etc/passwd")
    (app / "CLAUDE.md").write_text("new")
    (app / "notes.md").write_text("new")
    assert cli("snapshot", "NOTES.md", "CLAUDE.md").code == 1
    assert cli("snapshot").code == 1
    assert cli("show", "CLAUDE.md").raw == b"new"
    assert cli("show", "notes.md").raw == b"new"


def test_unreadable_file(app, cli, monkeypatch):
    """Root may read everything, so the test lets the system call fail."""
    real = os.open

    def refuse(path, flags, *more, **options):
        if os.fspath(path) == "notes.md":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, flags, *more, **options)

    (app / "CLAUDE.md").write_text("new")
    monkeypatch.setattr(os, "open", refuse)
    ran = cli("snapshot")
    assert ran.code == 1
    assert "cannot read notes.md: permission denied" in ran.err
    assert cli("show", "CLAUDE.md").raw == b"new"
    status = cli("status")
    assert status.code == 6
    assert "cannot read notes.md: permission denied" in status.err


def test_file_over_the_limit(app, cli):
    (app / "notes.md").write_bytes(b"x" * (8 * 2**20 + 1))
    assert "notes.md is over the size limit of 8,388,608 bytes: only its hash was kept" in cli("snapshot").err
    ran = cli("show", "notes.md")
    assert ran.code == 1
    assert "only" in ran.sentence
    assert "size limit" in ran.sentence
    assert cli("diff", "@{now}", "--stat").code == 0
    # Only the file's hash was kept, so a restore must not overwrite the file.
    cli("checkpoint", "v1")
    version = cli("log", "notes.md", "--json").records[-1]["id"]
    refused = cli("restore", version)
    assert refused.code == 1
    assert "over the size limit" in refused.err
    assert (app / "notes.md").stat().st_size == 8 * 2**20 + 1


def test_empty_file_is_a_version(app, cli):
    (app / "CLAUDE.md").write_bytes(b"")
    assert cli("snapshot").code == 0
    assert cli("show", "CLAUDE.md") == (0, b"", "")


def test_refused_connection(cli, folder):
    for arguments in (["log"], ["db", "status"], ["init", str(folder)], ["verify"]):
        ran = cli(*arguments, "--dsn", "postgresql://127.0.0.1:1/x", "--project", folder)
        assert ran.code == 5
        assert "cannot reach PostgreSQL at 127.0.0.1:1/x" in ran.sentence
    ran = cli("db", "init", "--dsn", "postgresql://127.0.0.1:1/x")
    assert ran.code == 5
    # The line before the error names the database.
    assert "cannot reach PostgreSQL at 127.0.0.1:1/x" in ran.err.splitlines()[-1]
    ran = cli("log", "--dsn", "postgresql://127.0.0.1:1/x", "--json")
    assert json.loads(ran.err)["kind"] == "DatabaseUnreachable"


def test_malformed_dsn(cli, folder):
    ran = cli("log", "--dsn", "nonsense", "--project", folder)
    assert ran.code != 0
    assert "nonsense" not in ran.sentence


def test_wrong_role(cli, dsn, folder):
    ran = cli("log", "--dsn", dsn.replace("user=atlas", "user=stranger"), "--project", folder)
    assert ran.code == 5
    assert "does not accept this user or password" in ran.sentence


def test_home_below_a_file(cli, folder, monkeypatch):
    monkeypatch.setenv("ATLAS_HOME", str(folder / "CLAUDE.md" / "home"))
    ran = cli("log", "--project", folder)
    assert ran.code == 5
    assert "cannot be used" in ran.sentence
    ran = cli("watch")
    assert ran.code in {1, 5}
    assert "Traceback" not in ran.err


def test_schema_newer_than_the_code(cli, dsn, folder):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO schema_version (version, name, checksum) "
            "SELECT max(version) + 1, 'future', repeat('0', 64) FROM schema_version"
        )
    for arguments in (["log"], ["db", "migrate"]):
        ran = cli(*arguments, "--dsn", dsn, "--project", folder)
        assert ran.code == 1
        assert "upgrade AtlasEngine" in ran.sentence
    ran = cli("db", "init", "--dsn", dsn)
    assert ran.code == 1
    assert "upgrade AtlasEngine" in ran.err.splitlines()[-1]


def test_broken_version(cli, dsn, folder):
    cli("init", folder, "--dsn", dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE memory_blobs SET data = '\\x0066' WHERE size = 8")
    ran = cli("verify", "--dsn", dsn)
    assert ran.code == 6
    assert "notes.md" in ran.out
    assert [one["path"] for one in cli("verify", "--dsn", dsn, "--json").record["broken"]] == ["notes.md"]
    assert cli("show", "notes.md", "--dsn", dsn, "--project", folder).code == 6


def test_unknown_user(cli, dsn, folder, monkeypatch):
    monkeypatch.setenv("ATLAS_USER", "ada@example.com")
    ran = cli("init", folder, "--dsn", dsn)
    assert (ran.code, ran.sentence) == (3, "no user of this database has the address ada@example.com")


def test_bad_settings_file(cli, folder, home, tmp_path):
    (tmp_path / "config" / "atlasengine").mkdir(parents=True)
    (tmp_path / "config" / "atlasengine" / "config.toml").write_text("[atlas]\ncolour = 'never'\n")
    ran = cli("log", "--project", folder)
    assert ran.code == 2
    assert "config.toml: atlas.colour is not known" in ran.sentence


def test_project_must_not_redirect_memory(app, cli):
    (app / ".atlas.toml").write_text("[atlas]\ndatabase_url = 'postgresql://evil.example/x'\n")
    ran = cli("snapshot")
    assert ran.code == 2
    assert ".atlas.toml: atlas.database_url a project must not decide where memory goes" in ran.sentence


def _values(found):
    """Yield every text of a JSON value."""
    if isinstance(found, str):
        yield found
    for one in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from _values(one)


@pytest.mark.parametrize("line", [["diff"], ["status"], ["log"], ["snapshot"], ["checkpoint", "v1"], ["verify"]])
def test_json_holds_characters_only(app, cli, line):
    """A lone surrogate is not valid UTF-8, and most JSON parsers refuse its escape sequence."""
    (app / "notes").mkdir()
    (app / os.fsdecode(b"notes/\xe9.md")).write_bytes(b"bad \xff\n")
    (app / "CLAUDE.md").write_bytes(b"bad \xff \xed\xa0\x80\n")
    (app / "NOTES.md").symlink_to("/etc/\udce9")
    ran = cli(*line, "--json")
    assert ran.records
    for record in ran.records:
        assert [text for text in _values(record) if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)] == []


@pytest.mark.parametrize(
    "line",
    [
        ["checkpoint"],
        ["show"],
        ["diff"],
        ["restore"],
        ["log"],
        ["snapshot"],
        ["forget"],
        [],
        ["quota", "set", "--tokens"],
    ],
)
@pytest.mark.parametrize("letter", ["x", "@", ":", "\n", "\u202e"])
def test_a_name_of_a_hundred_kilobytes_is_cut(app, cli, line, letter):
    ran = cli(*line, letter * 100_000)
    assert ran.code in {1, 2, 3}
    assert len(ran.err) < 1_500
    assert "\u202e" not in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_bad_name_is_refused_before_anything_is_captured(app, cli):
    before = len(cli("log", "--json").records)
    (app / "CLAUDE.md").write_text("new")
    assert cli("checkpoint", "x" * 201).code == 2
    assert len(cli("log", "--json").records) == before


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (MemoryError(), "out of memory: end other programs, or raise the limit (ulimit -v), then try again"),
        (ImportError("x.so: failed to map segment from shared object"), "out of memory: end other programs"),
        (RecursionError("maximum recursion depth exceeded"), "something is nested too deep: run again with --verbose"),
        (RuntimeError("a\nforged\x1b[2J" + "z" * 10**6), "unexpected RuntimeError: a forged\\x1b[2Jzzz"),
        (OSError(2, "No such file", "a\n\x1b[2J"), "unexpected FileNotFoundError: [Errno 2] No such file"),
    ],
)
def test_what_nobody_expected_is_one_sentence_and_a_traceback_only_when_asked_for(cli, monkeypatch, problem, sentence):
    def fail(*_, **__):
        raise problem

    monkeypatch.setattr("atlas_sdk.cli.program.Program.invoke", fail)
    ran = cli("log")
    assert ran.code == 1
    assert ran.sentence.startswith(sentence)
    assert len(ran.sentence) < 2_100
    assert json.loads(cli("log", "--json").err)["error"].startswith(sentence)
    told = cli("log", "--verbose")
    assert told.code == 1
    assert "Traceback" in told.err
    assert "\x1b" not in told.err


@pytest.mark.parametrize("kilobytes", [16_000, 30_000, 50_000])
def test_too_little_memory_is_a_sentence(atlasctl, kilobytes):
    command = f"ulimit -v {kilobytes}; exec {atlasctl} log --dsn postgresql://127.0.0.1:1/x"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.returncode in {1, 5}
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("atlasctl: ")


def test_a_lone_surrogate_becomes_letters_in_json(capfdbinary):
    from atlas_sdk.cli.output import Output

    Output(json=True).record({"k\udce9": ["a\ud800b", {"c": ("\udfff",)}], "n": 1})
    assert json.loads(capfdbinary.readouterr().out) == {"k\\udce9": ["a\\ud800b", {"c": ["\\udfff"]}], "n": 1}
