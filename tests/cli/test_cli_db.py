import psycopg
import pytest

from atlas_sdk.dsn import masked


def test_status_of_the_embedded_server(home, cli):
    found = cli("db", "status", "--json").record
    assert (found["ok"], found["pending"], found["problem"]) == (True, 0, None)
    assert found["database"] == f"embedded, in {home}"
    assert found["server_version"].startswith("18")
    assert found["latency_ms"] > 0
    assert "up to date" in cli("db", "status").out


def test_a_server_changes_only_when_asked(cli, empty_dsn, folder):
    missing = cli("log", "--dsn", empty_dsn, "--project", folder)
    assert missing.code == 1
    assert "atlasctl db init" in missing.sentence
    state = cli("db", "status", "--dsn", empty_dsn, "--json")
    assert state.code == 1
    assert state.record["schema_version"] is None
    assert state.record["pending"] >= 4
    assert "none" in cli("db", "status", "--dsn", empty_dsn).out
    made = cli("db", "init", "--dsn", empty_dsn, "--json").record
    assert len(made["applied"]) == made["schema_version"] == state.record["pending"]
    assert "nothing to do" in cli("db", "init", "--dsn", empty_dsn).out
    assert "nothing to do" in cli("db", "migrate", "--dsn", empty_dsn).out
    assert cli("init", folder, "--dsn", empty_dsn).code == 0


@pytest.fixture
def kept(monkeypatch):
    """Return the list of the times for which commands asked the server to stay up."""
    asked = []
    monkeypatch.setattr("atlas_sdk.Atlas.keep_server_for", lambda _, seconds: asked.append(seconds))
    return asked


def test_environment_gives_the_database_but_never_the_applications_own(cli, dsn, folder, home, monkeypatch, kept):
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/application")
    assert cli("db", "url", "--json").record["embedded"] is True
    monkeypatch.setenv("ATLAS_DATABASE_URL", dsn)
    assert cli("db", "url").out.strip() == dsn
    assert cli("db", "url", "--dsn", "postgresql://other/x").out.strip() == "postgresql://other/x"


def test_url_of_the_embedded_server_works(home, cli, kept):
    ran = cli("db", "url")
    assert kept == [600]
    assert "stays up for 10 minutes" in ran.err
    with psycopg.connect(ran.out.strip()) as connection:
        assert connection.execute("SELECT count(*) FROM schema_version").fetchone()[0] >= 4


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://ada@db/atlas", "postgresql://ada@db/atlas"),
        ("postgresql://ada:s3cret@db:5433/atlas?sslmode=require", "postgresql://ada:***@db:5433/atlas?sslmode=require"),
        ("postgresql://ada:a%40b:c@db/x", "postgresql://ada:***@db/x"),
        ("postgresql://db/x?user=ada&password=s3cret", "postgresql://ada:***@db/x"),
        ("postgresql://db/x?p%61ssword=s3cret&sslpassword=t", "postgresql://db/x?password=***&sslpassword=***"),
        ("host=db password=s3cret user=ada", "user=ada password=*** host=db"),
        ("host=db password = 's3 cr\\'et' user=ada", "user=ada password=*** host=db"),
        (
            "postgresql:///atlas?host=%2Frun&user=atlas&port=5432",
            "postgresql:///atlas?host=%2Frun&user=atlas&port=5432",
        ),
    ],
)
def test_passwords_are_masked(cli, given, shown):
    assert masked(given) == shown
    ran = cli("db", "url", "--dsn", given)
    assert ran.out.strip() == shown
    assert cli("db", "url", "--dsn", given, "--show-password").out.strip() == given


def test_user_of_the_settings_acts(cli, dsn, folder, monkeypatch, atlas):
    ada = atlas.users.create("ada@example.com")
    monkeypatch.setenv("ATLAS_USER", "Ada@example.com")
    assert cli("init", folder, "--dsn", dsn).code == 0
    assert [project.path for project in atlas.projects.list(ada)] == [str(folder)]
    monkeypatch.delenv("ATLAS_USER")
    assert cli("log", "--dsn", dsn, "--project", folder).code == 3


def test_a_home_is_that_folder_whatever_the_environment_says(cli, home, dsn, tmp_path, monkeypatch, kept):
    monkeypatch.delenv("ATLAS_HOME")
    monkeypatch.setenv("ATLAS_DATABASE_URL", "postgresql://127.0.0.1:1/production")
    embedded = f"embedded, in {home}"
    assert cli("db", "status", "--home", home, "--json").record["database"] == embedded
    assert cli("--home", home, "db", "url", "--json").record["embedded"] is True
    monkeypatch.setenv("DB_HOST", "127.0.0.1")
    monkeypatch.setenv("DB_PORT", "1")
    monkeypatch.setenv("DB_NAME", "production")
    made = cli("db", "init", "--home", home)
    assert (made.code, made.err) == (0, "DB_HOST, DB_PORT, DB_NAME: not used, because --home comes first\n")
    # The option on the command line counts; without it, the environment's server, which does not answer.
    assert cli("db", "status", "--dsn", dsn).code == 0
    assert cli("db", "status").code == 5


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_server_and_a_home_on_one_line_are_refused(cli, tmp_path, before):
    server = ("--dsn", "postgresql://127.0.0.1:1/x")
    ran = cli(*server, "db", "status", "--home", tmp_path) if before else cli("log", *server, "--home", tmp_path)
    assert ran.code == 2
    assert ran.sentence.startswith("--dsn is a server and --home the folder of the embedded database: give one of them")
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_turned_out_to_be_nothing_is_refused(cli, monkeypatch):
    monkeypatch.setenv("ATLAS_DATABASE_URL", "postgresql://127.0.0.1:1/production")
    ran = cli("db", "load", "monday.dump", "--home", "")
    assert (ran.code, ran.sentence) == (
        2,
        "--home is empty: give a folder, or leave the option out; see: atlasctl db load --help",
    )


@pytest.mark.parametrize(
    "arguments",
    [["verify"], ["verify", "--json"], ["quota", "show"], ["quota", "history"], ["status", "--all"], ["log"]],
)
def test_who_only_looks_makes_no_user(cli, dsn, atlas, arguments):
    atlas.users.create("ada@example.com")
    ran = cli(*arguments, "--dsn", dsn)
    assert ran.code == 3
    said = "has no user in this database" if arguments[0] == "quota" else "there are no projects of the login "
    assert said in ran.err
    assert masked(dsn) in ran.err
    assert [user.email for user in atlas.users.list()] == ["ada@example.com"]


def test_verify_is_about_a_user_who_has_something(cli, dsn, atlas, folder):
    ada = atlas.users.create("ada@example.com")
    none = cli("verify", "--dsn", dsn, "--user", "ada@example.com")
    assert (none.code, none.raw) == (3, b"")
    assert "there are no projects of ada@example.com in this database" in none.sentence
    atlas.memory.capture(atlas.projects.create(ada, path=folder))
    assert cli("verify", "--dsn", dsn, "--user", "ada@example.com", "--json").record["versions"] == 2
