"""Tracked files, and the files that a scan finds."""

import os
import subprocess
import sys

import pytest

from atlas_sdk.errors import FileProblem, InvalidInput
from atlas_sdk.files import Scan, Tracking, walk
from atlas_sdk.files.presets import PRESETS


def put(root, *paths, text=""):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def configured(root, text):
    (root / ".atlas.toml").write_text(text)
    return Tracking.load(root)


def scanned(root, rules=None):
    return (rules or Tracking.load(root)).scan(root)


# Settings


def test_project_without_settings_has_every_preset(tmp_path):
    rules = Tracking.load(tmp_path)
    assert rules == Tracking()
    assert set(rules.presets) == set(PRESETS)
    assert rules.limit_bytes == 8 * 2**20


def test_settings_choose_presets_globs_and_limit(tmp_path):
    rules = configured(
        tmp_path,
        '[track]\npresets = ["claude"]\nlimit_bytes = 100\n'
        'include = ["docs/memory/**/*.md"]\nexclude = ["docs/memory/old"]\n',
    )
    assert rules == Tracking(
        presets=("claude",), include=("docs/memory/**/*.md",), exclude=("docs/memory/old",), limit_bytes=100
    )
    assert rules.wants("CLAUDE.md")
    assert rules.wants("docs/memory/a/b.md")
    assert not rules.wants("docs/memory/old/b.md")
    assert not rules.wants("AGENTS.md")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[trak]", "trak"),
        ("track = 1", "track"),
        ("[track]\nexlude = []", "track.exlude"),
        ('[track]\npresets = ["cluade"]', "track.presets"),
        ('[track]\npresets = "claude"', "track.presets"),
        ("[track]\ninclude = [1]", "track.include"),
        ('[track]\ninclude = ["../x.md"]', "track.include"),
        ('[track]\nexclude = ["/etc/*"]', "track.exclude"),
        ('[track]\nexclude = ["[z-a]"]', "track.exclude"),
        ("[track]\nlimit_bytes = 0", "track.limit_bytes"),
        ("[track]\nlimit_bytes = true", "track.limit_bytes"),
        ("[track]\nlimit_bytes = 1073741824", "track.limit_bytes"),
        ("[track", ".atlas.toml"),
        ("#" * 2**21, ".atlas.toml"),
    ],
)
def test_wrong_setting_is_named_with_its_file(tmp_path, text, key):
    with pytest.raises(InvalidInput) as caught:
        configured(tmp_path, text)
    assert caught.value.field == key
    assert str(caught.value).startswith(".atlas.toml")
    assert key in str(caught.value)


def test_settings_of_the_command_line_are_left_to_it(tmp_path):
    assert configured(tmp_path, '[atlas]\ncolor = "never"') == Tracking()


def test_settings_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / ".atlas.toml").write_bytes(b"# \xff")
    with pytest.raises(InvalidInput, match=r"\.atlas\.toml is not TOML"):
        Tracking.load(tmp_path)


def test_unknown_preset_is_refused_without_a_file_too():
    with pytest.raises(InvalidInput, match="is not a preset; presets are claude, agents-md"):
        Tracking(presets=("vim",))


# Names


def test_wanted_names_are_case_sensitive_and_never_temporary():
    rules = Tracking()
    assert rules.wants("CLAUDE.md")
    assert rules.wants("scratch/deep/a.txt")
    assert rules.wants("notes/plan.tmp.v2.md")
    for path in ("claude.md", "docs/CLAUDE.md", "notes/.a.md.atlas-00.md", "notes/._a.md", "HISTORY.md", "README.md"):
        assert not rules.wants(path)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("CLAUDE.md", "claude_md"),
        (".cursor/rules/a.mdc", "claude_md"),
        ("packages/api/AGENTS.md", "claude_md"),
        ("progress.md", "scratch"),
        ("memory-bank/progress.md", "scratch"),
        ("docs/memory/a.md", "scratch"),
        ("docs/memory/CLAUDE.md", "claude_md"),
        ("docs/imported.md", "claude_md"),
    ],
)
def test_kind_of_a_file(path, kind):
    assert Tracking(include=("docs/memory/*.md",)).kind(path) == kind


