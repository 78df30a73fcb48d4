"""The folders that git ignores, compared with git itself."""

import random
import shutil
import subprocess

import pytest
from cost import assert_cheap

from atlas_sdk.files.gitignore import decide, parse_rules, read_rules


def rules(text, *, base=""):
    found = parse_rules(text.encode(), file=f"{base}/.gitignore".lstrip("/"), base=base)
    return () if found is None else (found,)


def is_ignored(text, folder):
    """Return whether a folder or one above it is ignored."""
    parts = folder.split("/")
    return any(decide(rules(text), "/".join(parts[:count])) for count in range(1, len(parts) + 1))


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("dist\n", ["dist", "a/dist", "a/dist/b"], ["dist2", "a"]),
        ("dist/\n", ["dist", "a/dist"], ["a"]),
        ("/dist\n", ["dist"], ["a/dist"]),
        ("a/b\n", ["a/b"], ["x/a/b", "a"]),
        ("a/*\n!a/keep\n", ["a/x"], ["a", "a/keep"]),
        ("*\n!src/\n!src/**\n", ["docs"], ["src", "src/a/b"]),
        ("a/**/b\n", ["a/b", "a/x/y/b"], ["b", "a"]),
        ("a/**\n", ["a/x", "a/x/y"], ["a"]),
        ("**/gen\n", ["gen", "a/gen"], ["a"]),
        ("# dist\n\n   \n", [], ["dist", "#"]),
        ("\\#a\n\\!b\n", ["#a", "!b"], ["a", "b"]),
        ("a\\ \nb  \n", ["a ", "b"], ["a", "b  "]),
        ("a\\*\n", ["a*"], ["ab"]),
        ("[ab]?x\r\n", ["acx", "bdx"], ["cdx"]),
        ("[^a]\n[!b]c\n", ["b", "ac"], ["a", "bc"]),
        ("\ufeffdist\n", ["dist"], ["a"]),
        # These cannot be expressed, so they ignore nothing.
        ("[[:alpha:]]\n[z-a]\na[\nb\\\n", [], ["a", "b", "a["]),
        ("node_modules\n!node_modules\n", [], ["node_modules"]),
    ],
)
def test_rules(text, yes, no):
    assert [folder for folder in yes if not is_ignored(text, folder)] == []
    assert [folder for folder in no if is_ignored(text, folder)] == []


def test_inner_file_wins_and_the_rule_is_named():
    ignores = (*rules("build\ngen\n"), *rules("!build\n/out\n", base="a"))
    assert decide(ignores, "a/build") is None
    assert decide(ignores[:1], "a/build") is not None
    ignore, rule = decide(ignores, "a/out")
    assert (ignore.file, rule.text, rule.line) == ("a/.gitignore", "/out", 2)
    ignore, rule = decide(ignores, "a/gen")
    assert (ignore.file, rule.text, rule.line) == (".gitignore", "gen", 2)


PARTS = ["a", "b", "ab", "*", "**", "a*", "?", "[ab]", "[!a]", "*b"]


def random_rules(seed):
    source = random.Random(seed)
    lines = []
    for _ in range(source.randint(1, 6)):
        body = "/".join(source.choices(PARTS, k=source.randint(1, 3)))
        lines.append(source.choice(["", "", "!"]) + source.choice(["", "/"]) + body + source.choice(["", "/"]))
    return "\n".join(lines) + "\n"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_same_folders_as_git(tmp_path):
    folders = [f"{one}/{two}/{three}" for one in ("a", "b", "ab") for two in ("a", "b", "c") for three in ("ab", "c")]
    asked = sorted({"/".join(path.split("/")[:count]) for path in folders for count in (1, 2, 3)})
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for path in folders:
        (tmp_path / path).mkdir(parents=True)
    for seed in range(60):
        text = random_rules(seed)
        (tmp_path / ".gitignore").write_text(text)
        done = subprocess.run(
            ["git", "-C", tmp_path, "-c", "core.excludesFile=", "check-ignore", "--no-index", "--stdin"],
            input="".join(f"{path}\n" for path in asked),
            capture_output=True,
            text=True,
        )
        assert done.returncode in {0, 1}, done.stderr
        expected = set(done.stdout.splitlines())
        assert {path for path in asked if is_ignored(text, path)} == expected, text


def test_hostile_rules_cost_little():
    text = "".join(f"{'*a' * 40}{number}\n" for number in range(1_000))
    found = parse_rules(text.encode(), file=".gitignore", base="")
    assert found is not None
    assert_cheap(lambda: parse_rules(text.encode(), file=".gitignore", base=""))
    assert_cheap(lambda: found.find("a" * 255))


def test_rules_beyond_the_limits_ignore_nothing():
    text = "a" * 600 + "\n" + "".join(f"x{number}\n" for number in range(1_100))
    assert not is_ignored(text, "a" * 600)
    assert is_ignored(text, "x999")
    assert not is_ignored(text, "x1000")


def test_file_that_is_no_regular_file_is_not_read(tmp_path):
    import os

    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "real").write_text("a\n")
    (tmp_path / "link").symlink_to("real")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        found = {
            name: read_rules(folder, name, file=name, base="") is not None for name in ("real", "fifo", "link", "gone")
        }
    finally:
        os.close(folder)
    assert found == {"real": True, "fifo": False, "link": False, "gone": False}
