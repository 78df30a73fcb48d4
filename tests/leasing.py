"""Leases of either client."""

from __future__ import annotations

from functools import partial
from typing import Any

from guard_adapter import Losing, QuotaClient

from atlas_sdk import User
from atlas_sdk.guards.async_lease import AsyncLease
from atlas_sdk.guards.lease import Lease


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lease_of(client: QuotaClient, user: User, *, runner: Any = None, **size: Any) -> Any:
    """Open a lease that keeps idle blocks for an hour by default."""
    kind = Lease if client.kind == "blocking" else AsyncLease
    return kind(runner or client.quotas._runner, user, **{"idle_s": 3600.0, **size})


def hurried(client: QuotaClient) -> None:
    """Stop the clock of the leases that guards share, so that all calls seem simultaneous."""
    leases = client.quotas._leases
    leases._make = partial(leases._make, clock=Clock())


def losing_of(client: QuotaClient) -> Losing:
    """Return a runner for a lease that fails when the test says so."""
    return Losing(client.quotas._runner, is_async=client.kind == "asyncio")


def user_with(client: QuotaClient, **limits: Any) -> User:
    """Make a user with these limits. The other limits are too high to matter."""
    return client.user(**{"tokens": 10**12, "cost": 10**6, "requests_per_hour": 10**9, **limits})


def once(client: QuotaClient, lease: Any, tokens: int, used_tokens: int | None = None, **more: Any) -> Any:
    """Reserve and settle one call."""
    call = client.do(lease.reserve(tokens, **more))
    call.settle(call.tokens if used_tokens is None else used_tokens)
    return call
