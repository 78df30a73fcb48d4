"""Files that an instruction file imports are tracked with it."""

import os
import re
from collections import deque

import pytest
from cost import assert_cheap, peak_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from importing import followed, found

from atlas_sdk.files import Tracking, imports
from atlas_sdk.files.imports import mentions


def put(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_md", ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@README.md", ["README.md"]),
        ("See @docs/a.md and @b.md.", ["docs/a.md", "b.md."]),
        ("- (@a.md)\n@./b.md", ["a.md)", "./b.md"]),
        ("@a\\ b.md", ["a b.md"]),
        ("mail me@example.org", []),
        ("`@a.md` and ``x ` @b.md`` @c.md", ["c.md"]),
        ("an unpaired ` tick @a.md", ["a.md"]),
        ("one ` tick\n\nanother ` tick @a.md", ["a.md"]),
        ("`two\nlines @a.md` @b.md", ["b.md"]),
        ("```\n@a.md\n```\n@b.md", ["b.md"]),
        ("~~~md\n@a.md\n```\n@b.md\n~~~~\n@c.md", ["c.md"]),
        ("````\n```\n@a.md\n````\n@b.md", ["b.md"]),
        ("```\nnever closed @a.md", []),
        ("- item\n  ```py\n  @decorator\n  ```\n", []),
        ("```inline``` @a.md", ["a.md"]),
    ],
)
def test_mentions_outside_code(text, found):
    assert list(mentions(text)) == found


