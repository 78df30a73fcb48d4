import re
from pathlib import Path

import pytest
from attrs import fields

from atlas_sdk.config import Settings, home_folder, load_settings, user_file
from atlas_sdk.errors import InvalidInput


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "HOME", "USER", "COLOR", "QUERY_LOG", "MAINTENANCE", "KEEP_AUTO_DAYS"):
        monkeypatch.delenv(f"ATLAS_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def user_settings() -> Path:
    path = user_file()
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


def test_without_anything_the_defaults(project, tmp_path):
    assert load_settings(project) == Settings()
    assert load_settings().folder == home_folder() == tmp_path / "data" / "atlasengine"


def test_precedence(project, user_settings, monkeypatch):
    user_settings.write_text("[atlas]\ncolor = 'always'\nquery_log = true\nuser = 'ada@example.com'\n")
    assert load_settings(project) == Settings(color="always", query_log=True, user="ada@example.com")
    (project / ".atlas.toml").write_text("[atlas]\ncolor = 'never'\n")
    assert load_settings(project).color == "never"
    monkeypatch.setenv("ATLAS_COLOR", "auto")
    monkeypatch.setenv("ATLAS_QUERY_LOG", "false")
    assert load_settings(project).color == "auto"
    assert load_settings(project).query_log is False
    assert load_settings(project, color="always").color == "always"
    assert load_settings(project, color=None).color == "auto"


def test_byte_order_mark_is_no_part_of_a_settings_file(project, user_settings):
    user_settings.write_text("[atlas]\nuser = 'ada@example.com'\n", encoding="utf-8-sig")
    (project / ".atlas.toml").write_text("[atlas]\ncolor = 'never'\n", encoding="utf-8-sig")
    assert load_settings(project) == Settings(color="never", user="ada@example.com")


def test_maintenance_is_for_the_user_to_decide(project, user_settings, monkeypatch):
    user_settings.write_text("[atlas]\nmaintenance = false\nkeep_auto_days = 90\n")
    assert load_settings(project) == Settings(maintenance=False, keep_auto_days=90)
    monkeypatch.setenv("ATLAS_MAINTENANCE", "true")
    monkeypatch.setenv("ATLAS_KEEP_AUTO_DAYS", "7")
    assert load_settings(project) == Settings(keep_auto_days=7)
    (project / ".atlas.toml").write_text("[atlas]\nkeep_auto_days = 0\n")
    with pytest.raises(InvalidInput, match="a project must not decide"):
        load_settings(project)


def test_nearest_project_file_counts(project):
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    (project / ".atlas.toml").write_text("[atlas]\ncolor = 'never'\n[track]\nexclude = ['x']\n")
    assert load_settings(inner).color == "never"
    (inner / ".atlas.toml").write_text("")
    assert load_settings(inner).color == "auto"


def test_never_the_applications_own_database(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://application")
    assert load_settings().database_url is None


def test_emptied_variable_is_not_given(monkeypatch, tmp_path):
    monkeypatch.setenv("ATLAS_DATABASE_URL", "")
    monkeypatch.setenv("ATLAS_HOME", "")
    found = load_settings()
    assert found.database_url is None
    assert found.folder == tmp_path / "data" / "atlasengine"


def test_home_of_the_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert load_settings(home="~/memory").folder == Path("/home/ada/memory")


def test_url_is_not_in_the_repr():
    assert "s3cret" not in repr(Settings(database_url="postgresql://ada:s3cret@db/x"))


@pytest.mark.parametrize("key", ["database_url", "home", "user"])
def test_project_must_not_say_where_memory_goes(project, key):
    (project / ".atlas.toml").write_text(f"[atlas]\n{key} = 'elsewhere'\n")
    with pytest.raises(InvalidInput, match=rf"\.atlas\.toml: atlas\.{key} a project must not decide") as caught:
        load_settings(project)
    assert caught.value.field == f"atlas.{key}"
    assert str(user_file()) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "field", "sentence"),
    [
        ("[atlas", "file", "is not TOML"),
        ("\xff", "file", "is not TOML"),
        ("[other]\n", "other", "other is not known; there are: \\[atlas\\]"),
        ("atlas = 3\n", "atlas", "atlas must be a table"),
        ("[atlas]\ncolour = 'never'\n", "atlas.colour", "atlas.colour is not known; there are: database_url"),
        ("[atlas]\ncolor = 'red'\n", "atlas.color", "auto, always or never; not 'red'"),
        ("[atlas]\ncolor = 3\n", "atlas.color", "atlas.color must be a string"),
        ("[atlas]\nquery_log = 'yes'\n", "atlas.query_log", "atlas.query_log must be true or false"),
        ("[atlas]\nmaintenance = 1\n", "atlas.maintenance", "atlas.maintenance must be true or false"),
        ("[atlas]\nkeep_auto_days = true\n", "atlas.keep_auto_days", "atlas.keep_auto_days must be a whole number"),
        ("[atlas]\nkeep_auto_days = -1\n", "atlas.keep_auto_days", "days are from 0 to 36,500; not -1"),
        ("[atlas]\nhome = true\n", "atlas.home", "atlas.home must be a string"),
        ("#" * (2**16 + 1), "file", "is larger than 65,536 bytes"),
        ("x=" + "[" * 5000, "file", "config.toml: has more than 64 of the sign"),
        ("[atlas]\ncolor = '" + "r" * 9000 + "'\n", "atlas.color", "r…r"),
    ],
)
def test_bad_file_is_named_with_its_key(user_settings, text, field, sentence):
    user_settings.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=sentence) as caught:
        load_settings()
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{user_settings}: ")


