"""The methods `guard`, `slot` and `lease` of a client's `quotas`."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial, wraps
from typing import Any, TypeVar, Unpack
from uuid import UUID

from atlas_sdk._namespaces import AsyncNamespace, AsyncRunner, Namespace, Runner
from atlas_sdk._signatures import wrong_kind
from atlas_sdk.errors import NotPermitted
from atlas_sdk.guards.async_lease import AsyncLease, AsyncLeaseCore
from atlas_sdk.guards.backend import AsyncQuotaBackend, AsyncQuotaRunner, QuotaBackend, QuotaRunner
from atlas_sdk.guards.client_leases import ClientLeases
from atlas_sdk.guards.database_backend import AsyncDatabaseBackend, DatabaseBackend
from atlas_sdk.guards.guard import AsyncGuard, Guard
from atlas_sdk.guards.lease import Lease, ThreadLeaseCore
from atlas_sdk.guards.lease_call import REQUESTS
from atlas_sdk.guards.lease_manager import async_lease_manager, lease_manager
from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.guards.slot import TTL, AsyncSlot, Slot
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncGuardMethods", "GuardMethods"]

UserT = TypeVar("UserT", bound=User | Callable[..., User])


def _require_tenant(tenant: UUID | None, user: UserT) -> UserT:
    """Check that the user is the tenant; wrap a resolver, so that the user that it returns is checked.

    Raises NotPermitted, and InvalidInput for neither a user nor a resolver.
    """
    if not isinstance(user, User) and not callable(user):
        raise wrong_kind(user, "user", (User,))
    if tenant is None:
        return user
    if isinstance(user, User):
        if user.id != tenant:
            raise NotPermitted("this client acts for another user than this one")
        return user

    @wraps(user)
    def resolve(*args: object, **kwargs: object) -> User:
        return _require_tenant(tenant, user(*args, **kwargs))

    return resolve  # type: ignore[return-value]  # the same kind of callable


class GuardMethods(Namespace):
    """Guards, slots and leases of a blocking client."""

    def __init__(
        self, runner: QuotaRunner, *, shared: "GuardMethods | None" = None, tenant: UUID | None = None
    ) -> None:
        super().__init__(runner)
        #: The only user that the client acts for; None if it acts for every user.
        self._tenant = tenant
        # A copy made by `as_user` may live for one request only, so the original keeps and settles guards and leases.
        if shared is None:
            self._backend = DatabaseBackend(runner)
            self._leases = ClientLeases(partial(ThreadLeaseCore, runner), self._backend)
            self._lease_runner: Runner = runner
        else:
            self._backend, self._leases = shared._backend, shared._leases  # noqa: SLF001  # of this class
            self._lease_runner = shared._lease_runner  # noqa: SLF001  # as above

    def guard(self, user: User | Callable[..., User], **options: Unpack[GuardOptions]) -> Guard:
        """Return a guard for one call, which reserves on entry and settles on exit.

        Use it as a context manager, or as a decorator that guards every call of a function. In a decorator, `user` may
        be a function of the decorated function's arguments. `GuardOptions` describes the options. The entry raises
        QuotaExceeded, DatabaseUnreachable (then no call is allowed), AlreadyExists for an idempotency key whose call
        has ended.
        """
        backend: QuotaBackend[Any] = self._leases if options.get("lease") else self._backend
        return Guard(backend, _require_tenant(self._tenant, user), options)

    def slot(
        self,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
        wait: timedelta | None = None,
    ) -> Slot:
        """Return a slot for a container. The entry reserves it, heartbeats keep it alive, the exit releases it.

        The slot expires `ttl` after its last heartbeat, at most 24 hours. `holder` names its owner; the default is host
        and process. With `wait`, the entry waits this long for a free slot, first come, first served. The entry raises
        QuotaExceeded with the dimension "containers" and the `holders`.
        """
        user = _require_tenant(self._tenant, user)
        return Slot(self._backend, user, ttl=ttl, holder=holder, meta=meta, wait=wait)

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
        """Return a lease, which spends blocks of the user's quota inside this process. This call makes no round trip.

        The amounts are the size of a block; near a limit blocks are smaller. A crash costs at most one block. `ttl` is
        the lifetime of a block (1 second to 24 hours). The lease gives a block back after `idle_s` seconds without a
        call. The ledger stores `meta` with every block. `cost` is in US dollars. Raises InvalidInput.
        """
        return Lease(
            self._lease_runner,
            _require_tenant(self._tenant, user),
            tokens=tokens,
            cost=cost,
            requests=requests,
            ttl=ttl,
            idle_s=idle_s,
            holder=holder,
            meta=meta,
        )

    def settle_pending(self) -> int:
        """Write the settlements that failed before; return the number of those that still fail.

        The next guard and the client's `close` do this too.
        """
        return self._backend.settle_pending()

    def close(self) -> None:
        """Settle all guards and leases. The client's `close` does this. Idempotent."""
        try:
            lease_manager(self._lease_runner).end()
        finally:
            self._backend.close()


