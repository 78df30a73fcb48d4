"""Memory files in the folders of a project: what is found, what is left out, and what is watched."""

import subprocess
from itertools import count

import pytest

from atlas_sdk.files import Tracking, nested


def put(root, *paths, text=""):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def reasons(found):
    return {one.path: one.reason for one in found.lookalikes}


def test_instructions_are_found_in_every_folder(tmp_path):
    wanted = [
        "packages/api/CLAUDE.md",
        "packages/api/CLAUDE.local.md",
        "packages/api/.claude/rules/deep/a.md",
        "packages/api/.claude/agent-memory/reviewer/MEMORY.md",
        "packages/api/.cursor/rules/a.mdc",
        "packages/web/AGENTS.md",
        "packages/web/src/GEMINI.md",
        "services/.windsurf/rules/a.md",
        "services/.goosehints",
    ]
    put(tmp_path, *wanted, "packages/api/README.md", "packages/api/.claude/settings.json", "packages/api/TODO.md")
    found = Tracking().scan(tmp_path)
    assert found.paths == tuple(sorted(wanted))
    assert found.nested == set(wanted)
    assert found.skipped == ()
    kinds = {path: Tracking().kind(path) for path in wanted}
    assert {path for path, kind in kinds.items() if kind == "scratch"} == {wanted[3]}


def test_search_can_be_switched_off(tmp_path):
    put(tmp_path, "CLAUDE.md", "packages/api/CLAUDE.md")
    (tmp_path / ".atlas.toml").write_text("[track]\nnested = false\n")
    rules = Tracking.load(tmp_path)
    assert rules.scan(tmp_path).paths == ("CLAUDE.md",)
    assert not rules.may_be_nested("packages/api/CLAUDE.md")
    assert rules.leads("packages") is None


def test_presets_and_excludes_decide_about_nested_files_too(tmp_path):
    put(tmp_path, "a/CLAUDE.md", "a/AGENTS.md", "b/CLAUDE.md", "c/CLAUDE.md", "c/.claude/rules/x.md")
    rules = Tracking(presets=("claude",), exclude=("b", "c/.claude/**"))
    found = rules.scan(tmp_path)
    assert found.paths == ("a/CLAUDE.md", "c/CLAUDE.md")
    assert "b" not in {*found.directories, *found.unwatched}


def test_folders_that_git_ignores_are_left_out_and_named(tmp_path):
    put(tmp_path, ".gitignore", text="/gen/\n*.local/\n.claude\n")
    put(tmp_path, "packages/.gitignore", text="!gen\nout\n")
    put(tmp_path, ".git/info/exclude", text="# mine\nprivate\n")
    put(tmp_path, "gen/CLAUDE.md", "a.local/AGENTS.md", "packages/out/CLAUDE.md", "private/CLAUDE.md")
    put(tmp_path, "packages/gen/CLAUDE.md", "packages/.claude/rules/a.md", "node_modules/x/CLAUDE.md", "dist/CLAUDE.md")
    found = Tracking().scan(tmp_path)
    assert found.paths == ("packages/.claude/rules/a.md", "packages/gen/CLAUDE.md")
    assert reasons(found) == {
        "a.local/AGENTS.md": "a.local/AGENTS.md: the folder a.local is ignored by git: *.local/, line 2 of .gitignore",
        "dist/CLAUDE.md": "dist/CLAUDE.md: the folder dist holds build results",
        "gen/CLAUDE.md": "gen/CLAUDE.md: the folder gen is ignored by git: /gen/, line 1 of .gitignore",
        "packages/out/CLAUDE.md": (
            "packages/out/CLAUDE.md: the folder packages/out is ignored by git: out, line 2 of packages/.gitignore"
        ),
        "private/CLAUDE.md": (
            "private/CLAUDE.md: the folder private is ignored by git: private, line 2 of .git/info/exclude"
        ),
    }


def test_nested_repositories_and_worktrees_are_borders(tmp_path):
    put(tmp_path, "CLAUDE.md", "lib/.git/HEAD", "lib/CLAUDE.md", "lib/src/CLAUDE.md")
    put(tmp_path, "work/tree/.git", text="gitdir: /elsewhere\n")
    put(tmp_path, "work/tree/AGENTS.md", ".git/HEAD")
    found = Tracking().scan(tmp_path)
    assert found.paths == ("CLAUDE.md",)
    assert set(reasons(found)) == {"lib/CLAUDE.md", "work/tree/AGENTS.md"}
    assert "is a repository of its own: run atlasctl init there" in reasons(found)["lib/CLAUDE.md"]
    assert "lib" not in found.directories
    assert "lib" not in found.unwatched


def test_names_that_only_look_like_memory_are_reported(tmp_path):
    put(tmp_path, "claude.md", "a/Agents.md", ".claude/notes.md", ".claude/README.md", "a/.claude/more.md", "a/b.md")
    found = Tracking().scan(tmp_path)
    assert found.paths == ()
    assert set(reasons(found)) == {"claude.md", "a/Agents.md", ".claude/notes.md", "a/.claude/more.md"}
    assert "agents look for CLAUDE.md" in reasons(found)["claude.md"]
    assert "no preset names it" in reasons(found)[".claude/notes.md"]
    # What the user has switched off or excluded is no news.
    put(tmp_path, "AGENTS.md")
    chosen = Tracking(presets=("claude",), exclude=("claude.md", ".claude/notes.md", "a"))
    assert chosen.scan(tmp_path).lookalikes == ()


