"""Sessions: who is signed in, on which device."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen

__all__ = ["IssuedSession", "Session"]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@frozen(kw_only=True)
class Session:
    """A sign-in, valid until it expires or is revoked; the token itself is kept nowhere."""

    id: UUID
    user_id: UUID
    #: By the database's clock.
    expires_at: datetime = field(repr=str)
    #: False: revoked, for good.
    is_active: bool = True
    ip: str | None = field(default=None, converter=_text)
    user_agent: str | None = field(default=None, repr=False)
    created_at: datetime = field(repr=False)
    #: To the minute: see `sessions.touch`.
    last_seen_at: datetime = field(repr=False)


@frozen(kw_only=True)
class IssuedSession:
    """A new session with its token, which is shown this once."""

    #: A signed JWT: give it to the client and to nobody else, and keep it out of logs.
    token: str = field(repr=False)
    session: Session