# Scans


def test_scan_of_an_empty_project(tmp_path):
    assert scanned(tmp_path) == Scan(paths=(), skipped=(), directories=("",))


def test_scan_finds_what_is_wanted_sorted(tmp_path):
    wanted = [".claude/rules/a/b.md", ".clinerules", "CLAUDE.md", "notes/x.md", os.fsdecode(b"scratch-\xff\n.md")]
    put(tmp_path, *wanted, "README.md", "src/CLAUDE.md", ".claude/settings.json", ".git/CLAUDE.md", "CLAUDE.md~")
    found = scanned(tmp_path)
    assert found.paths == tuple(sorted([*wanted, "src/CLAUDE.md"]))
    assert found.nested == {"src/CLAUDE.md"}
    assert found.skipped == ()
    assert [path for path in found.paths if Tracking().wants(path)] == sorted(wanted)


def test_ignored_files_are_tracked(tmp_path):
    put(tmp_path, ".gitignore", text="*\n")
    put(tmp_path, "CLAUDE.local.md")
    assert scanned(tmp_path).paths == ("CLAUDE.local.md",)


def test_name_that_is_a_file_for_one_agent_and_a_folder_for_another(tmp_path):
    put(tmp_path, ".clinerules/a.md")
    assert scanned(tmp_path).paths == (".clinerules/a.md",)
    assert scanned(tmp_path).skipped == ()


def test_one_bad_entry_never_stops_the_others(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    put(tmp_path, "outside/secret.md")
    put(root, "CLAUDE.md", "docs/x.md")
    (root / "AGENTS.md").mkdir()
    os.mkfifo(root / "GEMINI.md")
    (root / "TODO.md").symlink_to("../outside/secret.md")
    (root / "NOTES.md").symlink_to("NOTES.md")
    (root / "notes").symlink_to("docs")
    (root / "memory-bank").symlink_to("../outside")
    (root / "plan.md").symlink_to("gone.md")
    (root / "STATE.md").symlink_to("docs/x.md")
    (root / "scratch.md").symlink_to("docs")
    found = scanned(root)
    assert found.paths == ("CLAUDE.md", "STATE.md")
    reasons = {one.path: one.reason for one in found.skipped}
    assert list(reasons) == sorted(reasons)
    assert set(reasons) == {"AGENTS.md", "GEMINI.md", "TODO.md", "NOTES.md", "notes", "memory-bank", "scratch.md"}
    assert "is a directory" in reasons["AGENTS.md"]
    assert "is a FIFO" in reasons["GEMINI.md"]
    assert "outside the project" in reasons["TODO.md"]
    assert "more than 40 symlinks" in reasons["NOTES.md"]
    for path in ("notes", "memory-bank", "scratch.md"):
        assert "is a symlink to a folder" in reasons[path]


def test_scan_includes_followed_imports(tmp_path):
    put(tmp_path, "CLAUDE.md", text="@docs/style.md @docs/old.md")
    put(tmp_path, "docs/style.md", "docs/old.md", "docs/other.md")
    put(tmp_path, "NOTES.md", text="@docs/other.md")
    rules = configured(tmp_path, '[track]\nexclude = ["docs/old.md"]')
    found = scanned(tmp_path, rules)
    assert found.paths == ("CLAUDE.md", "NOTES.md", "docs/style.md")
    assert "docs" in found.directories
    assert rules.kind("docs/style.md") == "claude_md"


def test_missing_project_is_a_problem_and_not_an_empty_one(tmp_path):
    with pytest.raises(FileProblem, match="cannot open the project"):
        Tracking().scan(tmp_path / "gone")
    with pytest.raises(FileProblem, match="cannot open the project"):
        Tracking.load(tmp_path / "gone")


def test_include_without_a_fixed_folder_walks_the_project(tmp_path):
    put(tmp_path, "a/b/CLAUDE.md", "CLAUDE.md", "node_modules/x/CLAUDE.md", "a/.git/CLAUDE.md", "vendor/x/CLAUDE.md")
    (tmp_path / "loop").symlink_to(".")
    rules = configured(tmp_path, '[track]\ninclude = ["**/CLAUDE.md"]\nexclude = ["vendor"]')
    found = scanned(tmp_path, rules)
    assert found.paths == ("CLAUDE.md", "a/b/CLAUDE.md")
    assert found.directories == ("", "a", "a/b")
    assert [one.path for one in found.skipped] == ["loop"]


def test_walk_that_is_too_long_stops_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "_MOST_FOLDERS", 5)
    put(tmp_path, *(f"a{number}/CLAUDE.md" for number in range(10)), ".claude/rules/a.md", "z/CLAUDE.md")
    found = scanned(tmp_path, Tracking(include=("**/CLAUDE.md",)))
    assert ".claude/rules/a.md" in found.paths
    assert len(found.directories) == 5
    (one,) = found.skipped
    assert one.path == ""
    assert "more than 5 folders" in one.reason


