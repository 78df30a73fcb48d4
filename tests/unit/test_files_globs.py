"""Globs, and the table of presets written in them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sdk.errors import InvalidInput
from atlas_sdk.files.globs import Excluded, Globs
from atlas_sdk.files.presets import PRESETS, TEMPORARY


def matches(glob, path):
    return Globs.of((glob,)).match(path)


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("CLAUDE.md", ["CLAUDE.md"], ["claude.md", "docs/CLAUDE.md", "CLAUDE.md.bak", "CLAUDExmd"]),
        ("./docs/a.md", ["docs/a.md"], ["a.md"]),
        ("*.md", ["a.md", ".md", "a\nb.md"], ["docs/a.md", "a.mdx"]),
        ("docs/*/a.md", ["docs/x/a.md"], ["docs/a.md", "docs/x/y/a.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/x/y/a.md", "docs/.x/a.md"], ["docs.md", "docs/a.txt"]),
        ("**/CLAUDE.md", ["CLAUDE.md", "a/b/CLAUDE.md"], ["a/CLAUDE.md/b", "a/xCLAUDE.md"]),
        ("**/docs/**/*.md", ["docs/a.md", "x/docs/y/docs/a.md"], ["x/a.md"]),
        ("docs/**", ["docs/a", "docs/x/a"], ["docs"]),
        ("**", ["a", "a/b"], []),
        ("a?c", ["abc", "a.c"], ["ac", "a/c"]),
        ("a[bc]", ["ab", "ac"], ["ad"]),
        ("a[!bc]", ["ad"], ["ab", "a/"]),
        ("a[]]", ["a]"], ["a"]),
        ("a[!]]", ["ab"], ["a]"]),
        ("a[", ["a["], ["a"]),
        ("a[0-9^]", ["a7", "a^"], ["ab"]),
        ("a[\\]", ["a\\"], ["a"]),
        ("*a*b*c", ["abc", "xaxbxc", "abcabc"], ["acb"]),
        ("a+(b)|c$", ["a+(b)|c$"], ["aab"]),
    ],
)
def test_globs(glob, yes, no):
    assert [path for path in yes if not matches(glob, path)] == []
    assert [path for path in no if matches(glob, path)] == []


@pytest.mark.parametrize("folder", [".git", "node_modules", ".venv", "__pycache__"])
def test_stars_never_lead_into_folders_without_memory(folder):
    assert not matches("**/CLAUDE.md", f"{folder}/CLAUDE.md")
    assert not matches("docs/**/*.md", f"docs/a/{folder}/b/c.md")
    assert not Globs.of(("**/a/*.md",)).far.fullmatch(f"x/{folder}")
    assert matches("**/CLAUDE.md", f"{folder}2/CLAUDE.md")
    assert matches(f"{folder}/mine/*.md", f"{folder}/mine/a.md")


@pytest.mark.parametrize("glob", ["", "/", "/etc/*.md", "../a.md", "docs/../a.md", ".", "a\0b", "a[z-a]"])
def test_bad_glob_is_refused(glob):
    for kind in (Globs, Excluded):
        with pytest.raises(InvalidInput):
            kind.of((glob,))


@pytest.mark.parametrize("glob", ["docs", "docs/**", "do*", "**/docs", "./docs/"])
def test_excluding_a_folder_excludes_everything_in_it(glob):
    excluded = Excluded.of((glob,))
    assert excluded.match("docs")
    assert excluded.match("docs/x/a.md")
    assert not excluded.match("a.md")


def test_excluding_everything():
    assert Excluded.of(("**",)).match("a/b")
    assert not Excluded.of(()).match("a/b")
    assert not Globs.of(()).match("a")


part = st.text("ab.", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
glob_part = st.sampled_from(["*", "**", "a*", "*b", "?", "[ab]", "a", ".b"])


def model(glob, path):
    """Match part by part, by the book."""
    if not glob:
        return not path
    if glob[0] == "**":
        return model(glob[1:], path) or (len(path) > 1 and model(glob, path[1:]))
    return bool(path) and letters(glob[0], path[0]) and model(glob[1:], path[1:])


def letters(glob, text):
    if not glob:
        return not text
    if glob[0] == "*":
        return any(letters(glob[1:], text[count:]) for count in range(len(text) + 1))
    if glob.startswith("[ab]"):
        return text[:1] in {"a", "b"} and letters(glob[4:], text[1:])
    return bool(text) and (glob[0] in {"?", text[0]}) and letters(glob[1:], text[1:])


@given(st.lists(glob_part, min_size=1, max_size=5), st.lists(part, min_size=1, max_size=5))
def test_globs_agree_with_a_simple_matcher(glob, path):
    expected = model([*glob, "*"] if glob[-1] == "**" else glob, path)
    assert matches("/".join(glob), "/".join(path)) == expected


@given(st.lists(glob_part, min_size=1, max_size=5), st.lists(part, min_size=1, max_size=5))
def test_every_folder_above_a_match_is_entered(glob, path):
    globs = Globs.of(("/".join(glob),))
    if globs.match("/".join(path)):
        for count in range(1, len(path)):
            folder = "/".join(path[:count])
            assert globs.near.fullmatch(folder) or globs.far.fullmatch(folder)


@pytest.mark.parametrize("glob", ["*a" * 20 + "b", "**/" + "a/**/" * 20 + "b"])
def test_no_glob_is_slow(glob):
    globs = Globs.of((glob,))
    before = time.process_time()
    assert not globs.match("a" * 250)
    assert not globs.match("/".join("a" * 500) + "/c")
    assert time.process_time() - before < 2


# The presets


WANTED = Globs.of(tuple(glob for preset in PRESETS.values() for glob in preset.globs))


def test_presets_are_named_as_documented():
    assert list(PRESETS) == ["claude", "agents-md", "gemini", "cursor", "copilot", "memory-bank", "scratch"]


def test_no_preset_walks_the_repository():
    assert WANTED.far.pattern == "(?!)"


@pytest.mark.parametrize(
    "path",
    [
        "CLAUDE.md",
        "CLAUDE.local.md",
        ".claude/CLAUDE.md",
        ".claude/rules/a/b.md",
        ".claude/commands/x.md",
        ".claude/agents/reviewer.md",
        ".claude/skills/pdf/SKILL.md",
        "AGENTS.md",
        "AGENTS.override.md",
        ".windsurfrules",
        ".clinerules",
        ".clinerules/a.md",
        ".roo/rules/a.md",
        ".kiro/steering/tech.md",
        ".junie/guidelines.md",
        "GEMINI.md",
        ".cursorrules",
        ".cursor/rules/a.mdc",
        ".github/copilot-instructions.md",
        ".github/instructions/py.instructions.md",
        "memory-bank/activeContext.md",
        "claude-progress.txt",
        "TODO.md",
        "scratchpad.md",
        "scratch/a/b.txt",
        "notes/a.md",
        ".planning/x/y.md",
    ],
)
def test_presets_know_the_conventions(path):
    assert WANTED.match(path)


@pytest.mark.parametrize(
    "path",
    ["README.md", "CHANGELOG.md", "HISTORY.md", "docs/CLAUDE.md", "claude.md", ".claude/settings.json", "src/notes.md"],
)
def test_presets_leave_the_rest_alone(path):
    assert not WANTED.match(path)


@pytest.mark.parametrize(
    "path", ["CLAUDE.md~", ".CLAUDE.md.swp", "docs/.CLAUDE.md.atlas-0011", "CLAUDE.md.tmp.12.34", "notes/a.tmp.md"]
)
def test_temporary_names_are_known(path):
    assert Globs.of(TEMPORARY).match(path)
