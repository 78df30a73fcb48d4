"""A fixture that counts the calls of argon2."""

from __future__ import annotations

import threading
from typing import Any

import argon2
import pytest
from signing_in import Work


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    counted = Work()
    verify, hash_ = argon2.PasswordHasher.verify, argon2.PasswordHasher.hash

    def counting_verify(self: Any, stored: str, password: bytes) -> bool:
        counted.verified.append(stored.rsplit("$", 2)[0] + "$")
        counted.threads.add(threading.get_ident())
        return verify(self, stored, password)

    def counting_hash(self: Any, password: bytes) -> str:
        counted.hashed += 1
        counted.threads.add(threading.get_ident())
        return hash_(self, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counting_verify)
    monkeypatch.setattr(argon2.PasswordHasher, "hash", counting_hash)
    return counted
