"""An e-mail address has one stored form, however it is typed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sdk import InvalidInput
from atlas_sdk.ops.emails import find_address, normal_address

NFD_BUECHER = unicodedata.normalize("NFD", "bücher")


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        (" Ada@Example.COM\n", "ada@example.com"),
        ("a_b+c@sub_domain.example", "a_b+c@sub_domain.example"),
        ("ada@[127.0.0.1]", "ada@[127.0.0.1]"),
        # NFC, NFD, upper case and the form of the DNS are one domain.
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        (f"ada@{NFD_BUECHER}.example", "ada@xn--bcher-kva.example"),
        ("ada@BÜCHER.example", "ada@xn--bcher-kva.example"),
        ("ada@XN--BCHER-KVA.example", "ada@xn--bcher-kva.example"),
        ("ada@bücher。example", "ada@xn--bcher-kva.example"),
        # The Kelvin sign is the letter K in a domain, as in a browser. Full-width letters are letters.
        ("ada@\N{KELVIN SIGN}elvin.example", "ada@kelvin.example"),
        ("ada@\N{FULLWIDTH LATIN SMALL LETTER E}x\N{FULLWIDTH FULL STOP}example", "ada@ex.example"),
        # IDNA 2008 keeps these two apart from "fass.de" and "xn--pxavbq.gr".
        ("ada@faß.de", "ada@xn--fa-hia.de"),
        ("ada@οδος.gr", "ada@xn--pxavbm.gr"),
        ("ada@ΟΔΟΣ.gr", "ada@xn--pxavbq.gr"),
        ("JOSÉ@example.com", "josé@example.com"),
        (unicodedata.normalize("NFD", "José@example.com"), "josé@example.com"),
        ("x" * 64 + "@y", "x" * 64 + "@y"),
        ("a@" + "b" * 63, "a@" + "b" * 63),
    ],
)
def test_an_address_has_one_form(typed: str, stored: str) -> None:
    assert normal_address(typed) == stored
    assert normal_address(stored) == stored


@pytest.mark.parametrize(
    "typed",
    [
        *("", "ada", "@x", "ada@", "a b@x", "a@b@c", "a@b c", "a\N{ZERO WIDTH SPACE}@x", "a@x..y", "a@x.", "a@.x"),
        *("x" * 65 + "@y", "é" * 33 + "@y", "a@" + "b" * 64, "a@" + "ü" * 60, "a@" + "b.b" * 86),
        # NFKC makes other signs of these: "a/c", "(1)", "@".
        *("a@\N{ACCOUNT OF}.example", "a@\N{PARENTHESIZED DIGIT ONE}.example", "a@x\N{FULLWIDTH COMMERCIAL AT}y"),
        # Another mail server may take them for other mailboxes than "mike", "sam" and "ada".
        *(
            "mi\N{KELVIN SIGN}e@x.example",
            "\N{LATIN SMALL LETTER LONG S}am@x.example",
            "\N{FULLWIDTH LATIN SMALL LETTER A}da@x.example",
        ),
    ],
)
def test_a_text_that_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        normal_address(typed)
    assert refused.value.field == "email"
    assert find_address(typed) is None


#: Texts without spaces, most of which are parts of an address.
PARTS = st.text(st.characters(min_codepoint=0x21, exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(PARTS, PARTS)
def test_the_form_of_a_form_is_itself(local: str, domain: str) -> None:
    stored = find_address(f"{local}@{domain}")
    if stored is not None:
        assert normal_address(stored) == stored
        assert unicodedata.is_normalized("NFKC", stored)
        assert stored.rpartition("@")[2].isascii()
        # No address outside of ASCII becomes one of the mailboxes that ASCII can write.
        assert stored.partition("@")[0].isascii() == local.isascii()