def test_walk_as_long_as_allowed_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "_MOST_FOLDERS", 4)
    put(tmp_path, "a/CLAUDE.md", "b/CLAUDE.md", "c/CLAUDE.md")
    found = scanned(tmp_path, Tracking(include=("**/CLAUDE.md",)))
    assert (len(found.paths), found.skipped) == (3, ())


def test_search_that_takes_too_long_ends_and_says_so(tmp_path):
    put(tmp_path, "CLAUDE.md", *(f"notes/{number}/a.md" for number in range(20)))
    passed = iter(range(1000))
    found = Tracking().scan(tmp_path, clock=lambda: next(passed) / 2)
    assert not found.complete
    assert len(found.paths) < 20
    assert [one.path for one in found.skipped] == [""]
    assert "the search took more than 5 s, the rest was not searched" in found.skipped[0].reason
    assert Tracking().scan(tmp_path, clock=lambda: 0.0).complete


# Folders to watch


def test_directories_are_those_where_something_can_appear(tmp_path):
    put(tmp_path, ".claude/settings.json", ".github/workflows/ci.yml", "src/a.py", "scratch/deep/a.bin", ".kiro/x")
    by_presets = ["", ".claude", ".github", ".kiro", "scratch", "scratch/deep"]
    assert Tracking(nested=False).directories(tmp_path) == by_presets
    assert Tracking().directories(tmp_path) == sorted([*by_presets, ".github/workflows", "src"])


def test_whatever_appears_is_in_a_watched_directory(tmp_path):
    """The test makes the folders of a path one by one. Each one appears in a folder that is already watched."""
    rules = Tracking()
    for path in (".claude/skills/pdf/SKILL.md", ".cursor/rules/a/b.mdc", "scratch/a.md", ".junie/guidelines.md"):
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            assert "/".join(parts[: count - 1]) in rules.directories(tmp_path)
            if count < len(parts):
                (tmp_path / "/".join(parts[:count])).mkdir()


def test_excluded_folder_is_neither_walked_nor_watched(tmp_path):
    put(tmp_path, "scratch/a.md", "notes/a.md")
    rules = configured(tmp_path, '[track]\nexclude = ["scratch/**"]')
    assert scanned(tmp_path, rules) == Scan(paths=("notes/a.md",), skipped=(), directories=("", "notes"))


def test_import_of_this_package_is_light():
    code = (
        "import sys, atlas_sdk.files; "
        "print([name for name in ('psycopg', 'watchdog', 'rich', 'click', 'ctypes', 'cattrs') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
