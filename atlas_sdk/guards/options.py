"""Options of a guard."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Literal, TypedDict
from uuid import UUID

from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["TTL", "GuardOptions", "UserOrResolver", "check_lease_options"]

#: Default time that a call may take, as for `quotas.reserve`.
TTL = timedelta(minutes=10)

#: A user, or for a decorator a function that finds the user from the decorated function's arguments.
UserOrResolver = User | Callable[..., User]


class GuardOptions(TypedDict, total=False):
    """Options that `guard()` takes after the user; the amounts are those of `quotas.reserve`."""

    #: Tokens that the call may use at most. With `min_tokens` fewer are granted when fewer are left.
    tokens: int
    min_tokens: int | None
    #: US dollars: exact, so no float.
    cost: Money
    #: Containers. A heartbeat keeps their places until the guard is left, as a slot's.
    slots: int
    #: Counted in the sliding hour; default 1.
    requests: int
    builds: int
    #: Time that the call may take; default 10 minutes, at most 24 hours. With `slots`, or from a lease, the time that
    #: the reservation outlives its last heartbeat.
    ttl: timedelta
    #: Name of the holder, for people; at most 200 characters.
    holder: str
    #: The same key is the same call: it is charged once, however often it is tried. None: every try is a call. For a
    #: decorator, a function of the decorated function's arguments that returns one of these.
    idempotency_key: str | UUID | Callable[..., str | UUID | None] | None
    #: Kept in the ledger: model, agent, project.
    meta: Mapping[str, object] | None
    #: Spend from a block that this process holds, instead of one reservation a call; default False.
    lease: bool
    #: End of a body that does not tell what was used: "charge" the whole reservation, because the
    #: provider may have billed it (the default), or "release" it.
    on_unknown: Literal["charge", "release"]


#: Options that a guard of a lease cannot have: they are one block's for all of its calls, or need a reservation.
_NOT_OF_A_LEASE = ("slots", "builds", "ttl", "holder", "meta", "idempotency_key")


def check_lease_options(options: GuardOptions) -> None:
    """Raise InvalidInput for an option that a guard of a lease cannot have."""
    for name in _NOT_OF_A_LEASE:
        if options.get(name):
            message = f"a guard of a lease takes no {name}: give it to the lease, or use `quotas.guard`"
            raise InvalidInput(message, field=name)
