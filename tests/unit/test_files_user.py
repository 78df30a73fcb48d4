"""A user's own memory in a home folder: only an allow-list of places, whatever else is there."""

import pwd

import pytest

from atlas_sdk.cli.memory_owners import Owners
from atlas_sdk.files import Tracking, settings
from atlas_sdk.files.presets import PRESETS

MEMORY = {
    "CLAUDE.md": "claude_md",
    ".claude/CLAUDE.md": "claude_md",
    ".claude/agent-memory/reviewer/MEMORY.md": "scratch",
    ".claude/agents/reviewer.md": "claude_md",
    ".claude/commands/git/release.md": "claude_md",
    ".claude/projects/-home-ada-app/memory/MEMORY.md": "scratch",
    ".claude/projects/-home-ada-app/memory/topics/debugging.md": "scratch",
    ".claude/rules/style.md": "claude_md",
    ".claude/skills/pdf/SKILL.md": "claude_md",
    ".codex/AGENTS.md": "claude_md",
    ".codex/memories/MEMORY.md": "scratch",
    ".codex/prompts/review.md": "claude_md",
    ".config/amp/AGENTS.md": "claude_md",
    ".config/goose/.goosehints": "claude_md",
    ".config/goose/memory/development.txt": "scratch",
    ".config/opencode/AGENTS.md": "claude_md",
    ".config/opencode/agent/reviewer.md": "claude_md",
    ".gemini/GEMINI.md": "claude_md",
    ".gemini/tmp/1f2e/memory/MEMORY.md": "scratch",
    ".openclaw/workspace/MEMORY.md": "scratch",
    ".openclaw/workspace/SOUL.md": "claude_md",
    ".openclaw/workspace/memory/2026-11-30.md": "scratch",
    ".roo/rules-code/a.md": "claude_md",
    "Documents/Cline/Rules/style.md": "claude_md",
}
#: Credentials, transcripts, caches and other people's files, where agents and other programs keep them.
OTHERS = [
    *(".aws/credentials", ".bash_history", ".docker/config.json", ".git-credentials", ".gnupg/private.key", ".netrc"),
    *(".config/gh/hosts.yml", ".kube/config", ".npmrc", ".pgpass", ".pypirc", ".ssh/config", ".ssh/id_ed25519", ".env"),
    *(".claude.json", ".claude/.credentials.json", ".claude/settings.json", ".claude/settings.local.json"),
    *(".claude/history.jsonl", ".claude/stats-cache.json", ".claude/todos/1.json", ".claude/statsig/cached.json"),
    *(".claude/projects/-home-ada-app/4f1c.jsonl", ".claude/projects/-home-ada-app/4f1c/tool-results/a.txt"),
    *(".claude/projects/-home-ada-app/memory/.lock", ".claude/projects/-home-ada-app/memory/x.jsonl"),
    *(".claude/shell-snapshots/snapshot.sh", ".claude/paste-cache/a.txt", ".claude/file-history/a/b@v1"),
    *(".claude/plugins/cache/tool/README.md", ".claude/plugins/marketplaces/a/commands/x.md", ".claude/ide/1.lock"),
    *(".claude/debug/latest.txt", ".claude/skills/pdf/node_modules/x/README.md", ".claude/skills/pdf/run.py"),
    *(".codex/auth.json", ".codex/config.toml", ".codex/history.jsonl", ".codex/log/codex-tui.log"),
    *(".codex/sessions/2026/11/30/rollout-1.jsonl", ".codex/archived_sessions/rollout-2.jsonl"),
    *(".config/goose/config.yaml", ".config/goose/secrets.yaml", ".config/opencode/opencode.json"),
    *(".config/amp/settings.json", ".local/share/amp/secrets.json", ".local/share/goose/sessions/a.jsonl"),
    *(".local/share/opencode/auth.json", ".local/share/opencode/storage/session/a.json"),
    *(
        ".gemini/oauth_creds.json",
        ".gemini/google_accounts.json",
        ".gemini/settings.json",
        ".gemini/tmp/1f2e/logs.json",
    ),
    *(".gemini/tmp/1f2e/chats/session.json", ".gemini/tmp/1f2e/checkpoints/a.json"),
    *(".openclaw/openclaw.json", ".openclaw/credentials/oauth.json", ".openclaw/agents/main/sessions/a.jsonl"),
    *(".openclaw/workspace/.env", ".cursor/mcp.json", ".continue/config.yaml", ".cline/data/settings/providers.json"),
    *(".codeium/windsurf/mcp_config.json", ".copilot/config.json", ".qwen/oauth_creds.json", ".roo/mcp.json"),
    *(
        "notes/diary.md",
        "Documents/letter.md",
        "TODO.md",
        "code/app/CLAUDE.md",
        "code/app/.claude/rules/a.md",
        "app/x.md",
    ),
]


def put(root, *paths, text="x"):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path, *MEMORY, *OTHERS)
    return tmp_path


def test_only_memory_is_tracked(home):
    tracking = Tracking.load(home)
    assert tracking.user
    found = tracking.scan(home)
    assert set(found.paths) == set(MEMORY)
    assert {path: tracking.kind(path) for path in found.paths} == MEMORY
    assert (found.skipped, found.complete) == ((), True)
    assert not [path for path in OTHERS if tracking.wants(path) or tracking.may_be_nested(path)]


def test_watched_folders_are_those_of_agents(home):
    put(home, *(f"code/project{number}/a/b/c/x.py" for number in range(50)))
    put(home, *(f".claude/plugins/cache/{number}/a/b.md" for number in range(50)))
    watched = Tracking.load(home).scan(home)
    assert watched.unwatched == {}
    assert not [folder for folder in watched.directories if folder.startswith(("code", "notes", ".ssh", ".local"))]
    assert ".claude/plugins" not in watched.directories
    assert len(watched.directories) < 60
    assert {"", ".claude", ".claude/projects", ".claude/projects/-home-ada-app"} <= set(watched.directories)