def test_symlinks_are_not_followed_to_folders_and_never_out(tmp_path):
    root = tmp_path / "project"
    put(tmp_path, "outside/CLAUDE.md", "outside/rules/a.md")
    put(root, "shared/AGENTS.md")
    (root / "a").mkdir()
    (root / "a/CLAUDE.md").symlink_to("../shared/AGENTS.md")
    (root / "a/AGENTS.md").symlink_to("../../outside/CLAUDE.md")
    (root / "a/.claude").symlink_to("../../outside")
    (root / "b").symlink_to("../outside")
    (root / "loop").symlink_to(".")
    found = Tracking().scan(root)
    assert found.paths == ("a/CLAUDE.md", "shared/AGENTS.md")
    assert [one.path for one in found.skipped] == ["a/AGENTS.md"]
    assert "outside the project" in found.skipped[0].reason
    assert set(reasons(found)) == {"a/.claude"}


def test_folder_that_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    put(tmp_path, "a/CLAUDE.md", "b/CLAUDE.md")
    opened = nested._Search.open

    def refused(search, folder):
        if folder == "a":
            raise PermissionError(13, "Permission denied")
        return opened(search, folder)

    monkeypatch.setattr(nested._Search, "open", refused)
    assert Tracking().scan(tmp_path).paths == ("b/CLAUDE.md",)


def test_imports_of_nested_files_are_followed(tmp_path):
    put(tmp_path, "packages/api/CLAUDE.md", text="\ufeff@docs/style.md\n")
    put(tmp_path, "packages/api/docs/style.md")
    found = Tracking().scan(tmp_path)
    assert found.paths == ("packages/api/CLAUDE.md", "packages/api/docs/style.md")
    assert found.imported == {"packages/api/docs/style.md": "packages/api/CLAUDE.md"}
    assert found.nested == {"packages/api/CLAUDE.md"}


def test_near_folders_and_those_with_memory_are_watched_the_rest_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("atlas_sdk.files.tracking.MOST_WATCHED", 3)
    put(tmp_path, "a/b/c/d/CLAUDE.md", "e/x.py", "f/x.py", "g/h/x.py")
    found = Tracking().scan(tmp_path)
    assert set(found.directories) == {"", "a/b/c/d", "a", "e", "f"}
    assert set(found.unwatched) == {"a/b", "a/b/c", "g", "g/h"}
    before = found.unwatched["g/h"]
    put(tmp_path, "g/h/CLAUDE.md")
    status = (tmp_path / "g/h").stat()
    assert before != (status.st_dev, status.st_ino, status.st_mtime_ns)
    assert "g/h" in Tracking().scan(tmp_path).directories


def test_search_that_reaches_a_limit_says_so_and_is_not_complete(tmp_path, monkeypatch):
    put(tmp_path, *(f"a{number}/CLAUDE.md" for number in range(9)), "CLAUDE.md")
    monkeypatch.setattr(nested, "_MOST_FOLDERS", 5)
    found = Tracking().scan(tmp_path)
    assert found.paths == ("CLAUDE.md", "a0/CLAUDE.md", "a1/CLAUDE.md", "a2/CLAUDE.md", "a3/CLAUDE.md")
    assert not found.complete
    assert found.skipped == ()
    assert "more than 5 folders" in reasons(found)[""]
    ticks = count()
    slow = Tracking().scan(tmp_path, clock=lambda: next(ticks) / 5)
    assert not slow.complete


@pytest.mark.parametrize(
    ("path", "yes"),
    [
        ("packages/api/CLAUDE.md", True),
        ("packages/api/.claude/rules/a.md", True),
        ("packages/.gitignore", True),
        (".gitignore", True),
        ("packages/api/README.md", False),
        ("node_modules/x/CLAUDE.md", False),
        ("packages/._CLAUDE.md", False),
        ("packages/CLAUDE.md~", False),
    ],
)
def test_events_that_ask_for_a_scan(path, yes):
    assert Tracking().may_be_nested(path) is yes
    assert not Tracking(user=True).may_be_nested(path)


def test_folders_lead_to_nested_files_unless_they_never_do():
    rules = Tracking(exclude=("vendor",))
    assert rules.leads("packages/api") == "far"
    assert rules.leads(".claude/rules") == "near"
    for folder in ("node_modules", "packages/dist", "packages/target/x", "vendor", "vendor/a"):
        assert rules.leads(folder) is None


def test_real_worktree_is_a_border(tmp_path):
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    put(tmp_path, "CLAUDE.md", "api/CLAUDE.md")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "1"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", "trees/w1", "-b", "w1"], check=True, capture_output=True)
    assert Tracking().scan(tmp_path).paths == ("CLAUDE.md", "api/CLAUDE.md")


def test_slow_rules_of_git_do_not_stall_the_search(tmp_path, monkeypatch):
    put(tmp_path, ".gitignore", "CLAUDE.md", text="slow\n")
    for number in range(1_000):
        (tmp_path / f"{number}").mkdir()
    asked = []
    monkeypatch.setattr(nested, "_reason", lambda _, folder: asked.append(folder))
    # Each decision takes 0.1 s.
    found = Tracking().scan(tmp_path, clock=lambda: len(asked) / 10)
    assert not found.complete
    assert "took more than 5 s" in found.lookalikes[0].reason
    assert len(asked) < 200
