"""The cache of newest versions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from attrs import evolve

from atlas_sdk._heads import HeadCache
from atlas_sdk._shared_versions import SharedVersions
from atlas_sdk.model.memory import Head

USER = UUID(int=3)
PROJECT = UUID(int=1)
AT = datetime(2026, 11, 30, tzinfo=UTC)


def head(content: bytes) -> Head:
    return Head(snapshot_id=UUID(int=2), seq=1, sha256=b"x", mode=0o644, link=None, created_at=AT, content=content)


def test_the_least_recently_used_goes_first() -> None:
    heads = HeadCache(limit_bytes=25)
    heads.put((USER, PROJECT, "a"), head(b"x" * 10))
    heads.put((USER, PROJECT, "b"), head(b"x" * 10))
    assert heads.get((USER, PROJECT, "a")) is not None
    heads.put((USER, PROJECT, "c"), head(b"x" * 10))
    assert [path for (*_, path), _ in heads.learned()[0]] == ["a", "c"]


def test_replacing_and_dropping_keep_the_count_right() -> None:
    heads = HeadCache(limit_bytes=25)
    for _ in range(10):
        heads.put((USER, PROJECT, "a"), head(b"x" * 20))
    heads.drop((USER, PROJECT, "a"))
    heads.put((USER, PROJECT, "b"), head(b"x" * 24))
    assert heads.get((USER, PROJECT, "b")) is not None


def test_one_that_is_too_large_is_not_kept() -> None:
    heads = HeadCache(limit_bytes=25)
    heads.put((USER, PROJECT, "a"), head(b"x" * 26))
    assert heads.get((USER, PROJECT, "a")) is None
    heads.put((USER, PROJECT, "b"), head(b"x" * 20))
    assert heads.get((USER, PROJECT, "b")) is not None


def test_a_transaction_hands_over_what_it_learned() -> None:
    outer = HeadCache()
    inner = outer.begin()
    outer.put((USER, PROJECT, "a"), head(b"old"))
    inner.put((USER, PROJECT, "a"), head(b"new"))
    outer.adopt(inner)
    found = outer.get((USER, PROJECT, "a"))
    assert found is not None
    assert found.content == b"new"


def test_a_part_that_was_rolled_back_is_forgotten() -> None:
    outer = HeadCache()
    outer.put((USER, PROJECT, "a"), head(b"old"))
    inner = outer.begin()
    inner.put((USER, PROJECT, "a"), head(b"rolled back"))
    inner.clear()
    assert inner.get((USER, PROJECT, "a")) is None
    outer.adopt(inner)
    assert outer.get((USER, PROJECT, "a")) is None


def test_nobody_trusts_a_head_that_a_callers_transaction_may_change(tmp_path: Path) -> None:
    key = (USER, PROJECT, "a")
    client = HeadCache(versions=SharedVersions(tmp_path / "heads"))
    client.written(key, head(b"old"), seen=client.stamp(key))
    known = client.get(key)
    assert known is not None
    assert client.is_newest(key, known)
    client.join().written(key, head(b"new"), seen=client.stamp(key))
    assert not client.is_newest(key, known)
    assert not client.is_newest(key, evolve(known, stamp=client.stamp(key)))
