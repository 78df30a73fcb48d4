"""Why a file is tracked, or why it is not."""

import os

import pytest

from atlas_sdk.files import Tracking
from atlas_sdk.files.reasons import explain, reasons


@pytest.fixture
def root(tmp_path):
    for path in (
        *("CLAUDE.md", "docs/rules.md", "docs/mine/a.md", "packages/api/AGENTS.md", "old/CLAUDE.md", "gen/CLAUDE.md"),
        *("lib/.git/HEAD", "lib/CLAUDE.md", "README.md", "src/NOTES.md", "notes/._a.md", "dist/x/CLAUDE.md"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    (tmp_path / "CLAUDE.md").write_text("@docs/rules.md")
    (tmp_path / ".gitignore").write_text("\n/gen\n")
    (tmp_path / "AGENTS.md").symlink_to("docs/mine/a.md")
    (tmp_path / "linked").symlink_to("packages")
    os.mkfifo(tmp_path / "TODO.md")
    (tmp_path / ".atlas.toml").write_text(
        '[track]\npresets = ["claude", "agents-md", "scratch"]\ninclude = ["docs/mine/*.md"]\nexclude = ["old"]\n'
    )
    return tmp_path


def test_every_tracked_file_has_its_rule(root):
    tracking = Tracking.load(root)
    found = {one.path: one for one in reasons(root, tracking, tracking.scan(root))}
    assert {path: one.reason for path, one in found.items()} == {
        "AGENTS.md": "preset agents-md",
        "CLAUDE.md": "preset claude",
        "docs/mine/a.md": "include docs/mine/*.md",
        "docs/rules.md": "import of CLAUDE.md",
        "packages/api/AGENTS.md": "preset agents-md, nested",
    }
    assert {path: one.kind for path, one in found.items() if one.kind != "claude_md"} == {"docs/mine/a.md": "scratch"}
    assert found["AGENTS.md"].link == "docs/mine/a.md"
    assert found["CLAUDE.md"].link is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("old/CLAUDE.md", "is excluded by exclude = 'old' under [track] in .atlas.toml"),
        ("gen/CLAUDE.md", "the folder gen is ignored by git: /gen, line 2 of .gitignore"),
        ("dist/x/CLAUDE.md", "the folder dist holds build results"),
        ("lib/CLAUDE.md", "the folder lib is a repository of its own: run atlasctl init there"),
        ("notes/._a.md", "has the name of a temporary file of macOS"),
        ("GEMINI.md", "belongs to the preset gemini, which is not among the presets in .atlas.toml"),
        ("README.md", "no preset, include or @import names README.md; add it under include in .atlas.toml"),
        ("src/NOTES.md", "(the preset scratch names it in the project's own folder only)"),
        ("TODO.md", "is a FIFO"),
        ("linked/api/AGENTS.md", "linked is a symlink to a folder; Atlas does not follow those"),
        ("packages/web/CLAUDE.md", "does not exist; preset claude, nested would track it"),
        ("docs/gone.txt", "does not exist, and no preset or include names it"),
    ],
)
def test_reason_for_what_is_not_tracked(root, path, reason):
    found = explain(root, Tracking.load(root), path)
    assert not found.tracked
    assert reason in found.reason


def test_switch_and_limit_are_named(root, monkeypatch):
    (root / ".atlas.toml").write_text("[track]\nnested = false\n")
    assert "nested = false in .atlas.toml" in explain(root, Tracking.load(root), "packages/api/AGENTS.md").reason
    (root / ".atlas.toml").unlink()
    monkeypatch.setattr("atlas_sdk.files.nested._MOST_FOLDERS", 1)
    found = explain(root, Tracking.load(root), "packages/api/AGENTS.md")
    assert "more than 1 folders, the rest was not searched" in found.reason


def test_one_tracked_file(root):
    found = explain(root, Tracking.load(root), "docs/rules.md")
    assert (found.tracked, found.reason, found.kind) == (True, "import of CLAUDE.md", "claude_md")
