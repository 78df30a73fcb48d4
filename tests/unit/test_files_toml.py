"""Settings that an attacker wrote are always read or refused in a sentence, in a short time."""

import time
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_sdk.errors import InvalidInput
from atlas_sdk.files.toml import LIMIT_BYTES, parse_toml
from atlas_sdk.text import visible

#: The most seconds of CPU time that one of these texts may take. Most of them take a hundredth of it.
_MOST_S = 1.0


def test_good_settings_are_read_as_tomllib_reads_them():
    text = (
        '[track]\ninclude = ["docs/**/*.md", \'a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s\']\n# [[[[ a.a.a\n"a.b".c = 1.5\n'
    )
    assert parse_toml(text.encode(), name="x") == tomllib.loads(text)
    assert parse_toml(b"", name="x") == {}


def _said(raw: bytes) -> str:
    """Return the sentence of a refusal, or an empty text for settings that can be read."""
    try:
        parse_toml(raw, name="x")
    except InvalidInput as exc:
        return str(exc)
    return ""


def _filled(piece: str, before: str = "", after: str = "") -> bytes:
    return (before + piece * ((LIMIT_BYTES - len(before + after)) // len(piece)) + after).encode()


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"#" * (LIMIT_BYTES + 1), "x is larger than 65,536 bytes"),
        (b"\xff", "x is not TOML: byte 0 is not UTF-8"),
        (b"x = ", "x is not TOML: Invalid value (at end of document)"),
        (b"a = 1\na = 2\n", "x is not TOML: Cannot overwrite a value"),
        (b"x=" + b"[" * 5000 + b"]" * 5000, "x has more than 64 of the sign ["),
        (b"x=" + b"{a=" * 5000, "x has more than 64 of the sign {"),
        (_filled("a.", "[", "a]"), "x has more than 64 of the sign ."),
        (_filled("a . ", "[", "a]"), "x has more than 64 of the sign ."),
        (_filled('"a".', after="a=1"), "x has more than 64 of the sign ."),
        (_filled("a.", "x={", "a=1}"), "x has more than 64 of the sign ."),
        (_filled("9", "x="), "x is not TOML: a value in it is too long"),
        (b"x=1\n" * 2, "x is not TOML: Cannot overwrite a value"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(raw, sentence):
    with pytest.raises(InvalidInput) as caught:
        parse_toml(raw, name="x")
    assert str(caught.value).startswith(sentence)
    assert caught.value.field == "x"


@pytest.mark.parametrize(
    "raw",
    [
        _filled("a.", "[", "a]"),
        _filled("[a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p]\n"),
        _filled("[[a]]\n"),
        _filled("x={", "x="),
        _filled("[", "x="),
        _filled('"""'),
        _filled("'''\n"),
        _filled('"\\'),
        _filled('"\\', '"""'),
        _filled('\\"""', '"""', "\\"),
        _filled('"'),
        _filled("'"),
        _filled("\\\n", '"'),
        _filled("a.b.c.d=1\n", "[a.b.c.d.e.f.g.h]\n"),
        _filled("1,", "x=[", "]"),
        _filled("9"),
        _filled("9", "x=1."),
        _filled("[a]\n"),
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_no_text_takes_long(raw):
    began = time.process_time()
    assert len(_said(raw)) < 300
    assert time.process_time() - began < _MOST_S


_PIECES = st.sampled_from(
    [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        '"',
        "'",
        '"""',
        "'''",
        "\\",
        "#",
        "a",
        "track",
        "\u202e",
        "1e9",
        "\x1b",
    ]
)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=300), st.lists(_PIECES, max_size=60).map(lambda found: "".join(found).encode())))
def test_any_bytes_are_a_table_or_a_sentence(raw):
    said = _said(raw)
    assert said == visible(said)
    assert len(said) < 300


def test_a_key_of_the_file_is_shown_cut_and_printable():
    raw = f'["{"k" * 5000}\u202e"]\n["{"k" * 5000}\u202e"]\n'.encode()
    with pytest.raises(InvalidInput) as caught:
        parse_toml(raw, name="x")
    assert len(str(caught.value)) < 300
    assert "\u202e" not in str(caught.value)
