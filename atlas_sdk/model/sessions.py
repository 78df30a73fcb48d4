"""Sessions: sign-ins of users."""

from datetime import datetime
from uuid import UUID

from attrs import field, frozen

__all__ = ["IssuedSession", "Session"]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@frozen(kw_only=True)
class Session:
    """A sign-in, valid until it expires or is revoked. The token itself is not stored."""

    id: UUID
    user_id: UUID
    #: The end of the session, by the database's clock.
    expires_at: datetime = field(repr=str)
    #: False when the session was revoked, which is final.
    is_active: bool = True
    ip: str | None = field(default=None, converter=_text)
    user_agent: str | None = field(default=None, repr=False)
    created_at: datetime = field(repr=False)
    #: The time of last use, exact to a minute: see `sessions.touch`.
    last_seen_at: datetime = field(repr=False)


@frozen(kw_only=True)
class IssuedSession:
    """A new session with its token. The token cannot be read again later."""

    #: A signed JWT. Give it to the client only, and keep it out of logs.
    token: str = field(repr=False)
    session: Session