#: Texts that made the search slow or large, or could do so; each is repeated up to a MiB.
HOSTILE = {
    "ticks": "@a `",
    "spans": "@`a``",
    "runs of ticks": "@a ` ",
    "lines": "@\n",
    "paragraphs": "@a\n\n",
    "paragraphs with spans": "`x`@a\n\n",
    "paragraphs with long ticks": "``x``@a\n\n",
    "mentions": "@a ",
    "mentions in brackets": " @(",
    "one mention": "@",
    "brackets": "(@",
    "escaped spaces": "@\\ ",
    "backslashes": "@\\",
    "fences": "```\n",
    "other fences": "~~~\n",
    "quotes": "\n>",
    "quoted": " > ",
    "indented": "\n  ",
    "blank lines": "    \n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_searching_hostile_text_takes_time_and_memory_in_proportion(name):
    """128 KiB take less than 150 ms of a quiet core and 6 MB, because no step backtracks or is quadratic."""
    for start in ("", "@`"):
        text = (start + HOSTILE[name] * 2**17)[: 2**17]
        assert_cheap(lambda text=text: deque(mentions(text), maxlen=0), share=1.5)
        assert peak_bytes(lambda text=text: deque(mentions(text), maxlen=0)) < 6 * 2**20


def test_runs_of_ticks_of_all_lengths():
    text = "@a " + " ".join("`" * count for count in range(500))
    assert_cheap(lambda: deque(mentions(text), maxlen=0), share=1.5)


def line_by_line(text):
    """Find mentions in a slow way: fences line by line, then spans paragraph by paragraph, from left to right."""
    kept, fence = [], ""
    for line in text.split("\n"):
        found = re.match(r"[ \t>]*(`{3,}|~{3,})(.*)", line)
        if fence:
            if found and found[1].startswith(fence) and not found[2].strip():
                fence = ""
        elif found and not (found[1][0] == "`" and "`" in found[2]):
            fence = found[1]
            kept.append("")
        else:
            kept.append(line)
    names = []
    for paragraph in re.split(r"\n[ \t]*\n", "\n".join(kept)):
        pieces = re.split(r"(`+)", paragraph)
        text = ""
        while pieces:
            piece = pieces.pop(0)
            if piece.startswith("`") and piece in pieces:
                text += "\ufffd"
                pieces = pieces[pieces.index(piece) + 1 :]
            else:
                text += piece
        names += [
            found[1].replace("\\ ", " ")
            for found in re.finditer(r"""(?:^|(?<=[\s("'\[]))@((?:\\[ ]|[^\s\\`])+)""", text)
        ]
    return names


@settings(max_examples=400)
@given(st.text(alphabet="`~@a.\n \\", max_size=60))
def test_any_text_can_be_searched(text):
    assert all("`" not in found for found in mentions(text))
    assert list(mentions(text)) == line_by_line(text)


def test_imports_are_relative_to_the_file_that_names_them(tmp_path):
    put(tmp_path, CLAUDE_md="@docs/a.md", docs__a_md="@b.md @../c.md", docs__b_md="", c_md="", b_md="not this one")
    assert followed(tmp_path) == ["c.md", "docs/a.md", "docs/b.md"]


def test_sentences_end_but_names_may_too(tmp_path):
    put(tmp_path, CLAUDE_md="Read @a.md, (@b.md) and @c.md#part! *@d.md*", a_md="", b_md="", c_md="", d_md="")
    assert followed(tmp_path) == ["a.md", "b.md", "c.md"]


def test_imports_go_five_files_deep(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.md").write_text(f"@{number + 1}.md")
    assert followed(tmp_path, "0.md") == ["1.md", "2.md", "3.md", "4.md", "5.md"]


def test_cycles_end(tmp_path):
    put(tmp_path, CLAUDE_md="@a.md @CLAUDE.md", a_md="@CLAUDE.md @a.md @b.md", b_md="@a.md")
    assert followed(tmp_path) == ["a.md", "b.md"]


def test_paths_out_of_the_project_are_left_alone(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "secret.md").write_text("")
    (root / "~").mkdir()
    (root / "~" / "x.md").write_text("")
    (root / "link.md").symlink_to("../secret.md")
    (root / "out").symlink_to("..")
    put(
        root,
        CLAUDE_md=f"@~/x.md @../secret.md @/etc/hosts @{tmp_path}/secret.md @link.md @out/secret.md @a.md",
        a_md="",
    )
    assert followed(root) == ["a.md"]


def test_absolute_import_inside_the_project(tmp_path):
    put(tmp_path, CLAUDE_md=f"@{tmp_path}/docs/a.md", docs__a_md="")
    assert followed(tmp_path) == ["docs/a.md"]


def test_import_through_a_folder_symlink_has_its_real_name(tmp_path):
    put(tmp_path, CLAUDE_md="@docs/a.md", real__a_md="")
    (tmp_path / "docs").symlink_to("real")
    assert followed(tmp_path) == ["real/a.md"]


def test_only_texts_of_the_project_are_imported(tmp_path):
    put(tmp_path, CLAUDE_md="@main.py @data.bin @Makefile @a.MD @.env @.git/config @docs @fifo.md @property @a@b.md")
    for name in ("main.py", "data.bin", "Makefile", "a.MD", ".env"):
        (tmp_path / name).write_text("")
    put(tmp_path, docs__x="")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("")
    os.mkfifo(tmp_path / "fifo.md")
    assert followed(tmp_path) == ["Makefile", "a.MD"]


def test_large_and_binary_files_are_not_followed(tmp_path):
    put(tmp_path, CLAUDE_md="@large.md @binary.md", large_md="@a.md" + " " * 100, a_md="", b_md="")
    (tmp_path / "binary.md").write_bytes(b"\0 @b.md")
    assert followed(tmp_path, limit_bytes=50) == ["binary.md"]


def test_import_that_is_not_allowed_is_not_followed(tmp_path):
    put(tmp_path, CLAUDE_md="@a.md @b.md", a_md="@c.md", b_md="", c_md="")
    assert followed(tmp_path, allows=lambda path: path != "a.md") == ["b.md"]


def test_names_that_are_not_utf8_are_followed(tmp_path):
    (tmp_path / "CLAUDE.md").write_bytes(b"@caf\xe9.md\n")
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("")
    assert followed(tmp_path) == [os.fsdecode(b"caf\xe9.md")]


def test_file_that_is_gone_imports_nothing(tmp_path):
    assert followed(tmp_path) == []


# Limits


def test_mentions_beyond_the_limit_of_a_file_are_left_out_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "_MOST_NAMES_OF_A_FILE", 5)
    put(
        tmp_path,
        CLAUDE_md="@a.md @b.md @a.md @docs/c.md @d.md @e.md",
        a_md="",
        b_md="",
        docs__c_md="",
        d_md="",
        e_md="",
    )
    some = found(tmp_path)
    assert some.paths == ("a.md", "b.md", "d.md", "docs/c.md")
    assert some.left_out.startswith("CLAUDE.md: it mentions more than 5 names with @")
    assert "write in backticks what is no import" in some.left_out


def test_names_that_were_looked_up_once_cost_nothing_again(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "_MOST_NAMES", 3)
    put(
        tmp_path,
        CLAUDE_md="@a.md @b.md @c.md",
        AGENTS_md="@a.md @b.md @c.md @a.md",
        a_md="@b.md",
        b_md="",
        c_md="@a.md",
    )
    assert followed(tmp_path, "CLAUDE.md", "AGENTS.md") == ["a.md", "b.md", "c.md"]
    put(tmp_path, c_md="@d.md", d_md="")
    some = found(tmp_path, "CLAUDE.md", "AGENTS.md")
    assert some.paths == ("a.md", "b.md", "c.md")
    assert some.left_out.startswith("c.md: ")


def test_files_beyond_the_limit_of_a_project_are_left_out_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "_MOST_FILES", 2)
    put(tmp_path, CLAUDE_md="@a.md @b.md", a_md="@c.md", b_md="", c_md="")
    some = found(tmp_path)
    assert some.paths == ("a.md", "b.md")
    assert some.left_out.startswith("a.md: the project imports more than 2 files")


