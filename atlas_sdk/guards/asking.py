"""What a guard may be asked for, and the reservation that comes of it."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Literal, TypedDict
from uuid import UUID, uuid5

from attrs import evolve

from atlas_sdk._plan import Plan, context
from atlas_sdk.errors import AlreadyExists, InvalidInput
from atlas_sdk.model.quotas import Reservation
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas
from atlas_sdk.ops.amounts import Money

__all__ = ["TTL", "Ask", "checked", "is_keyed", "new_reservation_id", "reserve"]

#: How long a call may take, unless told, as `quotas.reserve` has it.
TTL = timedelta(minutes=10)


class Ask(TypedDict, total=False):
    """What `guard()` takes after the user; the amounts are those of `quotas.reserve`."""

    #: What the call may use at most; with `min_tokens` less is granted when less is left.
    tokens: int
    min_tokens: int | None
    #: US dollars: exact, so no float.
    cost: Money
    #: Containers: their places are kept by a heartbeat until the guard is left, as a slot's.
    slots: int
    #: Counted in the sliding hour; default 1.
    requests: int
    builds: int
    #: How long the call may take at most; default 10 minutes, at most 24 hours. With `slots`, or from a lease, how long
    #: the promise outlives the last heartbeat.
    ttl: timedelta
    #: Who holds it, for people; at most 200 characters.
    holder: str
    #: The same key is the same call: it is charged once, however often it is tried. None: every try is a call. For a
    #: decorator a function of the decorated one's arguments, that returns one of these.
    idempotency_key: str | UUID | Callable[..., str | UUID | None] | None
    #: Kept in the ledger: model, agent, project.
    meta: Mapping[str, object] | None
    #: Let this process reserve in blocks while the user is busy; default False.
    lease: bool
    #: What to do when the body ends without telling what was used: "charge" all that was promised, because the
    #: provider may have billed it (the default), or "release" it.
    on_unknown: Literal["charge", "release"]


_NAMES = frozenset(Ask.__annotations__)


def checked(ask: Ask) -> Ask:
    """Return the ask when its names and choices exist. Raises TypeError, InvalidInput.

    The amounts are checked where they are reserved.
    """
    if unknown := ask.keys() - _NAMES:
        message = f"guard() takes no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(_NAMES))}"
        raise TypeError(message)
    if ask.get("on_unknown", "charge") not in {"charge", "release"}:
        raise InvalidInput(f'on_unknown is "charge" or "release", not {ask["on_unknown"]!r}', field="on_unknown")
    key: object = ask.get("idempotency_key")
    if key is not None and not isinstance(key, UUID) and not (isinstance(key, str) and key) and not callable(key):
        raise InvalidInput(f"idempotency_key must be a text or a UUID, not {key!r}", field="idempotency_key")
    return ask


#: What of an ask is for the database.
_AMOUNTS = ("tokens", "min_tokens", "cost", "slots", "requests", "builds", "ttl", "holder", "meta")


def new_reservation_id(user: User, ask: Ask) -> Plan[UUID]:
    """Return the id of a reservation before it is made, so that every try of it is the same one."""
    if (key := ask.get("idempotency_key")) is not None:
        return uuid5(user.id, str(key))
    return (yield from context()).new_id()


def reserve(user: User, ask: Ask, reservation_id: UUID) -> Plan[Reservation]:
    """Reserve, or find what an earlier try with this id reserved. Raises AlreadyExists when that has ended."""
    amounts = {name: ask[name] for name in _AMOUNTS if name in ask}  # type: ignore[literal-required]  # they are keys
    try:
        held = yield from quotas.reserve(user, **amounts, reservation_id=reservation_id)
    except InvalidInput as exc:
        if exc.field != "reservation_id":
            raise
        if not is_keyed(ask):
            # The answer to a first try was lost, and the second came after its expiry, which charged it: for nothing.
            yield from quotas.settle(user, reservation_id, tokens=0, cost=0)
            return (yield from reserve(user, ask, (yield from context()).new_id()))
        raise _ended(reservation_id, "has expired or was released") from exc
    if held.state != "held":
        raise _ended(reservation_id, f"is {held.state}")
    # An id that was made for this guard can only have been repeated by its own second try.
    return held if is_keyed(ask) else evolve(held, repeated=False)


def is_keyed(ask: Ask) -> bool:
    """Whether an earlier try may have made the reservation: then it is not this one's to give back."""
    return ask.get("idempotency_key") is not None


def _ended(reservation_id: UUID, how: str) -> AlreadyExists:
    message = f"the call with this idempotency key {how} already: for another call take another key"
    return AlreadyExists(message, kind="reservation", name=str(reservation_id))
