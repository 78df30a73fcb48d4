"""What a client's quotas offer beside the operations: guards, slots and leases."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import wraps
from typing import TypeVar, Unpack
from uuid import UUID

from atlas_sdk._faces import AsyncFace, AsyncRunner, Face, Runner
from atlas_sdk.errors import NotPermitted
from atlas_sdk.guards.asking import Ask
from atlas_sdk.guards.async_lease import AsyncLease
from atlas_sdk.guards.automatic import AsyncAutomaticSource, AutomaticSource
from atlas_sdk.guards.call import REQUESTS
from atlas_sdk.guards.database import AsyncDatabaseSource, DatabaseSource
from atlas_sdk.guards.guard import AsyncGuard, Guard
from atlas_sdk.guards.keeper import keeper_of, keeper_on
from atlas_sdk.guards.lease import Lease
from atlas_sdk.guards.slot import TTL, AsyncSlot, Slot
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncMetering", "Metering"]

Payer = TypeVar("Payer", bound=User | Callable[..., User])


def _own(tenant: UUID | None, user: Payer) -> Payer:
    """Return the user, or what finds one, if it is the tenant. Raises NotPermitted, at the call for what is found."""
    if tenant is None:
        return user
    if isinstance(user, User):
        if user.id != tenant:
            raise NotPermitted("this client acts for one user alone, and this is not that user")
        return user

    @wraps(user)
    def found(*args: object, **kwargs: object) -> User:
        return _own(tenant, user(*args, **kwargs))

    return found  # type: ignore[return-value]  # the same kind of callable


class Metering(Face):
    """Guards, slots and leases of a blocking client."""

    def __init__(self, runner: Runner, *, shared: "Metering | None" = None, tenant: UUID | None = None) -> None:
        super().__init__(runner)
        #: The one user that it is for.
        self._tenant = tenant
        # A copy of the client lives for one request: its guards and leases are kept and settled by the whole one.
        self._source: DatabaseSource = DatabaseSource(runner) if shared is None else shared._source  # noqa: SLF001
        self._automatic: AutomaticSource = (
            AutomaticSource(runner, self._source) if shared is None else shared._automatic  # noqa: SLF001
        )
        self._lessor: Runner = runner if shared is None else shared._lessor  # noqa: SLF001

    def guard(self, user: User | Callable[..., User], **ask: Unpack[Ask]) -> Guard:
        """Return a guard for one call: it reserves when it is entered and settles when it is left.

        It is a context manager, and a decorator that guards every call of a function; then `user` may be a function
        of that one's arguments. What it takes is described at `Ask`. Entering raises QuotaExceeded,
        DatabaseUnreachable (then nothing is allowed), AlreadyExists for an idempotency key whose call has ended.
        """
        return Guard(self._automatic if ask.get("lease") else self._source, _own(self._tenant, user), ask)

    def slot(
        self,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> Slot:
        """Return a container's place: taken when it is entered, kept by a heartbeat, given back when it is left.

        `ttl` is how long it outlives the last heartbeat, at most 24 hours; `holder` says who has it (default: host
        and process). Entering raises QuotaExceeded with dimension "containers" and the `holders`.
        """
        return Slot(self._source, _own(self._tenant, user), ttl=ttl, holder=holder, meta=meta)

    def lease(
        self,
        user: User,
        *,
        tokens: int = 0,
        cost: Money = 0,
        requests: int = REQUESTS,
        ttl: timedelta = TTL,
        idle_s: float = 2.0,
        holder: str = "",
        meta: Mapping[str, object] | None = None,
    ) -> Lease:
        """Return a lease: blocks of the user's quota that this process spends by itself. No round trip yet.

        The amounts are those of a block: what is asked for at once, less near a limit, and what a crash costs at most.
        `ttl` is how long a block is spent (1 second to 24 hours); after `idle_s` seconds without a call it is given
        back. `meta` goes into the ledger with every block. Cost in US dollars. Raises InvalidInput.
        """
        return Lease(
            self._lessor,
            _own(self._tenant, user),
            tokens=tokens,
            cost=cost,
            requests=requests,
            ttl=ttl,
            idle_s=idle_s,
            holder=holder,
            meta=meta,
        )

    def settle_pending(self) -> int:
        """Write settlements that the database was not there for; return how many are left.

        The next guard and the client's end do this too.
        """
        return self._source.settle_pending()

    def close(self) -> None:
        """Settle what is left to settle, of leases too. The client's `close` does this. Idempotent."""
        try:
            keeper_of(self._lessor).end()
        finally:
            self._source.close()


