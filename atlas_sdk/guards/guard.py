"""Guards, which reserve before a call and settle after it, even if the call fails."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar, Token
from datetime import timedelta
from decimal import Decimal
from functools import wraps
from threading import Lock
from typing import Any, Literal, ParamSpec, Self, TypeVar, cast

from atlas_sdk._forks import process
from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.backend import AsyncQuotaBackend, Grant, QuotaBackend
from atlas_sdk.guards.heartbeat import AsyncHeartbeat, Heartbeat, HeartbeatState, Held
from atlas_sdk.guards.options import TTL, GuardOptions, UserOrResolver, check_decorated, check_options
from atlas_sdk.guards.usage_record import UsageRecord
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.quotas import Reservation, Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncGuard", "Guard", "current_guard"]

logger = logging.getLogger(__name__)

B = TypeVar("B")
H = TypeVar("H")
T = TypeVar("T")
P = ParamSpec("P")

_current: ContextVar["_GuardState[Any, Any] | None"] = ContextVar("atlas_guard", default=None)


class _GuardState(Held[B, H]):
    """Base class of both guards, with everything that needs no I/O."""

    _kind = "guard"

    def __init__(self, backend: B, user: UserOrResolver, options: GuardOptions) -> None:
        """Use `atlas.quotas.guard`."""
        check_options(options)
        # Heartbeats are for containers only. Without them, more containers than the limit could run after an expiry.
        super().__init__(backend, HeartbeatState(options.get("ttl", TTL)) if options.get("slots") else None)
        self._user = user
        self._options = options
        self._usage = UsageRecord(on_unknown=options.get("on_unknown", "charge"))
        self._lock = Lock()
        self._phase: Literal["new", "entering", "entered", "over"] = "new"
        self._settlement: Settlement | None = None
        self._token: Token[_GuardState[Any, Any] | None] | None = None

    def __repr__(self) -> str:
        who = self._user.email if isinstance(self._user, User) else "the user of each call"
        shown = {"tokens", "cost", "slots", "builds", "requests"}
        amounts = ", ".join(f"{name}={value}" for name, value in self._options.items() if name in shown)
        return f"<{type(self).__name__} for {who}: {amounts or 'requests=1'}; {self._phase}>"

    @property
    def tokens(self) -> int:
        """The granted tokens, from `min_tokens` to `tokens`: the `max_tokens` of the call."""
        return self._granted.tokens

    @property
    def cost(self) -> Decimal:
        """The granted cost, in US dollars."""
        return self._granted.cost

    @property
    def repeated(self) -> bool:
        """True if an earlier call with this idempotency key made the reservation, and has not ended."""
        return isinstance(self._granted, Reservation) and self._granted.repeated

    @property
    def settlement(self) -> Settlement | None:
        """The amounts charged; None before the end, and when the settlement is kept for later."""
        return self._settlement

    def progress(self, *, tokens: int = 0, cost: Money = 0) -> None:
        """Report the totals used so far, which never decrease. No round trip.

        If the body ends without `settle`, the guard charges the progress. Cost in US dollars. Raises InvalidInput.
        """
        self._entered()
        self._usage.progress(tokens=tokens, cost=cost)

    def settle(
        self, *, tokens: int | None = None, cost: Money | None = None, meta: Mapping[str, object] | None = None
    ) -> None:
        """Report the final usage; the guard writes it on exit. No round trip.

        None means unknown, not 0: the guard charges the progress, or the whole reservation if there was none. Usage
        above the reservation is charged too, and marked as overrun. A second call with the same amounts changes
        nothing. `meta` is added to the ledger's entry. Cost in US dollars. Raises InvalidInput for other amounts than
        before.
        """
        self._entered()
        self._usage.settle(tokens=tokens, cost=cost, meta=meta)

    def release(self) -> None:
        """Report that the call did not happen. The guard still charges its progress. No round trip.

        Requests and builds stay counted. Raises InvalidInput after `settle`.
        """
        self._entered()
        self._usage.release()

    def _entered(self) -> Grant:
        grant = self._granted
        if self._phase != "entered":
            raise InvalidInput("this guard has ended, and its usage is settled", field="guard")
        return grant

    @property
    def _payer(self) -> User:
        if not isinstance(self._user, User):
            raise InvalidInput("a function as user works in a decorator only: give a user here", field="user")
        return self._user

    def _begin(self) -> tuple[User, float, WaitSchedule | None]:
        """Start the entry; return the user who pays, the time before the request, and the wait."""
        user = self._payer
        if callable(self._options.get("idempotency_key")):
            message = "a function as idempotency_key works in a decorator only: give a key here"
            raise InvalidInput(message, field="idempotency_key")
        with self._lock:
            if self._phase != "new":
                raise InvalidInput(f"this guard is {self._phase} already: create one for every call", field="guard")
            self._phase = "entering"
        asked_at = 0.0 if self._liveness is None else self._liveness.clock()
        return user, asked_at, WaitSchedule(wait) if (wait := self._options.get("wait")) else None

    def _enter(self, grant: Grant, asked_at: float) -> None:
        if self._liveness is not None:
            self._liveness.begin(grant, asked_at)
        self._grant, self._process, self._phase = grant, process.generation, "entered"
        self._token = _current.set(self)

    def _leave(self) -> Grant | None:
        """Return the grant to settle; None in a forked child, whose parent settles it."""
        if self._token is not None:
            try:
                _current.reset(self._token)
            except ValueError:
                # The threads of a web framework may enter and exit in different contexts. The context of the entry ends
                # with its task.
                logger.debug("the exit of a guard runs in another context than its entry")
        if process.generation != self._process:
            return None
        with self._lock:
            self._phase = "over"
        return self._grant

    def _failed(self, problem: AtlasError, body_error: BaseException | None) -> None:
        """Raise the error of the settlement, unless the body raises an error of its own."""
        if body_error is None:
            raise problem
        logger.warning("reservation %s is left to its expiry: %s", self.id, problem)

    def _of_call(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[User, GuardOptions]:
        """Return user and options for one call of the decorated function."""
        user = self._user if isinstance(self._user, User) else self._user(*args, **kwargs)
        key = self._options.get("idempotency_key")
        return user, {**self._options, "idempotency_key": key(*args, **kwargs)} if callable(key) else self._options


class Guard(_GuardState[QuotaBackend[Any], Heartbeat]):
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
        user, asked_at, wait = self._begin()
        try:
            grant = self._backend.reserve(user, self._options, wait)
        except BaseException:
            # Nothing was reserved, so the guard may be entered again.
            self._phase = "new"
            raise
        self._enter(grant, asked_at if wait is None else wait.asked_at)
        if self._liveness is not None:
            self._heartbeat = Heartbeat(self._backend, user, grant, self._liveness)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        grant = self._leave()
        if grant is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.stop()
        try:
            self._settlement = self._backend.settle(self._payer, grant, self._usage.outcome())
        except AtlasError as problem:
            self._failed(problem, error)
        if self._heartbeat is not None:
            self._heartbeat.join()

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Guard every call of a function; call `current_guard()` inside to get the guard.

        Raises TypeError for a function that is awaited, and for generators; InvalidInput for a constant
        `idempotency_key`.
        """
        check_decorated(function, self._options, awaited=False)

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            with Guard(self._backend, *self._of_call(args, kwargs)):
                return function(*args, **kwargs)

        return guarded


