"""Create, find, change and delete users, the tenants of a database."""

import unicodedata
from typing import TypeVar
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, atomic, context, execute, many, one, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput, NotFound
from atlas_sdk.files import from_text
from atlas_sdk.model.limits import Limits
from atlas_sdk.model.users import User, UserDeletion
from atlas_sdk.ops import events, passwords
from atlas_sdk.ops.amounts import UNCHANGED, Unchanged
from atlas_sdk.ops.checks import page_size
from atlas_sdk.ops.emails import LOCAL_BYTES, find_address, normal_address
from atlas_sdk.text import quoted

__all__ = [
    "by_email",
    "create",
    "delete",
    "find_local",
    "get",
    "list_all",
    "local_user",
    "set_plan",
    "update",
    "verify_email",
]

T = TypeVar("T")

sql = statements("users")

#: The bound of the column. Check it here: the database's error would quote the whole row, with the password hash.
_NAME_LENGTH = 200


def _checked_name(name: str) -> str:
    if len(name) > _NAME_LENGTH or "\0" in name:
        raise InvalidInput(f"name must have at most {_NAME_LENGTH} characters, without NUL", field="name")
    return name


def _known_plan(plan: str) -> Plan[None]:
    if not (yield from scalar(sql["plan_exists"], bool, plan=plan)):
        names = ", ".join(one.name for one in (yield from many(statements("limits")["plans"], Limits)))
        raise InvalidInput(f"no plan is called {quoted(plan)}; there are: {names}", field="plan")


def _found(found: T | None, user_id: UUID) -> T:
    if found is None:
        raise NotFound(f"no user has the id {user_id}", kind="user", name=str(user_id))
    return found


def create(
    email: str, *, name: str = "", plan: str = "free", password: str | None = None, password_hash: str | None = None
) -> Plan[User]:
    """Create a user, with the limits of a plan: "free", "pro", "enterprise", or one of yours.

    The address is unique in the database. It is stored in one form, however it is typed: in NFKC and lower case, and
    its domain as in the DNS ("xn--…"). Without `password` the user cannot sign in by
    password. A password has at least 8 characters and at most 1,024 bytes after normalisation (NFKC), and is stored as
    an argon2id hash. `password_hash` is a hash from another system in the crypt format, stored unchanged; sign-ins work
    with argon2 hashes only. Raises AlreadyExists when the address is taken, InvalidInput, and MissingExtra when there
    is a password and the extra "auth" is not installed.
    """
    address = normal_address(email)
    title = _checked_name(name)
    if password is not None and password_hash is not None:
        raise InvalidInput("give a password or a password_hash, not both", field="password")
    stored = None if password_hash is None else passwords.checked_hash(password_hash)
    if password is not None:
        # Hash before the transaction, which would otherwise stay open for that time.
        stored = yield from passwords.computed(passwords.hashed, passwords.checked(password))
    return (yield from _create(address, title, plan, stored))


@atomic
def _create(address: str, name: str, plan: str, password_hash: str | None) -> Plan[User]:
    yield from _known_plan(plan)
    user_id = (yield from context()).new_id()
    if not (yield from execute(sql["claim_email"], email=address, user_id=user_id)):
        raise AlreadyExists(f"a user with the address {address} exists already", kind="user", name=address)
    user = yield from one(
        sql["create"], User, user_id=user_id, email=address, password_hash=password_hash, name=name, plan=plan
    )
    yield from events.record("user.created", user_id=user.id, meta={"plan": plan})
    return user


def local_user() -> Plan[User]:
    """Return the user of this login name; the first call creates the user. One person on one machine needs no sign-up.

    The address is `<login>@localhost`. The counts of projects, sessions and previews are unlimited, since no other user
    needs room. Raises InvalidInput when the login name is unknown.
    """
    login = yield from _login()
    address = _local_address(login)
    found = yield from by_email(address)
    if found is not None:
        return found
    try:
        return (yield from _create_local(address, login))
    except AlreadyExists:
        # Another process created the user in the meantime.
        return (yield from one(sql["by_email"], User, email=address))


@atomic
def _create_local(address: str, login: str) -> Plan[User]:
    user = yield from create(address, name=login)
    yield from execute(sql["allow_any_number"], user_id=user.id)
    return user


def find_local() -> Plan[User | None]:
    """Return the user of this login name, or None; unlike `local`, never create one.

    Raises InvalidInput when the login name is unknown.
    """
    return (yield from by_email(_local_address((yield from _login()))))


def _login() -> Plan[str]:
    login = (yield from context()).attribution.login
    if login is None:
        raise InvalidInput("the login name of this process is unknown: set LOGNAME", field="login")
    return login


