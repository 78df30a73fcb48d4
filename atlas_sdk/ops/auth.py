"""Sign in with a password, and set a new password."""

import hashlib
from datetime import datetime
from uuid import UUID

from atlas_sdk._plan import Plan, atomic, execute, one_or_none
from atlas_sdk._sql import statements
from atlas_sdk.errors import NotFound
from atlas_sdk.model.sessions import Session
from atlas_sdk.model.users import NOBODY, Credentials, User
from atlas_sdk.ops import events, passwords, sessions
from atlas_sdk.ops.emails import find_address

__all__ = ["authenticate", "set_password"]

sql = statements("auth")


def authenticate(email: str, password: str) -> Plan[User | None]:
    """Return the user with this address and password, or None. Call `sessions.issue` next.

    The result is None for an unknown address, a user without a password, a hash that is not argon2, and a wrong
    password. All these cases take the same time. An event records every failure; for an unknown address, this event
    belongs to the nil user and has the address's SHA-256. The call replaces a hash that has older parameters. It does
    not slow down guessing: limit the attempts, for example with `quotas.hit`. Raises MissingExtra without the extra
    "auth".
    """
    secret = passwords.presented(password)
    address = find_address(email)
    found: Credentials | None = None
    if address is not None:
        found = yield from one_or_none(sql["credentials"], Credentials, email=address)
    while True:
        stored = None if found is None else found.password_hash
        fits = yield from passwords.computed(passwords.matches, stored, secret)
        if not fits or found is None or stored is None or secret is None:
            yield from _record_failure(found, address)
            return None
        fresh = yield from passwords.computed(passwords.refreshed, stored, secret)
        user = yield from _signed_in(found.user_id, stored, fresh)
        if user is not None:
            return user
        # The stored hash changed, or the user was deleted, during the comparison.
        now = yield from one_or_none(sql["credentials"], Credentials, email=address)
        if now is None or now.password_changed_at != found.password_changed_at or now.password_hash == stored:
            meta = {"reason": "changed meanwhile"}
            yield from events.record("user.sign_in_failed", user_id=found.user_id, meta=meta)
            return None
        # Another sign-in rehashed the same password: compare with the new hash.
        found = now


@atomic
def _signed_in(user_id: UUID, stored: str, fresh: str | None) -> Plan[User | None]:
    user = yield from one_or_none(sql["still"], User, user_id=user_id, password_hash=stored)
    if user is None:
        return None
    if fresh is not None:
        yield from execute(sql["rehash"], user_id=user_id, before=stored, password_hash=fresh)
    yield from events.record("user.signed_in", user_id=user_id, meta={"rehashed": fresh is not None})
    return user


def _record_failure(found: Credentials | None, address: str | None) -> Plan[None]:
    """Record a failed sign-in: for the user if there is one, else for the nil user.

    Never record a text that is not an e-mail address: it may be a password in the wrong field.
    """
    if found is not None:
        reason = "no password" if found.password_hash is None else "wrong password"
        if found.password_hash is not None and not passwords.is_verifiable(found.password_hash):
            reason = "the hash is not of argon2"
        yield from events.record("user.sign_in_failed", user_id=found.user_id, meta={"reason": reason})
        return
    known = {} if address is None else {"email_sha256": hashlib.sha256(address.encode()).hexdigest()}
    yield from events.record("user.sign_in_failed", user_id=NOBODY, meta={"reason": "unknown address", **known})


def set_password(user: User, password: str, *, keep: Session | None = None) -> Plan[int]:
    """Set a user's password and end every session but `keep`; return how many ended.

    `sessions.issue` refuses a `User` object that was read before this call, so a sign-in with the old password gets no
    session. A password has at least 8 characters and at most 1,024 bytes; see `users.create`. Raises InvalidInput,
    NotFound, and MissingExtra without the extra "auth".
    """
    fresh = yield from passwords.computed(passwords.hashed, passwords.checked(password))
    return (yield from _set_password(user, fresh, keep))


def _at(*, at: datetime) -> datetime:
    return at


@atomic
def _set_password(user: User, fresh: str, keep: Session | None) -> Plan[int]:
    at = yield from one_or_none(sql["next_change"], _at, user_id=user.id)
    if at is None:
        raise NotFound(f"no user has the id {user.id}", kind="user", name=str(user.id))
    yield from execute(sql["set_password"], user_id=user.id, password_hash=fresh, at=at)
    ended = yield from sessions.end_all(user.id, keep=keep)
    yield from events.record("user.password_changed", user_id=user.id, meta={"sessions_revoked": ended})
    return ended
