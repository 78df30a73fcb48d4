"""Session tokens: signed JWTs that carry the user's and the session's id.

The algorithm is always HS256, whatever the token's header says (RFC 8725, section 3.1). The tokens have a type of our
own, so no other JWT that the same key signed is accepted (section 3.11). A token only names a session: the database
knows whether the session is valid.
"""

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from types import ModuleType
from typing import Final
from uuid import UUID

from attrs import field, frozen

from atlas_sdk.errors import InvalidInput, InvalidToken, MissingExtra
from atlas_sdk.signing_keys import SigningKeys

__all__ = ["Claims", "digest", "kid_of", "library", "opened", "signed"]

_ALGORITHM: Final = "HS256"
_TYPE: Final = "atlas-session+jwt"
#: Refuse longer tokens without decoding them; ours have some 360 bytes.
_LENGTH_MAX: Final = 2048
#: The number of decoded tokens to cache: a client sends one token with every request, and decoding takes as long as the
#: query for the session. The result depends on the token and the key only, not on the time. Refused tokens are not
#: cached.
_REMEMBERED: Final = 1024
_CLAIMS: Final = ("sub", "jti", "iat", "exp")


@frozen(kw_only=True)
class Claims:
    """The claims of a token with a valid signature."""

    user_id: UUID
    session_id: UUID
    expires_at: datetime
    #: SHA-256 of the whole token, as stored in the database.
    digest: bytes = field(repr=False)


def library() -> ModuleType:
    """Return PyJWT. Raises MissingExtra."""
    try:
        import jwt  # noqa: PLC0415  # an optional dependency
    except ImportError as exc:
        raise MissingExtra("auth", needed_for="a session token") from exc
    return jwt


def digest(token: str) -> bytes:
    """Return the SHA-256 of a token. The database stores only this, so a dump contains no usable token."""
    return hashlib.sha256(token.encode()).digest()


def signed(keys: SigningKeys, *, user_id: UUID, session_id: UUID, issued_at: datetime, expires_at: datetime) -> str:
    """Return a token signed with the newest key, with times in whole seconds. Raises InvalidInput, MissingExtra."""
    jwt = library()
    claims = {
        "sub": str(user_id),
        "jti": str(session_id),
        "iat": int(issued_at.timestamp()),
        "exp": int(expires_at.timestamp()),
    }
    headers = {"kid": keys.kid, "typ": _TYPE}
    try:
        token: str = jwt.encode(claims, keys.secret_of(keys.kid), algorithm=_ALGORITHM, headers=headers)
    except jwt.InvalidKeyError as exc:
        # PyJWT refuses keys that look like a certificate, a public key or JSON.
        raise InvalidInput(f"the signing key {keys.kid} cannot be used: {exc}", field="signing_keys") from exc
    return token


def kid_of(token: object) -> str:
    """Return the id of the key that a token claims to be signed with. Raises InvalidToken, MissingExtra."""
    if not isinstance(token, str) or len(token) > _LENGTH_MAX or not token.isascii():
        raise InvalidToken("malformed")
    return _kid_of(token)


@lru_cache(maxsize=_REMEMBERED)
def _kid_of(token: str) -> str:
    jwt = library()
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        # Raise without a cause, here and below, because the cause may quote the token.
        raise InvalidToken("malformed") from None
    if header.get("alg") != _ALGORITHM or header.get("typ") != _TYPE:
        raise InvalidToken("algorithm")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise InvalidToken("unknown key")
    return kid


@lru_cache(maxsize=_REMEMBERED)
def opened(token: str, secret: bytes) -> Claims:
    """Return the claims of a token that this key signed, without checking the expiry. Raises InvalidToken."""
    jwt = library()
    # The database checks the times, because the clock of this machine may be wrong.
    options = {"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False}
    try:
        claims = jwt.decode(token, secret, algorithms=[_ALGORITHM], options=options)
    except jwt.InvalidSignatureError:
        raise InvalidToken("signature") from None
    except jwt.PyJWTError:
        raise InvalidToken("malformed") from None
    try:
        return Claims(
            user_id=UUID(claims["sub"]),
            session_id=UUID(claims["jti"]),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            digest=digest(token),
        )
    except (ValueError, TypeError, AttributeError, OverflowError, OSError):
        raise InvalidToken("malformed") from None
