"""Session tokens made by hand, as somebody would who wants in."""

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
    """Return the token with other claims, signed with a key; made by hand, so that no library refuses to."""
    old_header, payload = unpacked(token)
    text = f"{part(old_header | (header or {}))}.{part(payload | changes)}"
    signature = hmac.new(secret, text.encode(), digest).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def refused(face: Any, token: Any) -> str:
    """Return the reason for the logs; what a stranger sees is the same for all."""
    with pytest.raises(InvalidToken) as failure:
        face.sessions.verify(token)
    error = failure.value
    assert str(error) == "this session token is not valid: sign in again"
    assert (error.http_status, error.headers) == (401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
    assert error.__cause__ is None
    return error.reason
