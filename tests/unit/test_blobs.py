"""Keyframes and deltas, without a database."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_sdk.errors import ContentMissing, IntegrityFailure
from atlas_sdk.model.blobs import Blob, assemble, encode, sha256_of


def put(content: bytes, base: tuple[Blob, bytes] | None = None) -> Blob:
    if base is None:
        return encode(content, sha256=sha256_of(content))
    return encode(content, sha256=sha256_of(content), base=base[0], base_content=base[1])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=400), min_size=1, max_size=12))
def test_any_chain_reads_back(contents: list[bytes]) -> None:
    chain: list[Blob] = []
    head: tuple[Blob, bytes] | None = None
    for content in contents:
        blob = put(content, head)
        chain = [blob, *(chain if blob.depth else [])]
        assert assemble(chain, path="x") == content
        head = (blob, content)


def test_an_edit_costs_little() -> None:
    text = random.Random(7).randbytes(10_000).hex().encode()
    first = put(text)
    second = put(text[:5000] + b"one line more\n" + text[5000:], (first, text))
    assert first.data is not None
    assert second.data is not None
    assert second.depth == 1
    assert len(second.data) < 60 < len(first.data)


def test_unrelated_content_starts_a_chain_of_its_own() -> None:
    numbers = random.Random(8)
    old, new = numbers.randbytes(5000), numbers.randbytes(5000)
    assert put(new, (put(old), old)).depth == 0


def test_incompressible_content_is_kept_raw() -> None:
    content = random.Random(9).randbytes(1000)
    blob = put(content)
    assert blob.data == b"\x00" + content


def test_a_version_over_the_limit_says_so() -> None:
    with pytest.raises(ContentMissing, match="9,000,000 bytes"):
        assemble([Blob.absent(b"\x00" * 32, 9_000_000)], path="CLAUDE.md")


@pytest.mark.parametrize("damage", ["flip", "cut", "form", "base"])
def test_damage_is_found(damage: str) -> None:
    text = b"the rules of the house\n" * 40
    first = put(text)
    second = put(text + b"and one more\n", (first, text))
    assert first.data is not None
    assert second.data is not None
    data = {
        "flip": second.data[:-6] + bytes([second.data[-6] ^ 1]) + second.data[-5:],
        "cut": second.data[:-2],
        "form": b"\x09" + second.data[1:],
        "base": second.data,
    }[damage]
    base = first if damage != "base" else put(text.replace(b"house", b"horse"))
    broken = Blob(sha256=second.sha256, size=second.size, depth=1, base_sha256=first.sha256, data=data)
    with pytest.raises(IntegrityFailure, match="memory.verify"):
        assemble([broken, base], path="CLAUDE.md")
