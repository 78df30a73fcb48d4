"""Globs, and the presets, which are tables of globs."""

import random

import pytest
from cost import assert_cheap, peak_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_sdk.errors import InvalidInput
from atlas_sdk.files import globs as module
from atlas_sdk.files.globs import Excluded, Globs, check_globs
from atlas_sdk.files.left_out import TEMPORARY, temporary_of
from atlas_sdk.files.presets import PRESETS


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
    assert Globs.of(("**/a/*.md",)).leads(f"x/{folder}") is None
    assert Globs.of(("**/a/*.md",)).leads(f"x/{folder}2") == "far"
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


name = st.text("ab.", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
path = st.lists(st.one_of(name, st.sampled_from([".git", "node_modules", "docs"])), min_size=1, max_size=6)
glob_part = st.sampled_from(["*", "**", "**", "a*", "*b", "?", "[ab]", "[!a]", "a", ".b", "*a*", ".git", "docs"])
glob = st.lists(glob_part, min_size=1, max_size=6)
NEVER = {".git", "node_modules", ".venv", "__pycache__"}


def model(glob, path, *, prefix=False, never=NEVER):
    """Match part by part, by the definition. With `prefix`, return whether the path matches if parts are added."""
    if not path:
        return prefix and bool(glob) if prefix else not glob
    if not glob:
        return False
    if glob[0] == "**":
        return model(glob[1:], path, prefix=prefix, never=never) or (
            path[0] not in never and model(glob, path[1:], prefix=prefix, never=never)
        )
    return letters(glob[0], path[0]) and model(glob[1:], path[1:], prefix=prefix, never=never)


def letters(glob, text):
    if not glob:
        return not text
    if glob[0] == "*":
        return any(letters(glob[1:], text[count:]) for count in range(len(text) + 1))
    if glob[0] == "[":
        inside, _, rest = glob[1:].partition("]")
        return bool(text) and (text[0] in inside) != inside.startswith("!") and letters(rest, text[1:])
    return bool(text) and (glob[0] in {"?", text[0]}) and letters(glob[1:], text[1:])


def whole(glob):
    return [*glob, "*"] if glob[-1] == "**" else glob


def wanted_by_the_model(globs, path):
    return any(model(whole(glob), path) for glob in globs)


def leads_by_the_model(globs, folder):
    found = {
        "far" if any(letter in glob[0] for letter in "*?[") else "near"
        for glob in globs
        if model(whole(glob), folder, prefix=True)
    }
    return "near" if "near" in found else next(iter(found), None)


def excluded_by_the_model(globs, path):
    return any(model(folder(glob), path[:count], never=()) for glob in globs for count in range(1, len(path) + 1))


def folder(glob):
    """Return a glob that excludes the folder itself too: `docs` for `docs/**` or `docs/**/*`. `**` stays as it is."""
    parts = [
        part for part, after in zip(whole(glob), [*whole(glob)[1:], None], strict=True) if part != "**" or after != "**"
    ]
    return parts[:-2] if parts[-2:] == ["**", "*"] and len(parts) > 2 else parts


@pytest.fixture(params=["no state is kept", "states are kept"])
def kept(request, monkeypatch):
    """Run a test with cached states and without, because the cache must not change the matches."""
    if request.param == "no state is kept":
        monkeypatch.setattr(module, "_MOST_KEPT", 0)
    module._compiled.cache_clear()
    module._compiled_to_exclude.cache_clear()
    yield
    module._compiled.cache_clear()
    module._compiled_to_exclude.cache_clear()


@pytest.mark.usefixtures("kept")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.lists(glob, min_size=1, max_size=5), st.lists(path, min_size=1, max_size=6))
def test_globs_agree_with_a_simple_matcher(globs, paths):
    compiled = Globs.of(tuple("/".join(glob) for glob in globs))
    excluded = Excluded.of(tuple("/".join(glob) for glob in globs))
    for parts in paths:
        text = "/".join(parts)
        assert compiled.match(text) == wanted_by_the_model(globs, parts)
        assert compiled.leads(text) == leads_by_the_model(globs, parts)
        assert excluded.match(text) == excluded_by_the_model(globs, parts)


@given(glob, path)
def test_every_folder_above_a_match_is_entered(glob, path):
    globs = Globs.of(("/".join(glob),))
    if globs.match("/".join(path)):
        for count in range(1, len(path)):
            assert globs.leads("/".join(path[:count])) is not None


# The limits


@pytest.mark.parametrize(
    ("globs", "sentence"),
    [
        (["a"] * 257, "more than 256 globs"),
        (["a" * 8193], "more than 8,192 characters"),
        (["a" * 4097] * 2, "more than 8,192 characters"),
        (["a/" * 33], "more than 32 parts"),
        (["**/a/" * 17], "more than 32 parts"),
        ([f"{number}*" for number in range(33)], "more than 32 different names"),
        (["a" * 64 + "*"], "more than 64 characters"),
        (["a[" + "b" * 100 + "]"], "more than 64 characters"),
        (["a/[z-a]"], "is not a set of letters"),
        (["/" + "a" * 8000], "is not a glob relative to the project"),
    ],
)
def test_limits_of_a_list(globs, sentence):
    with pytest.raises(InvalidInput) as caught:
        check_globs(tuple(globs))
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_presets_are_far_from_the_limits():
    check_globs(tuple(glob for preset in PRESETS.values() for glob in preset.globs))


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
NAMES = [f"?{letter}" for letter in LETTERS] + [f"{letter}*" for letter in LETTERS]
ENDS = [letter * count for count in (1, 2) for letter in LETTERS[1:]][:32]


