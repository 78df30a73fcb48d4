"""Sessions: a token keeps a user signed in until the session expires or is revoked."""

import hmac
import logging
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from atlas_sdk._keyring import Keyring
from atlas_sdk._plan import Plan, atomic, context, execute, local, many, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import AuthError, InvalidInput, InvalidToken
from atlas_sdk.model.origin import Address, Origin
from atlas_sdk.model.sessions import IssuedSession, Session
from atlas_sdk.model.users import User
from atlas_sdk.ops import events, isolation, purges, tokens, users
from atlas_sdk.ops.batches import BATCH
from atlas_sdk.ops.checks import page_size
from atlas_sdk.signing_keys import SigningKeys

__all__ = ["end_all", "issue", "list_active", "purge_expired", "revoke", "revoke_all", "touch", "verify"]

sql = statements("sessions")
logger = logging.getLogger(__name__)

#: NIST SP 800-63B, section 4.1.3: after 30 days, users who sign in by password alone must sign in again.
_TTL: Final = timedelta(days=30)
#: The longest time that browsers keep a cookie (RFC 6265bis, section 5.5).
_TTL_MAX: Final = timedelta(days=400)
#: The precision of the time of last use. Writing it at every request would cost more than the rest of the request.
_SEEN: Final = timedelta(minutes=1)


def issue(
    user: User, *, ttl: timedelta = _TTL, ip: Address | None = None, user_agent: str | None = None
) -> Plan[IssuedSession]:
    """Sign a user in: return a session and its token. The token is not stored, and cannot be read again.

    `ttl` is from 1 second to 400 days. `ip` and `user_agent` default to those of `with_context`. Raises AuthError when
    the password was set after this `user` was read: authenticate again, or read the user again if the sign-in did not
    use a password. Raises InvalidInput, also when there are no signing keys, NotFound when the user is deleted, and
    MissingExtra without the extra "auth".
    """
    if not timedelta(seconds=1) <= ttl <= _TTL_MAX:
        raise InvalidInput(f"ttl must be from 1 second to {_TTL_MAX.days} days, not {ttl}", field="ttl")
    ctx = yield from context()
    origin = ctx.origin.but(ip=ip, user_agent=user_agent)
    # Read the keys every time, so that a new key signs at once in every process.
    keys = yield from local(_loaded, ctx.keyring, ctx.monotonic())
    now = yield from scalar(sql["now"], datetime)
    # Round up to whole seconds, as in the token, so that a session of a second does not end before it begins.
    expires_at = (now + ttl + timedelta(microseconds=999_999)).replace(microsecond=0)
    session_id = ctx.new_id()
    token = tokens.signed(keys, user_id=user.id, session_id=session_id, issued_at=now, expires_at=expires_at)
    session = yield from _insert(
        user=user,
        session_id=session_id,
        token_hash=tokens.digest(token),
        expires_at=expires_at,
        origin=origin,
    )
    return IssuedSession(token=token, session=session)


@atomic
def _insert(*, user: User, session_id: UUID, origin: Origin, **columns: object) -> Plan[Session]:
    session = yield from one_or_none(
        sql["issue"],
        Session,
        user_id=user.id,
        password_changed_at=user.password_changed_at,
        session_id=session_id,
        ip=origin.ip,
        user_agent=origin.user_agent,
        **columns,
    )
    if session is None:
        yield from users.get(user.id)
        raise AuthError(f"the password of the user {user.id} was changed after this user was read: authenticate again")
    meta = {"session": str(session_id), "expires_at": session.expires_at.isoformat()}
    # Record the origin of the sign-in, which may differ from the client's.
    yield from events.record_from(origin, "session.issued", user_id=user.id, meta=meta)
    return session


def verify(token: str) -> Plan[Session]:
    """Return the session of a token, if one of our keys signed it and the session is active and not expired.

    The call takes one SELECT, and refuses a session as soon as any process has revoked it. A key that was removed from
    its file still verifies tokens for up to 5 seconds. Raises InvalidToken with the same message for every reason,
    MissingExtra without the extra "auth", and NotPermitted when the login sees no sessions, because it is a member of
    `atlas_app` alone.
    """
    try:
        return (yield from _verified(token))
    except InvalidToken as refused:
        logger.info("a session token was refused: %s", refused.reason)
        raise


