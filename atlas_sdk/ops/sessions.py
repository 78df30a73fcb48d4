"""Sessions: tokens that a user is signed in with, until they expire or are revoked."""

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
from atlas_sdk.signing_keys import SigningKeys

__all__ = ["end_all", "issue", "list_active", "purge_expired", "revoke", "revoke_all", "touch", "verify"]

sql = statements("sessions")
logger = logging.getLogger(__name__)

#: NIST SP 800-63B, section 4.1.3: who is signed in by a password alone does it again after 30 days.
_TTL: Final = timedelta(days=30)
#: Browsers keep a cookie no longer (RFC 6265bis, section 5.5).
_TTL_MAX: Final = timedelta(days=400)
#: How exactly the last use is known: writing it at every request would cost more than the rest of the request.
_SEEN: Final = timedelta(minutes=1)


def issue(
    user: User, *, ttl: timedelta = _TTL, ip: Address | None = None, user_agent: str | None = None
) -> Plan[IssuedSession]:
    """Sign a user in: return a session and its token, which is stored nowhere and cannot be had again.

    `ttl` is from 1 second to 400 days. Address and agent are those of `with_context` unless given. A password that was
    set after this `user` was read refuses it: authenticate again, or read the user anew if it was not by a password.
    Raises AuthError then, InvalidInput, also without signing keys, NotFound when the user is deleted, and MissingExtra
    without the extra "auth".
    """
    if not timedelta(seconds=1) <= ttl <= _TTL_MAX:
        raise InvalidInput(f"ttl is from 1 second to {_TTL_MAX.days} days, not {ttl}", field="ttl")
    ctx = yield from context()
    origin = ctx.origin.but(ip=ip, user_agent=user_agent)
    # Looked at every time, so that a new key signs at once everywhere.
    keys = yield from local(_loaded, ctx.keyring, ctx.monotonic())
    now = yield from scalar(sql["now"], datetime)
    # Whole seconds, as in the token; rounded up, as a session of a second must not be over before it begins.
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
    # Where the sign-in came from, be it given here or by `with_context`.
    yield from events.record_from(origin, "session.issued", user_id=user.id, meta=meta)
    return session


def verify(token: str) -> Plan[Session]:
    """Return the session of a token: signed by one of our keys, known, active and not expired.

    One SELECT; a session that was revoked anywhere is refused from that moment on. A key that was taken out of its
    file verifies for up to 5 seconds more. Raises InvalidToken, the same for every reason, MissingExtra without the
    extra "auth", and NotPermitted to a login that sees no sessions, as one that is a member of `atlas_app` alone.
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
    # A key that leaked signs what was never issued, and a signature has several spellings in base64.
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
        # Perhaps another process has a newer key than we saw last.
        secret = (yield from local(_loaded, ctx.keyring, now)).secret_of(kid)
    if secret is None:
        raise InvalidToken("unknown key")
    return tokens.opened(token, secret)


def _loaded(keyring: Keyring, now: float) -> SigningKeys:
    # Here as well, because the first import takes longer than an event loop should wait.
    tokens.library()
    return keyring.load(now)


def touch(session: Session) -> Plan[bool]:
    """Note that a session is in use; return whether it was written: at most once a minute, else it is one SELECT.

    Not on record in the audit trail. A session that has ended stays as it is.
    """
    return bool((yield from execute(sql["touch"], user_id=session.user_id, session_id=session.id, every=_SEEN)))


def revoke(session: Session | str) -> Plan[Session | None]:
    """End a session, given as such or by its token, at once and for good; None when it has ended already.

    An expired token of ours may be revoked, too: None. Raises InvalidToken for a token that none of our keys signed.
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
    """End every session of a user but one, if that is given, at once and for good; return how many ended."""
    return (yield from end_all(user.id, keep=except_session))


def end_all(user_id: UUID, *, keep: Session | None) -> Plan[int]:
    """End every session of a user in the transaction of the caller; return how many ended.

    Those that are being issued are waited for, and end as well.
    """
    kept = None if keep is None else keep.id
    yield from execute(sql["hold"], user_id=user_id)
    ended = yield from execute(sql["revoke_all"], user_id=user_id, kept=kept)
    if ended:
        meta = {"sessions": ended} | ({} if kept is None else {"kept": str(kept)})
        yield from events.record("session.all_revoked", user_id=user_id, meta=meta)
    return ended


def list_active(user: User, *, limit: int = 100) -> Plan[list[Session]]:
    """Return the sessions of a user that are valid now, the newest first."""
    if limit < 1:
        raise InvalidInput(f"limit is at least 1, not {limit}", field="limit")
    return (yield from many(sql["list"], Session, user_id=user.id, limit=limit))


def purge_expired(*, limit: int = 1000) -> Plan[int]:
    """Delete the expired sessions of all users, `limit` in a transaction at most; return how many.

    The same as `maintenance.purge_sessions`: they are refused as it is. Several at once share the work.
    """
    if limit < 1:
        raise InvalidInput(f"limit is at least 1, not {limit}", field="limit")
    return (yield from purges.purge_sessions(batch=min(limit, BATCH))).removed
