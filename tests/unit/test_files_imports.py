"""What an instruction file imports belongs to it."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sdk.files.imports import follow, mentions


def put(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_md", ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def followed(root, *paths, **options):
    return follow(root, paths or ("CLAUDE.md",), **{"limit_bytes": 2**20, **options})


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
    assert mentions(text) == found


def test_mentions_are_found_in_linear_time():
    before = time.process_time()
    for text in ("`a``" * 200_000, "@a " * 200_000, "@\\ " * 200_000, "```\n" * 200_000, "`" * 500_000 + " " * 500_000):
        mentions(text)
    assert time.process_time() - before < 10


@given(st.text(alphabet="`~@a.\n \\", max_size=60))
def test_any_text_can_be_searched(text):
    assert all("`" not in found for found in mentions(text))


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