def _local_address(login: str) -> str:
    name = "".join(
        character if character.isalnum() or character in "._-" else "-"
        for character in unicodedata.normalize("NFKC", login)
    )
    return normal_address(f"{name.encode()[:LOCAL_BYTES].decode(errors='ignore')}@localhost")


def get(user_id: UUID) -> Plan[User]:
    """Return the user with this id. Raises NotFound."""
    return _found((yield from one_or_none(sql["get"], User, user_id=user_id)), user_id)


def by_email(email: str) -> Plan[User | None]:
    """Return the user with this address, however it is typed (see `create`), or None.

    Send mail to the `email` of the result, and not to the text that somebody typed.
    """
    return (yield from one_or_none(sql["by_email"], User, email=find_address(email)))


def list_all(*, after: User | None = None, limit: int = 100) -> Plan[list[User]]:
    """Return the users of the whole database, oldest first: an operator's view. Raises InvalidInput.

    Pass the last user of a page as `after` to get the next page of `limit` users.
    """
    return (yield from many(sql["list"], User, after=None if after is None else after.id, limit=page_size(limit)))


@atomic
def set_plan(user: User, plan: str) -> Plan[User]:
    """Move a user to another plan, at once and in the middle of a period. Idempotent. Raises NotFound, InvalidInput.

    The amounts used and held, top-ups, and limits that were set for this user by hand do not change.
    """
    yield from _known_plan(plan)
    left = _found((yield from one_or_none(sql["plan_of"], _plan, user_id=user.id)), user.id)
    if left == plan:
        return (yield from one(sql["get"], User, user_id=user.id))
    moved = yield from one(sql["set_plan"], User, user_id=user.id, plan=plan)
    # Take the old plan from the database: the caller's object may be outdated.
    yield from events.record("user.plan_changed", user_id=user.id, meta={"from": left, "to": plan})
    return moved


def _plan(*, plan: str) -> str:
    return plan


@atomic
def verify_email(user: User) -> Plan[User]:
    """Mark the address of a user as verified. Idempotent. Raises NotFound.

    Raises NotFound too when the user's address differs from the one of this object: a link sent to another address
    proves nothing.
    """
    proved = yield from one_or_none(sql["verify_email"], User, user_id=user.id, email=user.email)
    if proved is not None:
        yield from events.record("user.email_verified", user_id=user.id)
        return proved
    found = _found((yield from one_or_none(sql["get"], User, user_id=user.id)), user.id)
    if found.email != user.email:
        raise NotFound(f"the user {user.id} has another address now", kind="user", name=str(user.id))
    return found


@atomic
def update(user: User, *, name: str | Unchanged = UNCHANGED) -> Plan[User]:
    """Change the given fields of a user. Raises NotFound, InvalidInput."""
    if isinstance(name, Unchanged):
        return _found((yield from one_or_none(sql["get"], User, user_id=user.id)), user.id)
    title = _checked_name(name)
    renamed = yield from one_or_none(sql["rename"], User, user_id=user.id, name=title)
    if renamed is not None:
        yield from events.record("user.updated", user_id=user.id, meta={"changed": ["name"]})
        return renamed
    return _found((yield from one_or_none(sql["get"], User, user_id=user.id)), user.id)


@atomic
def delete(user: User) -> Plan[UserDeletion | None]:
    """Delete a user with all data, for good; return the counts of deleted rows, or None if there is no such user.

    This deletes projects, every version of their memory, builds, previews, sessions, quotas and the usage ledger. Names
    such as the address become free. The audit trail stays under the user's id, without a name.
    """
    # Lock in the order of the quota functions, so that a settlement and this call cannot deadlock.
    yield from execute(sql["lock_quota"], user_id=user.id)
    # A transaction that adds rows of the user locks the user's key. From here on this transaction sees such rows, or
    # the database refuses them.
    if not (yield from execute(sql["lock"], user_id=user.id)):
        return None
    gone = yield from one(sql["belongings"], UserDeletion, user_id=user.id)
    files = yield from many(sql["memory_files"], _File, user_id=user.id)
    yield from execute(sql["release_claims"], user_id=user.id)
    yield from execute(sql["release_ports"], user_id=user.id)
    yield from execute(sql["delete"], user_id=user.id)
    counts = {
        "projects": gone.projects,
        "memory_snapshots": gone.memory_snapshots,
        "builds": gone.builds,
        "previews": gone.previews,
        "sessions": gone.sessions,
        "usage_entries": gone.usage_entries,
    }
    yield from events.record("user.deleted", user_id=user.id, meta=counts)
    # Tell the cache: otherwise clients would believe that the contents they know are still stored.
    heads = (yield from context()).heads
    for file in files:
        heads.deleted((user.id, file.project_id, from_text(file.path)))
    return gone


@frozen(kw_only=True)
class _File:
    project_id: UUID
    path: str
