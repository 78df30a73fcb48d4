"""Guards, which reserve before a call and settle after it, even if the call fails."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.backend import AsyncQuotaBackend, QuotaBackend
from atlas_sdk.guards.guard_state import GuardState, current
from atlas_sdk.guards.heartbeat import AsyncHeartbeat, Heartbeat
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncGuard", "Guard", "current_guard"]

T = TypeVar("T")
P = ParamSpec("P")


def current_guard() -> "Guard | AsyncGuard":
    """Return the innermost guard around the running code, so that a decorated function can settle it.

    Raises InvalidInput outside of guards.
    """
    guard = current.get()
    if guard is None:
        raise InvalidInput("no guard is entered here: use `with atlas.quotas.guard(…)` around the call", field="guard")
    return cast("Guard | AsyncGuard", guard)


class Guard(GuardState[QuotaBackend, Heartbeat]):
    """A guard, which reserves on entry and settles on exit. Create it with `atlas.quotas.guard`.

    ::

        with atlas.quotas.guard(user, tokens=4096, cost="0.03") as g:    # raises QuotaExceeded before the call
            reply = call_model(max_tokens=g.tokens)
            g.settle(tokens=reply.total_tokens, cost=reply.cost)

        @atlas.quotas.guard(user, tokens=4096)                           # a new guard for every call
        def ask(prompt): ...

    A guard is for one call. Any thread may call its methods.
    """

    def extend(self, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Add these amounts to the reservation, or make it expire `ttl` from now: all or nothing. One round trip.

        `g.tokens` and `g.cost` are the new totals afterwards. Raises QuotaExceeded, NotFound when the reservation has
        expired, DatabaseUnreachable.
        """
        grant = self._entered()
        self._grant = self._backend.extend(self._payer, grant, tokens=tokens, cost=cost, ttl=ttl)

    def __enter__(self) -> Self:
        user, asked_at = self._begin()
        try:
            grant = self._backend.reserve(user, self._options)
        except BaseException as problem:
            self._refuse(problem)
            raise
        self._enter(grant, asked_at)
        if self._liveness is not None:
            self._heartbeat = Heartbeat(self._backend, user, grant, self._liveness)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        grant = self._leave()
        if grant is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.stop()
        try:
            self._settlement = self._backend.settle(self._payer, grant, self._outcome(error))
        except AtlasError as problem:
            self._failed(problem, error)
        if self._heartbeat is not None:
            self._heartbeat.join()

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Guard every call of a function; call `current_guard()` inside to get the guard.

        Raises TypeError for a function that is awaited, and for generators; InvalidInput for a constant
        `idempotency_key`.
        """
        self._check_decorated(function, awaited=False)

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            with Guard(self._backend, *self._of_call(args, kwargs)):
                return function(*args, **kwargs)

        return guarded


class AsyncGuard(GuardState[AsyncQuotaBackend, AsyncHeartbeat]):
    """A guard for asyncio, which reserves on entry and settles on exit. Create it with `atlas.quotas.guard`.

    ::

        async with atlas.quotas.guard(user, tokens=4096, cost="0.03") as g:   # raises QuotaExceeded before the call
            reply = await call_model(max_tokens=g.tokens)
            g.settle(tokens=reply.total_tokens, cost=reply.cost)              # no await: the guard writes it on exit

    A guard is for one call. If the task is cancelled on entry, the guard releases its reservation. If the task is
    cancelled on exit, the guard settles in the background, and the client's close waits for that.
    """

    async def extend(self, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Add these amounts to the reservation, or make it expire `ttl` from now: all or nothing. One round trip.

        `g.tokens` and `g.cost` are the new totals afterwards. Raises QuotaExceeded, NotFound when the reservation has
        expired, DatabaseUnreachable.
        """
        grant = self._entered()
        self._grant = await self._backend.extend(self._payer, grant, tokens=tokens, cost=cost, ttl=ttl)

    async def __aenter__(self) -> Self:
        user, asked_at = self._begin()
        try:
            grant = await self._backend.reserve(user, self._options)
        except BaseException as problem:
            self._refuse(problem)
            raise
        self._enter(grant, asked_at)
        if self._liveness is not None:
            self._heartbeat = AsyncHeartbeat(self._backend, user, grant, self._liveness)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        grant = self._leave()
        if grant is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.stop()
        try:
            self._settlement = await self._backend.settle(self._payer, grant, self._outcome(error))
        except AtlasError as problem:
            self._failed(problem, error)
        if self._heartbeat is not None:
            await self._heartbeat.join()

    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Guard every call of an async function; call `current_guard()` inside to get the guard.

        Raises TypeError for a function that is not awaited, and for generators; InvalidInput for a constant
        `idempotency_key`.
        """
        self._check_decorated(function, awaited=True)

        @wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            async with AsyncGuard(self._backend, *self._of_call(args, kwargs)):
                return await function(*args, **kwargs)

        return guarded