def test_file_that_cannot_be_read(user_settings):
    user_settings.mkdir()
    with pytest.raises(InvalidInput, match="cannot be read: is a directory"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATLAS_COLOR", "red"),
        ("ATLAS_COLOR", "Always"),
        ("ATLAS_COLOR", ""),
        ("ATLAS_QUERY_LOG", "maybe"),
        ("ATLAS_MAINTENANCE", "now"),
        ("ATLAS_MAINTENANCE", ""),
        ("ATLAS_KEEP_EVENTS_DAYS", "9" * 40),
        ("ATLAS_KEEP_AUTO_DAYS", "soon"),
        ("ATLAS_KEEP_AUTO_DAYS", "-1"),
    ],
)
def test_bad_variable_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=f"{name} is .* not '{value}'") as caught:
        load_settings()
    assert caught.value.field == name


@pytest.mark.parametrize(("word", "found"), [("on", True), ("Yes", True), ("1", True), ("OFF", False), ("n", False)])
def test_true_and_false_have_the_usual_words(monkeypatch, word, found):
    monkeypatch.setenv("ATLAS_QUERY_LOG", word)
    monkeypatch.setenv("ATLAS_MAINTENANCE", word)
    assert (load_settings().query_log, load_settings().maintenance) == (found, found)


def test_a_variable_that_a_flag_replaces_is_not_checked(monkeypatch):
    monkeypatch.setenv("ATLAS_COLOR", "red")
    assert load_settings(color="never").color == "never"


def test_bad_flag_is_named():
    with pytest.raises(InvalidInput, match="color is auto, always or never"):
        load_settings(color="red")


def test_a_home_on_the_command_line_beats_a_server_of_the_environment_and_of_the_file(user_settings, monkeypatch):
    monkeypatch.setenv("ATLAS_DATABASE_URL", "postgresql://production/atlas")
    user_settings.write_text("[atlas]\ndatabase_url = 'postgresql://file/atlas'\n")
    assert load_settings(home="/srv/restored").database_url is None
    assert load_settings(home="/srv/restored").folder == Path("/srv/restored")
    monkeypatch.delenv("ATLAS_DATABASE_URL")
    assert load_settings(home="/srv/restored").database_url is None
    monkeypatch.setenv("ATLAS_HOME", "/srv/state")
    assert load_settings().database_url == "postgresql://file/atlas"
    assert load_settings(home="").database_url == "postgresql://file/atlas"


def test_every_variable_and_key_is_on_the_page_of_the_configuration():
    root = Path(__file__).parents[2]
    page = (root / "docs/configuration.md").read_text("utf-8")
    files = [file for folder in ("atlas_sdk", "watcher") for file in (root / folder).rglob("*.py")]
    named = {name for file in files for name in re.findall(r"\bATLAS_[A-Z_]+[A-Z]\b", file.read_text("utf-8"))}
    named |= {f"ATLAS_{field.name.upper()}" for field in fields(Settings)}
    assert len(named) > 10
    assert {name for name in named if f"| `{name}` |" not in page} == set()
    assert {field.name for field in fields(Settings) if f"\n{field.name} = " not in page} == set()
    assert "docs/configuration.md" in (root / "README.md").read_text("utf-8")


def test_the_file_of_the_page_is_one_that_loads_with_the_defaults_that_it_names(user_settings):
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text("utf-8")
    user_settings.write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0])
    named = {"database_url": "postgresql://ada@db.example/atlas", "home": "~/memory", "user": "ada@example.com"}
    assert load_settings() == Settings(**named)
