"""Guards, slots and leases, which put quotas around the code that uses them.

::

    with atlas.quotas.guard(user, tokens=4096, cost="0.03") as g:    # raises QuotaExceeded before the call
        reply = call_model(max_tokens=g.tokens)
        g.settle(tokens=reply.total_tokens, cost=reply.cost)

    with atlas.quotas.slot(user) as slot:                            # a container's slot, kept alive by heartbeats
        run(fence=slot.epoch)

    with atlas.quotas.lease(user, tokens=50_000) as lease:           # a block that this process spends without queries
        call = lease.reserve(4096)
        call.settle(call_model(max_tokens=call.tokens).total_tokens)
"""

from atlas_sdk.guards.async_lease import AsyncLease
from atlas_sdk.guards.guard import AsyncGuard, Guard, current_guard
from atlas_sdk.guards.lease import Lease
from atlas_sdk.guards.lease_call import LeaseCall
from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.guards.slot import AsyncSlot, Slot

__all__ = [
    "AsyncGuard",
    "AsyncLease",
    "AsyncSlot",
    "Guard",
    "GuardOptions",
    "Lease",
    "LeaseCall",
    "Slot",
    "current_guard",
]