def test_what_is_excluded_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "_MOST_FILES", 1)
    put(tmp_path, CLAUDE_md="@a.md @b.md", a_md="", b_md="")
    assert followed(tmp_path, allows=lambda path: path != "a.md") == ["b.md"]


def test_text_beyond_the_limits_is_not_searched_and_reported(tmp_path, monkeypatch):
    put(tmp_path, CLAUDE_md="@a.md" + " " * 95, AGENTS_md="@b.md" + " " * 95, GEMINI_md="x" * 1000, a_md="", b_md="")
    start = ("AGENTS.md", "CLAUDE.md", "GEMINI.md")
    assert followed(tmp_path, *start) == ["a.md", "b.md"]
    monkeypatch.setattr(imports, "_MOST_TEXT", 199)
    some = found(tmp_path, *start)
    assert some.paths == ("b.md",)
    assert some.left_out.startswith("CLAUDE.md: there are more than 199 bytes of text with @")
    monkeypatch.setattr(imports, "_MOST_TEXT_OF_A_FILE", 99)
    some = found(tmp_path, *start)
    assert (some.paths, some.left_out.split(",")[0]) == ((), "AGENTS.md: it has more than 99 bytes")


def test_large_files_without_imports_are_no_matter(tmp_path):
    (tmp_path / "CLAUDE.md").write_bytes(b"x" * (imports._MOST_TEXT_OF_A_FILE + 1))
    assert followed(tmp_path) == []


def test_too_many_instruction_files_are_reported_and_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "_MOST_READ", 3 * imports._LEAST_READ)
    for number in range(5):
        (tmp_path / f"{number}.md").write_text(f"@{number}.txt")
        (tmp_path / f"{number}.txt").write_text("")
    some = found(tmp_path, *(f"{number}.md" for number in range(5)))
    assert some.paths == ("0.txt", "1.txt", "2.txt")
    assert some.left_out.startswith("3.md: ")


def test_file_over_the_size_limit_is_not_even_read(tmp_path):
    with (tmp_path / "CLAUDE.md").open("wb") as file:
        file.write(b"@a.md")
        file.truncate(2**40)
    assert_cheap(lambda: followed(tmp_path))


@pytest.mark.parametrize("limit", ["_MOST_FILES", "_MOST_NAMES", "_MOST_NAMES_OF_A_FILE", "_MOST_TEXT", "_MOST_READ"])
def test_scan_lists_what_a_limit_left_out_for_the_project(tmp_path, monkeypatch, limit):
    put(tmp_path, CLAUDE_md="@a.md @b.md", a_md="", b_md="")
    assert Tracking().scan(tmp_path).skipped == ()
    monkeypatch.setattr(imports, limit, 1)
    scan = Tracking().scan(tmp_path)
    assert "CLAUDE.md" in scan.paths
    (one,) = scan.skipped
    assert one.path == ""
    assert one.reason.startswith("CLAUDE.md: ")
    assert "so its other @imports are not followed" in one.reason
