"""A fixture with signing keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas_sdk import SigningKeys

pytest.register_assert_rewrite("original_checks")


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningKeys:
    """Write signing keys to `tmp_path / "keys"`, let ATLAS_SIGNING_KEYS name this file, and return the keys."""
    made = SigningKeys.generate()
    made.write(tmp_path / "keys")
    monkeypatch.setenv("ATLAS_SIGNING_KEYS", str(tmp_path / "keys"))
    return made
