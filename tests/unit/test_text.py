"""Untrusted text made fit to be shown: without hidden characters, and with a limited length."""

import pickle
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sdk.errors import FileProblem, InvalidInput, NotAProject, NotFound
from atlas_sdk.model.attribution import Attribution
from atlas_sdk.names import checkpoint_name
from atlas_sdk.text import cut, digits, named, printable, quoted, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve, 日本語, \u3000, עברית, \ue0b0", None),
        ("❤\ufe0f", None),
        ("a\ufe0f", "a\\ufe0f"),
        ("❤\ufe0f\ufe0f", "❤\ufe0f\\ufe0f"),
        ("a\U000e0101", "a\\U000e0101"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("zero\u200bwidth\u200d", "zero\\u200bwidth\\u200d"),
        ("\ufeffbom\ufeff", "\\ufeffbom\\ufeff"),
        ("\U000e0041\U000e007f", "\\U000e0041\\U000e007f"),
        ("\x1b[2J\x9b2J\x07", "\\x1b[2J\\u009b2J\\x07"),
        ("soft\xadhyphen \u3164 \u115f", "soft\\u00adhyphen \\u3164 \\u115f"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("byte \udce9, half \ud800", "byte \\xe9, half \\ud800"),
        ("back\\slash", None),
    ],
)
def test_what_hides_is_shown_and_the_rest_stays(text, shown):
    assert visible(text) == (text if shown is None else shown)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (Decimal("1E-9"), "0.000000001"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.10"), "0.10"),
        (-5, "-5"),
        ("2e-3", "0.002"),
        ("NaN", "NaN"),
        ("1e1000000", "1E+1000000"),
    ],
)
def test_numbers_have_no_exponent_if_they_are_short(amount, shown):
    assert digits(amount) == shown


def test_a_long_number_is_cut():
    assert len(digits(10**5000)) == 40


def test_line_ends_stay_where_they_are_wanted():
    assert visible("a\n\tb\r\n", keep="\n\t") == "a\n\tb\\r\n"
    assert visible("a\n\tb") == "a\\n\\tb"


@given(st.text())
def test_nothing_that_a_terminal_obeys_or_leaves_out_is_left(text):
    for shown in (visible(text), printable(text), quoted(text), named(text)):
        assert {unicodedata.category(letter) for letter in shown} & {"Cc", "Cs", "Zl", "Zp"} == set()
        assert not set(shown) & {
            chr(code) for code in (*range(0x200B, 0x2010), *range(0x202A, 0x202F), 0xFEFF, 0xE0041)
        }
        assert shown.encode().decode() == shown


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_paths_never_look_the_same(one, other):
    assert (printable(one) == printable(other)) == (one == other)


def test_a_variation_selector_in_a_path_is_an_escape():
    assert printable("a\ufe0f.md") == "a\\ufe0f.md"


def test_what_is_long_is_cut_in_its_middle():
    assert cut("x" * 200) == "x" * 200
    assert cut("ab" * 500) == "ab" * 50 + "…" + ("ab" * 500)[-99:]
    assert len(cut("x" * 10**6)) == 200
    assert len(quoted("\n" * 10**6)) <= 200
    assert len(named("\u202e" * 10**6)) == 200
    assert quoted(12) == "12"


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("a\nforged line\x1b[2J", field="x"),
        NotFound("a\nforged line\x1b[2J", kind="x", name="a\n"),
        FileProblem("a\nforged line\x1b[2J", path="a\n"),
        NotAProject("a\nforged line\x1b[2J"),
    ],
)
def test_a_sentence_of_ours_is_one_line(error):
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert "\n" not in str(one)
        assert "\x1b" not in str(one)
        assert str(one).startswith("a\\n")
    # The fields are for programs, so they keep the name unchanged.
    assert getattr(error, "name", "a\n").startswith("a\n")


def test_a_sentence_of_ours_has_an_end():
    assert len(str(InvalidInput("x" * 10**6, field="x"))) == 1_000
    assert len(str(NotAProject("/x" * 10**6))) < 500


@pytest.mark.parametrize(
    "name", ["x" * 201, "x" * 10**6, "a\u202eb", "a\x1b[m", "a\U000e0041", "a\ufe0f", "\udce9", " a"]
)
def test_a_name_that_hides_something_or_never_ends_is_none_for_a_checkpoint(name):
    with pytest.raises(InvalidInput, match="no name for a checkpoint") as caught:
        checkpoint_name(name)
    assert len(str(caught.value)) < 320
    assert checkpoint_name("vor der Änderung ❤\ufe0f") == "vor der Änderung ❤\ufe0f"


def test_what_an_agent_says_of_itself_is_cut():
    told = Attribution(tool="x" * 10**6, agent_session="y" * 201, login="ada")
    assert (len(told.tool), len(told.agent_session), told.login) == (200, 200, "ada")