def test_imports_add_markdown_of_agents_and_nothing_else(home):
    put(home, ".claude/style.md", ".claude/extra/tips.md", "id_rsa", "secrets.md", "code/app/notes.md")
    mentions = (
        "@style.md @extra/tips.md @../.ssh/id_ed25519 @.credentials.json @../id_rsa @../code/app/notes.md @../.env"
    )
    put(home, ".claude/CLAUDE.md", text=f"{mentions} @settings.json @history.jsonl @../.ssh/config @../TODO.md")
    found = Tracking.load(home).scan(home)
    assert set(found.imported) == {".claude/style.md", ".claude/extra/tips.md", "TODO.md"}


def test_symlink_to_what_is_no_text_is_not_followed(home):
    put(home, "dotfiles/claude.md", "dotfiles/skills/x/SKILL.md")
    (home / ".claude/rules/mine.md").symlink_to("../../dotfiles/claude.md")
    (home / ".claude/rules/key.md").symlink_to("../../.ssh/id_ed25519")
    (home / ".claude/rules/chat.md").symlink_to("../history.jsonl")
    (home / ".claude/skills/x").symlink_to("../../dotfiles/skills/x")
    found = Tracking.load(home).scan(home)
    assert set(found.paths) == {*MEMORY, ".claude/rules/mine.md"}
    assert found.skipped == ()
    reasons = {one.path: one.reason for one in found.lookalikes}
    assert set(reasons) == {".claude/rules/key.md", ".claude/rules/chat.md", ".claude/skills/x"}
    assert "which is no text" in reasons[".claude/rules/key.md"]


def test_an_imported_symlink_leads_to_markdown_only(home):
    put(home, "dotfiles/style.md")
    for name, target in {
        "key": "../.ssh/id_ed25519",
        "login": "../.codex/auth.json",
        "style": "../dotfiles/style.md",
    }.items():
        (home / f".claude/{name}.md").symlink_to(target)
    put(home, ".claude/CLAUDE.md", text="@key.md @login.md @style.md")
    found = Tracking.load(home).scan(home)
    assert set(found.imported) == {".claude/style.md"}
    assert found.targets == {".claude/style.md": "dotfiles/style.md"}


def test_an_imported_symlink_does_not_lead_to_an_excluded_file(tmp_path):
    put(tmp_path, "private/plan.md", "CLAUDE.md", text="@open.md")
    (tmp_path / "open.md").symlink_to("private/plan.md")
    assert "open.md" in Tracking().scan(tmp_path).paths
    assert Tracking(exclude=("private",)).scan(tmp_path).paths == ("CLAUDE.md",)


def test_a_symlink_to_settings_with_tokens_is_not_followed(home):
    put(home, ".cargo/credentials.toml", "dotfiles/review.toml")
    (home / ".gemini/commands").mkdir()
    (home / ".gemini/commands/review.toml").symlink_to("../../dotfiles/review.toml")
    (home / ".claude/rules/token.md").symlink_to("../../.cargo/credentials.toml")
    found = Tracking.load(home).scan(home)
    assert set(found.paths) == {*MEMORY, ".gemini/commands/review.toml"}


def test_presets_and_include_of_the_home_choose(home):
    put(home, ".atlas.toml", text='[track]\npresets = ["codex"]\ninclude = ["notes/*.md"]\n')
    assert set(Tracking.load(home).scan(home).paths) == {
        *(path for path in MEMORY if path.startswith(".codex/")),
        "notes/diary.md",
    }


def test_home_can_be_a_project(home):
    put(home, ".atlas.toml", text="[track]\nuser = false\nnested = false\n")
    found = Tracking.load(home).scan(home)
    assert {"TODO.md", "notes/diary.md", ".claude/rules/style.md"} <= set(found.paths)
    assert ".codex/memories/MEMORY.md" not in found.paths


def test_every_place_of_a_user_leads_to_text():
    for name, preset in PRESETS.items():
        for glob in preset.user_globs:
            assert glob.endswith((".md", ".mdc", ".txt", ".toml", ".goosehints")), (name, glob)


def test_home_of_the_owner_is_a_home_for_another_account(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    account = pwd.struct_passwd(("ada", "x", 1, 1, "", str(tmp_path), "/bin/sh"))
    service = pwd.struct_passwd(("www", "x", 1, 1, "", str(tmp_path), "/usr/sbin/nologin"))
    for known, expected in ((account, True), (service, False)):
        settings._home_of.cache_clear()
        monkeypatch.setattr(settings.pwd, "getpwuid", lambda _, known=known: known)
        assert settings.is_home(tmp_path) is expected
    settings._home_of.cache_clear()
    assert not settings.is_home(tmp_path / "gone")


def test_memory_of_a_project_is_shown_with_it(tmp_path):
    (tmp_path / "code/my-app/sub.d").mkdir(parents=True)
    (tmp_path / "code/my").mkdir()
    owners = Owners(tmp_path)

    def slug(folder):
        return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in str(folder))

    for folder in (tmp_path / "code/my-app", tmp_path / "code/my-app/sub.d", tmp_path / "code/my"):
        path = f".claude/projects/{slug(folder)}/memory/topics/a.md"
        assert owners.find(path) == str(folder)
        assert owners.shown(path) == f"of ~/{folder.relative_to(tmp_path)}"
    for path in (".claude/projects/-no-such-folder/memory/a.md", ".claude/CLAUDE.md", ".claude/projects/x/memory/a.md"):
        assert owners.find(path) is None
        assert owners.shown(path) == ""