class AsyncGuardMethods(AsyncNamespace):
    """Guards, slots and leases of an asyncio client."""

    def __init__(
        self, runner: AsyncQuotaRunner, *, shared: "AsyncGuardMethods | None" = None, tenant: UUID | None = None
    ) -> None:
        super().__init__(runner)
        #: The only user that the client acts for; None if it acts for every user.
        self._tenant = tenant
        # A copy made by `as_user` may live for one request only, so the original keeps and settles guards and leases.
        if shared is None:
            self._backend = AsyncDatabaseBackend(runner)
            self._leases = ClientLeases(partial(AsyncLeaseCore, runner), self._backend)
            self._lease_runner: AsyncRunner = runner
        else:
            self._backend, self._leases = shared._backend, shared._leases  # noqa: SLF001  # of this class
            self._lease_runner = shared._lease_runner  # noqa: SLF001  # as above

    def guard(self, user: User | Callable[..., User], **options: Unpack[GuardOptions]) -> AsyncGuard:
        """Return a guard for one call, which reserves on entry and settles on exit. Do not await it.

        Use it as a context manager, or as a decorator that guards every call of an async function. In a decorator,
        `user` may be a function of the decorated function's arguments. `GuardOptions` describes the options. The entry
        raises QuotaExceeded, DatabaseUnreachable (then no call is allowed), AlreadyExists for an idempotency key whose
        call has ended.
        """
        backend: AsyncQuotaBackend[Any] = self._leases if options.get("lease") else self._backend
        return AsyncGuard(backend, _require_tenant(self._tenant, user), options)

    def slot(
        self,
        user: User,
        *,
        ttl: timedelta = TTL,
        holder: str | None = None,
        meta: Mapping[str, object] | None = None,
        wait: timedelta | None = None,
    ) -> AsyncSlot:
        """Return a slot for a container. The entry reserves it, heartbeats keep it alive, the exit releases it.

        The slot expires `ttl` after its last heartbeat, at most 24 hours. `holder` names its owner; the default is host
        and process. With `wait`, the entry waits this long for a free slot, first come, first served. The entry raises
        QuotaExceeded with the dimension "containers" and the `holders`.
        """
        return AsyncSlot(
            self._backend, _require_tenant(self._tenant, user), ttl=ttl, holder=holder, meta=meta, wait=wait
        )

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
        """Return a lease, which spends blocks of the user's quota inside this process. This call makes no round trip.

        The amounts are the size of a block; near a limit blocks are smaller. A crash costs at most one block. `ttl` is
        the lifetime of a block (1 second to 24 hours). The lease gives a block back after `idle_s` seconds without a
        call. The ledger stores `meta` with every block. `cost` is in US dollars. Raises InvalidInput.
        """
        return AsyncLease(
            self._lease_runner,
            _require_tenant(self._tenant, user),
            tokens=tokens,
            cost=cost,
            requests=requests,
            ttl=ttl,
            idle_s=idle_s,
            holder=holder,
            meta=meta,
        )

    async def settle_pending(self) -> int:
        """Write the settlements that failed before; return the number of those that still fail.

        The next guard and the client's `close` do this too.
        """
        return await self._backend.settle_pending()

    async def close(self) -> None:
        """Settle all guards and leases. The client's `close` does this. Idempotent."""
        try:
            await async_lease_manager(self._lease_runner).end()
        finally:
            await self._backend.close()