def _verified(token: str) -> Plan[Session]:
    claims = yield from _opened(token)
    found = yield from one_or_none(
        sql["look"], _row, user_id=claims.user_id, session_id=claims.session_id, expires_at=claims.expires_at
    )
    if found is None and (yield from context()).tenant is None:
        yield from isolation.check_sees_all("the check of a token")
    # Compare digests: a leaked key could sign a token that was never issued, and a token has several spellings in
    # base64.
    if found is None or not hmac.compare_digest(found[1], claims.digest):
        raise InvalidToken("unknown session")
    session, _, expired = found
    if not session.is_active:
        raise InvalidToken("revoked")
    if expired:
        raise InvalidToken("expired")
    return session


def _row(*, token_hash: bytes, expired: bool, **columns: Any) -> tuple[Session, bytes, bool]:
    return Session(**columns), token_hash, expired


def _opened(token: str) -> Plan[tokens.Claims]:
    ctx = yield from context()
    now = ctx.monotonic()
    keys = ctx.keyring.cached(now) or (yield from local(_loaded, ctx.keyring, now))
    kid = tokens.kid_of(token)
    secret = keys.secret_of(kid)
    if secret is None:
        # Read the file again: another process may have signed with a newer key.
        secret = (yield from local(_loaded, ctx.keyring, now)).secret_of(kid)
    if secret is None:
        raise InvalidToken("unknown key")
    return tokens.opened(token, secret)


def _loaded(keyring: Keyring, now: float) -> SigningKeys:
    # Import PyJWT here, in a thread: the first import takes too long for an event loop.
    tokens.library()
    return keyring.load(now)


def touch(session: Session) -> Plan[bool]:
    """Record the use of a session, at most once a minute; return True if this call wrote it.

    There is no event. The call ignores a session that has ended.
    """
    return bool((yield from execute(sql["touch"], user_id=session.user_id, session_id=session.id, every=_SEEN)))


def revoke(session: Session | str) -> Plan[Session | None]:
    """Revoke a session, given as an object or by its token, at once and for good; return None if it had ended.

    For an expired token of ours, the call returns None too. Raises InvalidToken for a token that none of our keys
    signed.
    """
    if isinstance(session, Session):
        return (yield from _revoke(session.user_id, session.id, None))
    claims = yield from _opened(session)
    return (yield from _revoke(claims.user_id, claims.session_id, claims.digest))


@atomic
def _revoke(user_id: UUID, session_id: UUID, token_hash: bytes | None) -> Plan[Session | None]:
    ended = yield from one_or_none(
        sql["revoke"], Session, user_id=user_id, session_id=session_id, token_hash=token_hash
    )
    if ended is not None:
        yield from events.record("session.revoked", user_id=user_id, meta={"session": str(session_id)})
    return ended


@atomic
def revoke_all(user: User, *, except_session: Session | None = None) -> Plan[int]:
    """Revoke every session of a user but `except_session`, at once and for good; return how many."""
    return (yield from end_all(user.id, keep=except_session))


def end_all(user_id: UUID, *, keep: Session | None) -> Plan[int]:
    """Revoke every session of a user but `keep`, in the caller's transaction; return how many.

    The call waits for sessions that are being issued, and revokes them too.
    """
    kept = None if keep is None else keep.id
    yield from execute(sql["hold"], user_id=user_id)
    ended = yield from execute(sql["revoke_all"], user_id=user_id, kept=kept)
    if ended:
        meta = {"sessions": ended} | ({} if kept is None else {"kept": str(kept)})
        yield from events.record("session.all_revoked", user_id=user_id, meta=meta)
    return ended


def list_active(user: User, *, limit: int = 100) -> Plan[list[Session]]:
    """Return the sessions of a user that are valid now, newest first. Raises InvalidInput."""
    return (yield from many(sql["list"], Session, user_id=user.id, limit=page_size(limit)))


def purge_expired(*, limit: int = 1000) -> Plan[int]:
    """Delete the expired sessions of all users, at most `limit` per transaction; return how many.

    This runs the maintenance job `sessions`. Several processes may run it at once, and share the work.
    """
    if limit < 1:
        raise InvalidInput(f"limit must be at least 1, not {limit}", field="limit")
    return (yield from purges.purge_sessions(batch=min(limit, BATCH))).removed
