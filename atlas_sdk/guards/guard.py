"""Guards: reserve before a call, settle after it, whatever happens in between."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.asking import Ask
from atlas_sdk.guards.entered import Entered, Payer, current
from atlas_sdk.guards.heartbeat import AsyncHeartbeat, Heartbeat
from atlas_sdk.guards.source import AsyncSource, Held, Source
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncGuard", "Guard", "current_guard"]

T = TypeVar("T")
P = ParamSpec("P")


def current_guard() -> "Guard | AsyncGuard":
    """Return the innermost guard that is entered here; what a decorated function settles. Raises InvalidInput."""
    guard = current.get()
    if guard is None:
        raise InvalidInput("no guard is entered here: use `with atlas.quotas.guard(…)` around the call", field="guard")
    return cast("Guard | AsyncGuard", guard)


class Guard(Entered):
    """Reserves when it is entered and settles when it is left. Make one with `atlas.quotas.guard`.

    ::

        with atlas.quotas.guard(user, tokens=4096, cost="0.03") as g:    # raises QuotaExceeded before the call
            reply = call_model(max_tokens=g.tokens)
            g.settle(tokens=reply.total_tokens, cost=reply.cost)

        @atlas.quotas.guard(user, tokens=4096)                           # a fresh one for every call
        def ask(prompt): ...

    It is for one call. Its methods may be called from any thread.
    """

    def __init__(self, source: Source, user: Payer, ask: Ask) -> None:
        """Use `atlas.quotas.guard`."""
        super().__init__(user, ask)
        self._source = source
        self._heart: Heartbeat | None = None

    def extend(self, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Promise this much more, or keep it for `ttl` from now on: all of it or nothing. One round trip.

        `g.tokens` and `g.cost` are then the whole. Raises QuotaExceeded, NotFound when the reservation has expired,
        DatabaseUnreachable.
        """
        held = self._entered()
        self._held = self._source.extend(self._begun, held, tokens=tokens, cost=cost, ttl=ttl)

    def __enter__(self) -> Self:
        user, asked_at = self._begin()
        try:
            held = self._source.reserve(user, self._ask)
        except BaseException:
            self._refuse()
            raise
        self._enter(held, asked_at)
        if self._pulse is not None:
            self._heart = Heartbeat(self._source, user, held, self._pulse)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._leave()
        if held is None:
            return
        if self._heart is not None:
            self._heart.stop()
        try:
            self._settlement = self._write(held)
        except AtlasError as problem:
            self._failed(problem, error)
        if self._heart is not None:
            self._heart.join()

    def _write(self, held: Held) -> Settlement | None:
        user, verdict = self._begun, self._spending.verdict()
        if verdict.releases:
            return self._source.release(user, held)
        return self._source.settle(user, held, tokens=verdict.tokens, cost=verdict.cost, meta=verdict.meta)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Guard every call of a function; `current_guard()` gives the guard inside of it.

        Raises TypeError for a function that is awaited, and for generators; InvalidInput for a constant
        `idempotency_key`.
        """
        self._decorate(function, awaited=False)

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            with Guard(self._source, self._payer(args, kwargs), self._asked(args, kwargs)):
                return function(*args, **kwargs)

        return guarded


class AsyncGuard(Entered):
    """Reserves when it is entered and settles when it is left. Make one with `atlas.quotas.guard`.

    ::

        async with atlas.quotas.guard(user, tokens=4096, cost="0.03") as g:   # raises QuotaExceeded before the call
            reply = await call_model(max_tokens=g.tokens)
            g.settle(tokens=reply.total_tokens, cost=reply.cost)              # not awaited: it is written at the end

    It is for one call. Cancelled while it is entered, it gives back what was reserved; while it is left, it settles
    in the background, and the client's close waits for that.
    """

    def __init__(self, source: AsyncSource, user: Payer, ask: Ask) -> None:
        """Use `atlas.quotas.guard`."""
        super().__init__(user, ask)
        self._source = source
        self._heart: AsyncHeartbeat | None = None

    async def extend(self, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Promise this much more, or keep it for `ttl` from now on: all of it or nothing. One round trip.

        `g.tokens` and `g.cost` are then the whole. Raises QuotaExceeded, NotFound when the reservation has expired,
        DatabaseUnreachable.
        """
        held = self._entered()
        self._held = await self._source.extend(self._begun, held, tokens=tokens, cost=cost, ttl=ttl)

    async def __aenter__(self) -> Self:
        user, asked_at = self._begin()
        try:
            held = await self._source.reserve(user, self._ask)
        except BaseException:
            self._refuse()
            raise
        self._enter(held, asked_at)
        if self._pulse is not None:
            self._heart = AsyncHeartbeat(self._source, user, held, self._pulse)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._leave()
        if held is None:
            return
        if self._heart is not None:
            self._heart.stop()
        try:
            self._settlement = await self._write(held)
        except AtlasError as problem:
            self._failed(problem, error)
        if self._heart is not None:
            await self._heart.join()

    async def _write(self, held: Held) -> Settlement | None:
        user, verdict = self._begun, self._spending.verdict()
        if verdict.releases:
            return await self._source.release(user, held)
        return await self._source.settle(user, held, tokens=verdict.tokens, cost=verdict.cost, meta=verdict.meta)

    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Guard every call of an async function; `current_guard()` gives the guard inside of it.

        Raises TypeError for a function that is not awaited, and for generators; InvalidInput for a constant
        `idempotency_key`.
        """
        self._decorate(function, awaited=True)

        @wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            async with AsyncGuard(self._source, self._payer(args, kwargs), self._asked(args, kwargs)):
                return await function(*args, **kwargs)

        return guarded
