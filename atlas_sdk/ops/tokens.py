"""Session tokens: signed JWTs that carry the user's and the session's id.

The algorithm is HS256 and nothing else, whatever a token says of itself (RFC 8725, section 3.1), and a type of their
own keeps other JWTs of the same key out (section 3.11). A token only names a session: whether that is valid, and until
when, the database says.
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
#: Ours have some 360 bytes; nothing is decoded of a token that is much longer.
_LENGTH_MAX: Final = 2048
#: A client sends one token with every request, and to decode it takes as long as to ask the database for its session.
#: What a token says never changes, and no clock is asked here; what is refused is not kept.
_REMEMBERED: Final = 1024
_CLAIMS: Final = ("sub", "jti", "iat", "exp")


@frozen(kw_only=True)
class Claims:
    """The claims of a token with a valid signature."""

    user_id: UUID
    session_id: UUID
    expires_at: datetime
    #: SHA-256 of the whole token: what is stored of it.
    digest: bytes = field(repr=False)


def library() -> ModuleType:
    """Return PyJWT. Raises MissingExtra."""
    try:
        import jwt  # noqa: PLC0415  # of an extra, and nobody else needs it
    except ImportError as exc:
        raise MissingExtra("auth", needed_for="a session token") from exc
    return jwt


def digest(token: str) -> bytes:
    """Return what is stored of a token: one that is read in a dump signs nobody in."""
    return hashlib.sha256(token.encode()).digest()


def signed(keys: SigningKeys, *, user_id: UUID, session_id: UUID, issued_at: datetime, expires_at: datetime) -> str:
    """Return a token, signed with the newest key. Times count in whole seconds. Raises InvalidInput, MissingExtra."""
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
        # PyJWT takes no key that looks like a certificate, a public key or JSON.
        raise InvalidInput(f"the signing key {keys.kid} cannot be used: {exc}", field="signing_keys") from exc
    return token


def kid_of(token: object) -> str:
    """Return which key a token claims to be signed with. Raises InvalidToken, MissingExtra."""
    if not isinstance(token, str) or len(token) > _LENGTH_MAX or not token.isascii():
        raise InvalidToken("malformed")
    return _kid_of(token)


@lru_cache(maxsize=_REMEMBERED)
def _kid_of(token: str) -> str:
    jwt = library()
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        # Without a cause, here and below: it may quote the token.
        raise InvalidToken("malformed") from None
    if header.get("alg") != _ALGORITHM or header.get("typ") != _TYPE:
        raise InvalidToken("algorithm")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise InvalidToken("unknown key")
    return kid


@lru_cache(maxsize=_REMEMBERED)
def opened(token: str, secret: bytes) -> Claims:
    """Return what a token says, if this key signed it; the expiry is not looked at. Raises InvalidToken."""
    jwt = library()
    # Times are the database's to judge: the clock of this machine may be wrong.
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
