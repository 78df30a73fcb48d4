"""Users are created, listed, changed and deleted from the command line."""

import io
import sys

import pytest


@pytest.fixture
def server(dsn, monkeypatch):
    """Let the commands use a database without users; return its URL."""
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    return dsn


def test_create_list_and_show(server, atlas, cli):
    assert cli("user", "list").err == "no users yet; atlasctl user create EMAIL makes one\n"
    made = cli("user", "create", "Ada@Example.com", "--name", "Ada", "--plan", "pro")
    user = atlas.users.by_email("ada@example.com")
    assert (made.code, made.out) == (0, f"created: ada@example.com (Ada), plan pro, id {user.id}\n")
    record = cli("user", "create", "bob@example.com", "--json").record
    assert list(record) == [
        *("id", "email", "name", "plan", "email_verified", "password_changed_at", "created_at", "updated_at")
    ]
    assert (record["email"], record["plan"], record["password_changed_at"]) == ("bob@example.com", "free", None)
    assert [line.split()[:2] for line in cli("user", "list").out.splitlines()] == [
        ["ada@example.com", "pro"],
        ["bob@example.com", "free"],
    ]
    assert [one["id"] for one in cli("user", "list", "--json").records] == [str(user.id), record["id"]]
    shown = dict(line.split(maxsplit=1) for line in cli("user", "show", "ada@example.com").out.splitlines())
    assert (shown["id"], shown["plan"], shown["password"]) == (str(user.id), "pro", "none")
    assert (shown["tokens"], shown["cost"]) == ("0 of 10,000,000", "$0.00 of $100.00")
    found = cli("user", "show", "ada@example.com", "--json").record
    assert (found["id"], found["projects"], found["tokens_limit"], found["cost_limit"]) == (
        *(str(user.id), 0, 10_000_000, "100"),
    )


def test_a_long_list_is_cut_and_all_of_it_can_be_had(server, atlas, cli, monkeypatch):
    monkeypatch.setattr("atlas_sdk.cli.user._PAGE_ROWS", 2)
    for number in range(5):
        atlas.users.create(f"user{number}@example.com")
    ran = cli("user", "list", "-n", "3")
    assert len(ran.out.splitlines()) == 3
    assert ran.err == "the oldest 3; --limit or --all shows more\n"
    emails = [one["email"] for one in cli("user", "list", "--all", "--json").records]
    assert emails == [f"user{number}@example.com" for number in range(5)]


def test_set_changes_what_is_given_or_nothing(server, atlas, cli):
    user = atlas.users.create("ada@example.com")
    changed = cli("user", "set", "ada@example.com", "--plan", "pro", "--name", "Ada", "--verified", "--json").record
    assert (changed["plan"], changed["name"], changed["email_verified"]) == ("pro", "Ada", True)
    assert cli("user", "set", "ada@example.com", "--name", "A").out.startswith("changed: ada@example.com (A), plan pro")
    refused = cli("user", "set", "ada@example.com", "--name", "B", "--plan", "gold")
    assert (refused.code, refused.sentence) == (2, "no plan is called 'gold'; there are: free, pro, enterprise")
    # The name is too long. The change of the plan, which comes before it, is rolled back.
    assert cli("user", "set", "ada@example.com", "--plan", "free", "--name", "x" * 201).code == 2
    found = atlas.users.get(user.id)
    assert (found.name, found.plan) == ("A", "pro")


def test_password_comes_from_standard_input_and_ends_sign_ins(server, atlas, cli, monkeypatch, tmp_path):
    user = atlas.users.create("ada@example.com")
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\nsecond line\n"))
    ran = cli("user", "password", "ada@example.com", "--verbose")
    assert (ran.code, ran.out) == (0, "ada@example.com has a new password; 0 sign-ins ended\n")
    assert "correct horse" not in ran.err
    assert atlas.users.authenticate("ada@example.com", "correct horse") == atlas.users.get(user.id)
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horses\n"))
    record = cli("user", "password", "ada@example.com", "--json").record
    assert record["sessions_revoked"] == 0
    assert record["password_changed_at"] is not None
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ran = cli("user", "password", "ada@example.com")
    assert ran.code == 2
    assert ran.sentence.startswith("no password: give it as the first line of standard input")


def test_delete_needs_yes_without_a_terminal_and_says_what_is_gone(server, atlas, cli):
    user = atlas.users.create("ada@example.com")
    project = atlas.projects.create(user, path="/srv/app")
    atlas.memory.snapshot(project, "CLAUDE.md", b"rules")
    refused = cli("user", "delete", "ada@example.com")
    assert refused.code == 2
    assert refused.sentence.startswith("this cannot be taken back; without a terminal it needs --yes")
    assert cli("user", "delete", "ada@example.com", "--json").code == 2
    assert atlas.users.get(user.id) == user
    gone = cli("user", "delete", "ada@example.com", "--yes")
    assert (gone.code, gone.out) == (0, "ada@example.com is deleted, with 1 project and 1 version\n")
    atlas.users.create("bob@example.com")
    record = cli("user", "delete", "bob@example.com", "--yes", "--json").record
    assert record["user"]["email"] == "bob@example.com"
    assert record["deleted"] == {
        "projects": 0, "memory_snapshots": 0, "builds": 0, "previews": 0, "sessions": 0, "usage_entries": 0
    }  # fmt: skip
    assert atlas.users.list() == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["create", "nonsense"], 2, "'nonsense' is not an e-mail address"),
        (["create", "ada@example.com"], 1, "a user with the address ada@example.com exists already"),
        (["create", "x@example.com", "--plan", "gold"], 2, "there are: free, pro, enterprise"),
        (["list", "-n", "0"], 2, "0 is not in the range x>=1"),
        (["show", "bob@example.com"], 3, "no user of this database has the address bob@example.com"),
        (["show"], 3, "has no user in this database"),
        (["set", "bob@example.com", "--plan", "pro"], 3, "no user of this database"),
        (["set", "ada@example.com"], 2, "nothing to set: give --plan, --name or --verified"),
        (["password", "bob@example.com"], 3, "no user of this database"),
        (["delete", "bob@example.com", "--yes"], 3, "no user of this database"),
    ],
)
def test_errors_are_one_sentence(server, atlas, cli, arguments, code, sentence):
    atlas.users.create("ada@example.com")
    ran = cli("user", *arguments)
    assert ran.code == code
    assert sentence in ran.sentence