class AsyncGuard(_GuardState[AsyncQuotaBackend[Any], AsyncHeartbeat]):
    """A guard for asyncio, which reserves on entry and settles on exit. Create it with `atlas.quotas.guard`.

    ::

        async with atlas.quotas.guard(user, tokens=4096, cost="0.03") as g:   # raises QuotaExceeded before the call
            reply = await call_model(max_tokens=g.tokens)
            g.settle(tokens=reply.total_tokens, cost=reply.cost)              # no await: the guard writes it on exit

    A guard is for one call. If the task is cancelled on entry, the guard releases its reservation. If the task is
    cancelled on exit, the guard settles in the background, and the client's close waits for that.
    """

    async def extend(self, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Add to the reservation, or make it expire `ttl` from now, as `Guard.extend` does. One round trip."""
        grant = self._entered()
        self._grant = await self._backend.extend(self._payer, grant, tokens=tokens, cost=cost, ttl=ttl)

    async def __aenter__(self) -> Self:
        user, asked_at, wait = self._begin()
        try:
            grant = await self._backend.reserve(user, self._options, wait)
        except BaseException:
            # Nothing was reserved, so the guard may be entered again.
            self._phase = "new"
            raise
        self._enter(grant, asked_at if wait is None else wait.asked_at)
        if self._liveness is not None:
            self._heartbeat = AsyncHeartbeat(self._backend, user, grant, self._liveness)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        grant = self._leave()
        if grant is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.stop()
        try:
            self._settlement = await self._backend.settle(self._payer, grant, self._usage.outcome())
        except AtlasError as problem:
            self._failed(problem, error)
        if self._heartbeat is not None:
            await self._heartbeat.join()

    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Guard every call of an async function; call `current_guard()` inside to get the guard.

        Raises TypeError for a function that is not awaited. The other errors are as in `Guard`.
        """
        check_decorated(function, self._options, awaited=True)

        @wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            async with AsyncGuard(self._backend, *self._of_call(args, kwargs)):
                return await function(*args, **kwargs)

        return guarded


def current_guard() -> "Guard | AsyncGuard":
    """Return the innermost guard around the running code, so that a decorated function can settle it.

    Raises InvalidInput outside of guards.
    """
    guard = _current.get()
    if guard is None:
        raise InvalidInput("no guard is entered here: use `with atlas.quotas.guard(…)` around the call", field="guard")
    return cast("Guard | AsyncGuard", guard)
