"""Forged session tokens."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest

from atlas_sdk import InvalidToken


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unpacked(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload = (json.loads(base64.urlsafe_b64decode(text + "==")) for text in token.split(".")[:2])
    return header, payload


def forged(
    token: str, secret: bytes, *, header: dict[str, Any] | None = None, digest: str = "sha256", **changes: Any
) -> str:
    """Return the token with other claims, signed with a key. Libraries refuse to make some of these tokens."""
    old_header, payload = unpacked(token)
    text = f"{part(old_header | (header or {}))}.{part(payload | changes)}"
    signature = hmac.new(secret, text.encode(), digest).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def refused(client: Any, token: Any) -> str:
    """Check that a token is refused with the same message as all others; return the reason for the log."""
    with pytest.raises(InvalidToken) as failure:
        client.sessions.verify(token)
    error = failure.value
    assert str(error) == "this session token is not valid: sign in again"
    assert (error.http_status, error.headers) == (401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
    assert error.__cause__ is None
    return error.reason
