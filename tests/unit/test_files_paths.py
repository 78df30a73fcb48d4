"""Names of paths: on disk, in the database and on a terminal."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from atlas_sdk.errors import InvalidInput, OutsideProject
from atlas_sdk.files import from_text, printable, relative_path, to_text
from atlas_sdk.files.paths import real_path

ROOT = Path("/home/someone/project")

names = st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("CLAUDE.md", "CLAUDE.md"),
        ("./CLAUDE.md", "CLAUDE.md"),
        ("docs//memory/./a.md", "docs/memory/a.md"),
        ("docs/../CLAUDE.md", "CLAUDE.md"),
        ("/home/someone/project/.claude/CLAUDE.md", ".claude/CLAUDE.md"),
        ("//home/someone/project/a.md", "a.md"),
        ("/home/someone/../someone/project/a.md", "a.md"),
        (Path("notes/a.md"), "notes/a.md"),
        ("a\nb.md", "a\nb.md"),
        ("...", "..."),
    ],
)
def test_typed_path_is_normalised(given, path):
    assert relative_path(ROOT, given) == path


@pytest.mark.parametrize(
    "given", ["..", "../other/CLAUDE.md", "docs/../../x", "/etc/passwd", "/home/someone/project2/a.md", "/"]
)
def test_path_that_leaves_the_project_is_refused(given):
    with pytest.raises(OutsideProject):
        relative_path(ROOT, given)


@pytest.mark.parametrize("given", ["", ".", "./", "docs/..", "/home/someone/project", "a\0b.md", "a\ud800.md"])
def test_path_that_names_no_file_is_invalid(given):
    with pytest.raises(InvalidInput) as caught:
        relative_path(ROOT, given)
    assert caught.value.field == "path"


def test_absolute_path_through_another_name_of_the_project(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "alias").symlink_to(real)
    assert relative_path(real, tmp_path / "alias" / "docs" / "a.md") == "docs/a.md"
    assert relative_path(tmp_path / "alias", real / "a.md") == "a.md"
    with pytest.raises(OutsideProject):
        relative_path(tmp_path / "alias", tmp_path / "a.md")


def test_surrogates_that_form_a_character_become_the_character():
    assert relative_path(ROOT, "caf\udcc3\udca9.md") == "café.md"


@given(names)
@example(b"\\xff")
@example(b"\\\\\xff\n")
@example(b"\xed\xa0\x80")
def test_every_name_survives_the_database(raw):
    path = os.fsdecode(raw)
    text = to_text(path)
    text.encode("utf-8")
    assert from_text(text) == path


@given(names, names)
def test_two_names_never_share_a_text(one, other):
    assume(one != other)
    assert to_text(os.fsdecode(one)) != to_text(os.fsdecode(other))
    assert printable(os.fsdecode(one)) != printable(os.fsdecode(other))


@given(st.text())
def test_text_is_a_path_or_refused(text):
    try:
        path = from_text(text)
    except InvalidInput:
        return
    assert to_text(path) == text


def test_text_reads_as_the_path_where_it_can():
    assert to_text("docs/naïve\n.md") == "docs/naïve\n.md"
    assert to_text(os.fsdecode(b"a\\b\xff")) == r"a\\b\xff"


@pytest.mark.parametrize("text", ["\\", r"\q", r"\x4", r"\xZZ", r"\x41", r"\xFF", "\ud800", "\\x00", "a\0b"])
def test_text_that_no_path_has_is_refused(text):
    with pytest.raises(InvalidInput):
        from_text(text)


def test_nul_has_no_text():
    with pytest.raises(InvalidInput):
        to_text("a\0b")


@given(st.text(alphabet=st.characters()) | names.map(os.fsdecode))
@example("\ud800\udc80")
def test_printable_is_one_harmless_line(path):
    shown = printable(path)
    assert shown.isprintable()
    assert "\n" not in shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("docs/naïve 文.md", "docs/naïve 文.md"),
        ("a\nb\x1b[2J", r"a\nb\x1b[2J"),
        ("gpj.\u202etxt", r"gpj.\u202etxt"),
        ("a\u2066b\u2028\u0085", r"a\u2066b\u2028\u0085"),
        (os.fsdecode(b"\xff"), r"\xff"),
        ("\U000e0001", r"\U000e0001"),
        (r"a\x1b", r"a\\x1b"),
    ],
)
def test_dangerous_characters_are_escaped(path, shown):
    assert printable(path) == shown


def test_a_link_that_is_replaced_while_a_path_is_resolved_is_looked_at_again(monkeypatch):
    answers = [OSError(errno.EINVAL, "swapped"), OSError(errno.EINVAL, "swapped"), "/real"]

    def realpath(_):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(os.path, "realpath", realpath)
    assert real_path("/link") == "/real"
