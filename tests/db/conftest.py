"""Fixtures for cheap password hashes and for signing keys."""

from __future__ import annotations

from pathlib import Path

import argon2
import pytest

from atlas_sdk import SigningKeys
from atlas_sdk.ops import passwords

pytest.register_assert_rewrite("original_checks")


@pytest.fixture
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> argon2.PasswordHasher:
    """Make new hashes a hundred times cheaper; return a still cheaper hasher, to make hashes of another program."""
    monkeypatch.setattr(passwords, "_TIME_COST", 1)
    monkeypatch.setattr(passwords, "_MEMORY_KIB", 512)
    monkeypatch.setattr(passwords, "_LANES", 1)
    return argon2.PasswordHasher(time_cost=1, memory_cost=256, parallelism=1)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningKeys:
    """Write signing keys to `tmp_path / "keys"`, let ATLAS_SIGNING_KEYS name this file, and return the keys."""
    made = SigningKeys.generate()
    made.write(tmp_path / "keys")
    monkeypatch.setenv("ATLAS_SIGNING_KEYS", str(tmp_path / "keys"))
    return made
