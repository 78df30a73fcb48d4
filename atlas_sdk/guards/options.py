"""Options of a guard."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Literal, TypedDict
from uuid import UUID

from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["TTL", "GuardOptions", "UserOrResolver", "check_lease_options"]

#: The default time that a call may take, as for `quotas.reserve`.
TTL = timedelta(minutes=10)

#: A user. For a decorator, also a function that returns the user for the decorated function's arguments.
UserOrResolver = User | Callable[..., User]


class GuardOptions(TypedDict, total=False):
    """The options of `guard()`. The amounts are those of `quotas.reserve`."""

    #: The most tokens that the call may use. With `min_tokens`, the call gets fewer if fewer are left, but at least
    #: that many.
    tokens: int
    min_tokens: int | None
    #: The most that the call may cost, in US dollars. No float, because amounts are exact.
    cost: Money
    #: Containers. Heartbeats keep their slots alive until the guard's exit.
    slots: int
    #: The requests to count in the sliding hour; default 1.
    requests: int
    builds: int
    #: The time that the call may take; default 10 minutes, at most 24 hours. With `slots`, or from a lease, it is the
    #: time from the last heartbeat to the expiry of the reservation.
    ttl: timedelta
    #: The holder's name, for people; at most 200 characters.
    holder: str
    #: Calls with the same key are one call, which is charged once. With None, every try is a call of its own. In a
    #: decorator, give a function of the decorated function's arguments that returns the key.
    idempotency_key: str | UUID | Callable[..., str | UUID | None] | None
    #: Facts to store in the ledger, such as model, agent, project.
    meta: Mapping[str, object] | None
    #: True to spend from a block that this process holds, instead of making a reservation per call; default False.
    lease: bool
    #: When the body reports no usage, "charge" the whole reservation, because the provider may have billed it (the
    #: default), or "release" it. By default, a body that ends because a guard inside was refused is charged nothing.
    on_unknown: Literal["charge", "release"]


#: Options that a guard of a lease cannot have: they apply to a whole block, or need a reservation of their own.
_NOT_OF_A_LEASE = ("slots", "builds", "ttl", "holder", "meta", "idempotency_key")


def check_lease_options(options: GuardOptions) -> None:
    """Raise InvalidInput for an option that a guard of a lease cannot have."""
    for name in _NOT_OF_A_LEASE:
        if options.get(name):
            message = f"a guard of a lease has no option {name}: give it to the lease, or use `quotas.guard`"
            raise InvalidInput(message, field=name)
