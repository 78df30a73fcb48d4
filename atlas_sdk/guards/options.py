"""Options of a guard, and the checks of its arguments before any request."""

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypedDict
from uuid import UUID

from atlas_sdk._signatures import without_methods
from atlas_sdk.errors import InvalidInput
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = [
    "TTL",
    "GuardOptions",
    "UserOrResolver",
    "check_decorated",
    "check_lease_options",
    "check_options",
    "check_wait",
]

#: The default time that a call may take, as for `quotas.reserve`.
TTL = timedelta(minutes=10)

#: A user. For a decorator, also a function that returns the user for the decorated function's arguments.
UserOrResolver = User | Callable[..., User]


class GuardOptions(TypedDict, total=False):
    """The options of `guard()`. The amounts are those of `quotas.reserve`.

    tokens: int; default 0
        The most tokens that the call may use. Their number is the `max_tokens` of the call.
    min_tokens: int; default as `tokens`
        The call gets fewer tokens if fewer are left, but at least that many.
    cost: Decimal, int or str, US dollars; default 0
        The most that the call may cost. No float, because amounts are exact.
    slots: int; default 0
        Containers. Heartbeats keep their slots alive until the guard's exit.
    requests: int; default 1
        The requests to count in the sliding hour.
    builds: int; default 0
        The builds to count in the day.
    ttl: timedelta; default 10 minutes, at most 24 hours
        The time that the call may take. With `slots`, or from a lease, it is the time from the last heartbeat to the
        expiry of the reservation.
    holder: str; default ""
        The holder's name, for people; at most 200 characters.
    idempotency_key: str, UUID or function; default none: every try is a call of its own
        Calls with the same key are one call, which is charged once. In a decorator, give a function of the decorated
        function's arguments that returns the key.
    meta: mapping; default none
        Facts to store in the ledger, such as model, agent, project.
    wait: timedelta; default none, at most 24 hours
        Wait this long for the user's other calls to end, or for a top-up, before the limits refuse the call. Waiting
        calls are served in the order of their arrival.
    lease: bool; default False
        Spend from a block that this process holds, instead of making a reservation per call.
    on_unknown: "charge" or "release"; default "charge"
        When the body reports no usage, charge the whole reservation, because the provider may have billed it, or
        release it.
    """

    tokens: int
    min_tokens: int | None
    cost: Money
    slots: int
    requests: int
    builds: int
    ttl: timedelta
    holder: str
    idempotency_key: str | UUID | Callable[..., str | UUID | None] | None
    meta: Mapping[str, object] | None
    wait: timedelta | None
    lease: bool
    on_unknown: Literal["charge", "release"]


_OPTIONS = frozenset(GuardOptions.__annotations__)
if not TYPE_CHECKING:
    GuardOptions = without_methods(GuardOptions)

#: Options that a guard of a lease cannot have: they apply to a whole block, or need a reservation of their own.
_NOT_OF_A_LEASE = ("slots", "builds", "ttl", "holder", "meta", "wait", "idempotency_key")
_WAIT_MAX = timedelta(hours=24)


def check_lease_options(options: GuardOptions) -> None:
    """Raise InvalidInput for an option that a guard of a lease cannot have."""
    for name in _NOT_OF_A_LEASE:
        if options.get(name):
            message = f"a guard of a lease has no option {name}: give it to the lease, or use `quotas.guard`"
            raise InvalidInput(message, field=name)


def check_options(options: GuardOptions) -> None:
    """Check names and choices; `quotas.reserve` checks the amounts. Raises TypeError, InvalidInput."""
    if unknown := options.keys() - _OPTIONS:
        message = f"guard() takes no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(_OPTIONS))}"
        raise TypeError(message)
    if options.get("on_unknown", "charge") not in {"charge", "release"}:
        message = f'on_unknown must be "charge" or "release", not {options["on_unknown"]!r}'
        raise InvalidInput(message, field="on_unknown")
    check_wait(options.get("wait"))
    key: object = options.get("idempotency_key")
    if key is not None and not isinstance(key, UUID) and not (isinstance(key, str) and key) and not callable(key):
        raise InvalidInput(f"idempotency_key must be a str or a UUID, not {key!r}", field="idempotency_key")


def check_wait(wait: object) -> None:
    """Raise InvalidInput for a time that no call can wait."""
    if wait is not None and not (isinstance(wait, timedelta) and timedelta() <= wait <= _WAIT_MAX):
        raise InvalidInput(f"wait must be a timedelta from 0 to 24 hours, not {wait!r}", field="wait")


def check_decorated(function: Callable[..., object], options: GuardOptions, *, awaited: bool) -> None:
    """Raise TypeError or InvalidInput for a function that a guard with these options cannot decorate."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        message = f"{function!r} is a generator: its guard would end before its first item; use a guard inside"
        raise TypeError(message)
    if _is_async(function) != awaited:
        is_, other = ("is not async", "Atlas") if awaited else ("is async", "AsyncAtlas")
        message = f"{function!r} {is_}: use the guard of an {other}"
        raise TypeError(message)
    key = options.get("idempotency_key")
    if key is not None and not callable(key):
        message = "a decorator needs one idempotency_key per call: give a function of the arguments"
        raise InvalidInput(message, field="idempotency_key")


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # not whether it is callable
