"""Users: the tenants."""

from uuid import UUID

from atlas_sdk._plan import Plan, atomic, context, execute, one, one_or_none, scalar
from atlas_sdk._sql import statements
from atlas_sdk.errors import AlreadyExists, InvalidInput, NotFound
from atlas_sdk.model.users import User
from atlas_sdk.ops import events

__all__ = ["by_email", "create", "get", "local", "set_plan"]

sql = statements("users")

#: RFC 5321, section 4.5.3.1: 64 for the local part, 255 for the domain, and the "@".
_EMAIL_LENGTH = 320


def _checked_email(email: str) -> str:
    tidy = email.strip().lower()
    local, at, domain = tidy.rpartition("@")
    has_odd_character = any(character.isspace() or not character.isprintable() for character in tidy)
    if not (local and at and domain) or "@" in local or has_odd_character or len(tidy) > _EMAIL_LENGTH:
        raise InvalidInput(f"{email!r} is not an e-mail address", field="email")
    return tidy


def _known_plan(plan: str) -> Plan[None]:
    if not (yield from scalar(sql["plan_exists"], bool, plan=plan)):
        raise InvalidInput(f"no plan is called {plan!r}; quotas.plans() lists them", field="plan")


@atomic
def create(email: str, *, name: str = "", plan: str = "free", password_hash: str | None = None) -> Plan[User]:
    """Create a user; the quota row comes with it, from the plan ("free", "pro", "enterprise", or one of yours).

    The address is kept in lower case and is unique in the database. Raises AlreadyExists when it is taken.
    """
    address = _checked_email(email)
    yield from _known_plan(plan)
    user_id = (yield from context()).new_id()
    if not (yield from execute(sql["claim_email"], email=address, user_id=user_id)):
        raise AlreadyExists(f"a user with the address {address} exists already", kind="user", name=address)
    user = yield from one(
        sql["create"], User, user_id=user_id, email=address, password_hash=password_hash, name=name, plan=plan
    )
    yield from events.record("user.created", user_id=user.id, meta={"plan": plan})
    return user


def local() -> Plan[User]:
    """Return the user of this login name, made at the first call: one person on one machine needs no sign-up.

    The address is `<login>@localhost`. Raises InvalidInput when the login name cannot be told.
    """
    login = (yield from context()).attribution.login
    if login is None:
        raise InvalidInput("the login name of this process cannot be told: set LOGNAME", field="login")
    name = "".join(character if character.isalnum() or character in "._-" else "-" for character in login)
    address = f"{name}@localhost".lower()
    found = yield from by_email(address)
    if found is not None:
        return found
    try:
        return (yield from create(address, name=login))
    except AlreadyExists:
        # Another process was faster.
        return (yield from one(sql["by_email"], User, email=address))


def get(user_id: UUID) -> Plan[User]:
    """Return the user with this id. Raises NotFound."""
    user = yield from one_or_none(sql["get"], User, user_id=user_id)
    if user is None:
        raise NotFound(f"no user has the id {user_id}", kind="user", name=str(user_id))
    return user


def by_email(email: str) -> Plan[User | None]:
    """Return the user with this address, if any; case does not matter."""
    return (yield from one_or_none(sql["by_email"], User, email=email.strip().lower()))


@atomic
def set_plan(user: User, plan: str) -> Plan[User]:
    """Move a user to another plan, at once and in the middle of a period. Raises NotFound, InvalidInput.

    What is used, promised and granted stays, and so do limits that were set for this user by hand.
    """
    yield from _known_plan(plan)
    moved = yield from one_or_none(sql["set_plan"], User, user_id=user.id, plan=plan)
    if moved is None:
        raise NotFound(f"no user has the id {user.id}", kind="user", name=str(user.id))
    yield from events.record("user.plan_changed", user_id=user.id, meta={"from": user.plan, "to": plan})
    return moved