class AsyncMetering(AsyncFace):
    """Guards, slots and leases of an asyncio client."""

    def __init__(
        self, runner: AsyncRunner, *, shared: "AsyncMetering | None" = None, tenant: UUID | None = None
    ) -> None:
        super().__init__(runner)
        #: The one user that it is for.
        self._tenant = tenant
        # A copy of the client lives for one request: its guards and leases are kept and settled by the whole one.
        self._source: AsyncDatabaseSource = AsyncDatabaseSource(runner) if shared is None else shared._source  # noqa: SLF001
        self._automatic: AsyncAutomaticSource = (
            AsyncAutomaticSource(runner, self._source) if shared is None else shared._automatic  # noqa: SLF001
        )
        self._lessor: AsyncRunner = runner if shared is None else shared._lessor  # noqa: SLF001

    def guard(self, user: User | Callable[..., User], **ask: Unpack[Ask]) -> AsyncGuard:
        """Return a guard for one call: it reserves when it is entered and settles when it is left. Not awaited.

        It is a context manager, and a decorator that guards every call of an async function; then `user` may be a
        function of that one's arguments. What it takes is described at `Ask`. Entering raises QuotaExceeded,
        DatabaseUnreachable (then nothing is allowed), AlreadyExists for an idempotency key whose call has ended.
        """
        return AsyncGuard(self._automatic if ask.get("lease") else self._source, _own(self._tenant, user), ask)

    def slot(
        self,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> AsyncSlot:
        """Return a container's place: taken when it is entered, kept by a heartbeat, given back when it is left.

        `ttl` is how long it outlives the last heartbeat, at most 24 hours; `holder` says who has it (default: host
        and process). Entering raises QuotaExceeded with dimension "containers" and the `holders`.
        """
        return AsyncSlot(self._source, _own(self._tenant, user), ttl=ttl, holder=holder, meta=meta)

    def lease(
        self,
        user: User,
        *,
        tokens: int = 0,
        cost: Money = 0,
        requests: int = REQUESTS,
        ttl: timedelta = TTL,
        idle_s: float = 2.0,
        holder: str = "",
        meta: Mapping[str, object] | None = None,
    ) -> AsyncLease:
        """Return a lease: blocks of the user's quota that this process spends by itself. No round trip yet.

        The amounts are those of a block: what is asked for at once, less near a limit, and what a crash costs at most.
        `ttl` is how long a block is spent (1 second to 24 hours); after `idle_s` seconds without a call it is given
        back. `meta` goes into the ledger with every block. Cost in US dollars. Raises InvalidInput.
        """
        return AsyncLease(
            self._lessor,
            _own(self._tenant, user),
            tokens=tokens,
            cost=cost,
            requests=requests,
            ttl=ttl,
            idle_s=idle_s,
            holder=holder,
            meta=meta,
        )

    async def settle_pending(self) -> int:
        """Write settlements that the database was not there for; return how many are left.

        The next guard and the client's end do this too.
        """
        return await self._source.settle_pending()

    async def close(self) -> None:
        """Settle what is left to settle, of leases too. The client's `close` does this. Idempotent."""
        try:
            await keeper_on(self._lessor).end()
        finally:
            await self._source.close()