def within(globs):
    """Return as many of these globs as the limits allow."""
    kept, characters = [], 0
    for glob in globs:
        characters += len(glob)
        if characters > 8192 or len(kept) == 256:
            break
        kept.append(glob)
    return tuple(kept)


#: Each set of globs is slow for one way of matching: backtracking, one state at a time, or a table of all states.
WORST = {
    "the same start": within("/".join("a" * 31) + f"/{number}" for number in range(256)),
    "different names": within("/".join(chr(0x4E00 + 32 * n + part) for part in range(32)) for n in range(256)),
    "many **": within("**/" + "a/**/" * 14 + f"x{number}" for number in range(256)),
    "many ?": within(f"**/{NAMES[number % 31]}/" + "?/" * 28 + "b" for number in range(256)),
    "many names": within(f"**/{name}/b" for name in NAMES[20:52]),
    "many *": within("**/" + "*a" * 28 + f"*{end}*" for end in ENDS),
    "long names": within("**/*" + "a" * 58 + f"{end}*" for end in ENDS),
}
PATHS = {
    "a": "/".join("a" * 2048),
    "long": "/".join(["a" * 255] * 16),
    "random": "/".join(
        random.Random(1).choice(NAMES).strip("?*") + random.Random(n).choice(LETTERS) for n in range(1365)
    ),
    "different": "/".join(one + other for one in LETTERS for other in LETTERS)[:4096],
    "one": "a" * 4096,
}


@pytest.mark.parametrize("kind", [Globs, Excluded])
@pytest.mark.parametrize("name", WORST)
def test_globs_at_their_limits_cost_little(name, kind):
    check_globs(WORST[name])
    compiled = kind.of(WORST[name])
    for path in PATHS.values():
        assert not compiled.match(path)
        assert_cheap(lambda path=path: compiled.match("x/" + path))
    assert (
        sum(len(names) + len(open_ones) + len(ended) for names, open_ones, _, ended, _, _ in compiled._states.values())
        <= module._MOST_KEPT
    )
    module._compiled.cache_clear()
    module._compiled_to_exclude.cache_clear()
    assert peak_bytes(lambda: kind.of(WORST[name]).match(PATHS["random"])) < 8 * 2**20


# The presets


WANTED = Globs.of(tuple(glob for preset in PRESETS.values() for glob in preset.globs))


def test_no_preset_walks_the_repository():
    for preset in PRESETS.values():
        for glob in (*preset.globs, *preset.user_globs):
            first, *rest = glob.split("/")
            assert not rest or not set(first) & set("*?["), glob
        assert set(preset.nested) <= set(preset.globs)
    assert WANTED.leads("src") is None
    assert WANTED.leads(".claude/rules/a") == "near"


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
        ".roo/rules-architect/a.txt",
        ".roorules-code",
        ".kilocode/rules-code/a.md",
        ".claude/agent-memory/reviewer/MEMORY.md",
        ".claude/agent-memory-local/reviewer/patterns.md",
        ".claude/skills/pdf/reference/forms.md",
        ".goosehints",
        ".goose/memory/style.txt",
        ".augment/rules/a.md",
        ".augment-guidelines",
        ".windsurf/workflows/release.md",
        ".codex/prompts/review.md",
        ".opencode/agent/reviewer.md",
        ".trae/rules/project_rules.md",
        ".continue/rules/a.md",
        ".rules",
        "CONVENTIONS.md",
        "SOUL.md",
        "memory/2026-11-30.md",
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
    ("name", "tool"),
    [
        (".CLAUDE.md.atlas-0011", "AtlasEngine"),
        ("CLAUDE.md.tmp.12.1764500000000", "Claude Code"),
        ("CLAUDE.md.tmp.12.9f3ab2c4d5e6", "Claude Code"),
        ("CLAUDE.md~", "Vim"),
        (".CLAUDE.md.swp", "Vim"),
        ("#NOTES.md#", "Emacs"),
        (".#NOTES.md", "Emacs"),
        ("._NOTES.md", "macOS"),
        (".goutputstream-X1Y2Z3", "GNOME"),
        ("NOTES.md___jb_tmp___", "JetBrains"),
        (".~lock.NOTES.md#", "LibreOffice"),
        (".syncthing.NOTES.md.tmp", "Syncthing"),
    ],
)
def test_temporary_names_are_those_of_tools(name, tool):
    assert temporary_of(name) == tool
    assert set(TEMPORARY) >= {tool}


@pytest.mark.parametrize(
    "name", ["plan.tmp.v2.md", "a.tmp.md", "notes.tmp.1.md", "_index.md", "a~b.md", "#1.md", "swp.md", ".rules", "~.md"]
)
def test_names_of_people_are_not_temporary(name):
    assert temporary_of(name) is None
