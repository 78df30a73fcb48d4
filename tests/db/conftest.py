"""What the tests of signing in share: hashes that cost little, and keys for tokens."""

from __future__ import annotations

from pathlib import Path

import argon2
import pytest

from atlas_sdk import SigningKeys
from atlas_sdk.ops import passwords

pytest.register_assert_rewrite("original_checks")


@pytest.fixture
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> argon2.PasswordHasher:
    """Make new hashes cost a hundredth; return a hasher that is cheaper still, for hashes from elsewhere."""
    monkeypatch.setattr(passwords, "_TIME_COST", 1)
    monkeypatch.setattr(passwords, "_MEMORY_KIB", 512)
    monkeypatch.setattr(passwords, "_LANES", 1)
    return argon2.PasswordHasher(time_cost=1, memory_cost=256, parallelism=1)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningKeys:
    """Signing keys that clients find by the environment, in `tmp_path / "keys"`."""
    made = SigningKeys.generate()
    made.write(tmp_path / "keys")
    monkeypatch.setenv("ATLAS_SIGNING_KEYS", str(tmp_path / "keys"))
    return made
