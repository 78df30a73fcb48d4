"""Guards: reserve before a call, settle after it, whatever happens in between."""

import inspect
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar, Token
from datetime import timedelta
from decimal import Decimal
from functools import wraps
from threading import Lock
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, cast
from uuid import UUID

from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.asking import Ask, checked
from atlas_sdk.guards.source import AsyncSource, Held, Source
from atlas_sdk.guards.spending import Spending
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncGuard", "Guard", "current_guard"]

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)

#: Who pays: a user, or for a decorator what finds the user from the function's arguments.
Payer = User | Callable[..., User]

_current: ContextVar["_Call | None"] = ContextVar("atlas_guard", default=None)


def current_guard() -> "Guard | AsyncGuard":
    """Return the innermost guard that is entered here; what a decorated function settles. Raises InvalidInput."""
    guard = _current.get()
    if guard is None:
        raise InvalidInput("no guard is entered here: use `with atlas.quotas.guard(…)` around the call", field="guard")
    return cast("Guard | AsyncGuard", guard)


class _Call:
    """One call that is paid for: what both guards do without waiting."""

    def __init__(self, user: Payer, ask: Ask) -> None:
        self._user = user
        self._ask = checked(ask)
        self._spending = Spending(on_unknown=ask.get("on_unknown", "charge"))
        self._lock = Lock()
        self._state: Literal["new", "entering", "entered", "over"] = "new"
        self._held: Held | None = None
        self._settlement: Settlement | None = None
        self._token: Token[_Call | None] | None = None
        self._pid = 0

    @property
    def _granted(self) -> Held:
        if self._held is None:
            raise InvalidInput("enter the guard first: `with guard as g:`", field="guard")
        return self._held

    @property
    def id(self) -> UUID:
        """The reservation; of a lease, the block that it was taken from."""
        return self._granted.id

    @property
    def tokens(self) -> int:
        """What was granted, from `min_tokens` to `tokens`: the `max_tokens` of the call."""
        return self._granted.tokens

    @property
    def cost(self) -> Decimal:
        """What was granted, in US dollars."""
        return self._granted.cost

    @property
    def epoch(self) -> int | None:
        """Grows with every grant to the user: a driver obeys the highest that it has seen."""
        return self._granted.epoch

    @property
    def repeated(self) -> bool:
        """Whether an earlier call with this idempotency key, which did not end, made the reservation."""
        return self._granted.repeated

    @property
    def settlement(self) -> Settlement | None:
        """What was charged; None before the end, and when the database was gone and it is kept for later."""
        return self._settlement

    def progress(self, *, tokens: int = 0, cost: Money = 0) -> None:
        """Note how much is used so far, as totals; they never go down. No round trip.

        It is what is charged when the body ends without `settle`. Cost in US dollars. Raises InvalidInput.
        """
        self._entered()
        self._spending.progress(tokens=tokens, cost=cost)

    def settle(
        self, *, tokens: int | None = None, cost: Money | None = None, meta: Mapping[str, object] | None = None
    ) -> None:
        """Note what was used in the end; it is written when the guard is left. No round trip.

        None is not 0 but unknown: what has progressed is charged, and all that was promised when nothing has. More
        than was promised is charged too, and marked as overrun. The same amounts a second time change nothing, others
        raise InvalidInput. `meta` is added to the ledger's entry. Cost in US dollars.
        """
        self._entered()
        self._spending.settle(tokens=tokens, cost=cost, meta=meta)

    def release(self) -> None:
        """Note that the call did not happen; what has progressed is charged all the same. No round trip.

        Requests and builds stay counted. Raises InvalidInput after `settle`.
        """
        self._entered()
        self._spending.release()

    def _entered(self) -> Held:
        held = self._granted
        if self._state != "entered":
            raise InvalidInput("this guard is over: what it used is settled", field="guard")
        return held

    @property
    def _begun(self) -> User:
        if not isinstance(self._user, User):
            raise InvalidInput("a guard whose user is a function is a decorator: name the user here", field="user")
        return self._user

    def _begin(self) -> User:
        user = self._begun
        with self._lock:
            if self._state != "new":
                raise InvalidInput(f"this guard is {self._state} already: make one for every call", field="guard")
            self._state = "entering"
        return user

    def _refuse(self) -> None:
        """Nothing was reserved, so it may be tried again."""
        self._state = "new"

    def _enter(self, held: Held) -> None:
        self._held, self._pid, self._state = held, os.getpid(), "entered"
        self._token = _current.set(self)

    def _leave(self) -> Held | None:
        """Return what is to be settled; None in a forked child: it is the parent's."""
        if self._token is not None:
            try:
                _current.reset(self._token)
            except ValueError:
                # Entered and left in different contexts, as by a web framework's threads: that one ends with its task.
                logger.debug("a guard was left in another context than it was entered in")
        if os.getpid() != self._pid:
            return None
        with self._lock:
            self._state = "over"
        return self._held

    def _failed(self, error: AtlasError, of_body: BaseException | None) -> None:
        """Tell what kept a settlement from being written, unless the body has an exception of its own to tell."""
        if of_body is None:
            raise error
        logger.warning("reservation %s is left to its expiry: %s", self.id, error)

    def _payer(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> User:
        return self._user if isinstance(self._user, User) else self._user(*args, **kwargs)


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # not whether it is callable


def _refuse_generators(function: Callable[..., object]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        message = f"{function!r} is a generator: its guard would end before its first item; enter one inside of it"
        raise TypeError(message)


class Guard(_Call):
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

    def extend(self, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Promise this much more, or keep it for `ttl` from now on: all of it or nothing. One round trip.

        `g.tokens` and `g.cost` are then the whole. Raises QuotaExceeded, NotFound when the reservation has expired,
        DatabaseUnreachable.
        """
        held = self._entered()
        self._held = self._source.extend(self._begun, held, tokens=tokens, cost=cost, ttl=ttl)

    def __enter__(self) -> Self:
        user = self._begin()
        try:
            held = self._source.reserve(user, self._ask)
        except BaseException:
            self._refuse()
            raise
        self._enter(held)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._leave()
        if held is None:
            return
        try:
            self._settlement = self._write(held)
        except AtlasError as problem:
            self._failed(problem, error)

    def _write(self, held: Held) -> Settlement | None:
        user, verdict = self._begun, self._spending.verdict()
        if verdict.releases:
            return self._source.release(user, held)
        return self._source.settle(user, held, tokens=verdict.tokens, cost=verdict.cost, meta=verdict.meta)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Guard every call of a function; `current_guard()` gives the guard inside of it.

        Raises TypeError for a function that is awaited, and for generators.
        """
        _refuse_generators(function)
        if _is_async(function):
            message = f"{function!r} is awaited: take the guard of an AsyncAtlas"
            raise TypeError(message)

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            with Guard(self._source, self._payer(args, kwargs), self._ask):
                return function(*args, **kwargs)

        return guarded


class AsyncGuard(_Call):
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

    async def extend(self, *, tokens: int = 0, cost: Money = 0, ttl: timedelta | None = None) -> None:
        """Promise this much more, or keep it for `ttl` from now on: all of it or nothing. One round trip.

        `g.tokens` and `g.cost` are then the whole. Raises QuotaExceeded, NotFound when the reservation has expired,
        DatabaseUnreachable.
        """
        held = self._entered()
        self._held = await self._source.extend(self._begun, held, tokens=tokens, cost=cost, ttl=ttl)

    async def __aenter__(self) -> Self:
        user = self._begin()
        try:
            held = await self._source.reserve(user, self._ask)
        except BaseException:
            self._refuse()
            raise
        self._enter(held)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._leave()
        if held is None:
            return
        try:
            self._settlement = await self._write(held)
        except AtlasError as problem:
            self._failed(problem, error)

    async def _write(self, held: Held) -> Settlement | None:
        user, verdict = self._begun, self._spending.verdict()
        if verdict.releases:
            return await self._source.release(user, held)
        return await self._source.settle(user, held, tokens=verdict.tokens, cost=verdict.cost, meta=verdict.meta)

    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Guard every call of an async function; `current_guard()` gives the guard inside of it.

        Raises TypeError for a function that is not awaited, and for generators.
        """
        _refuse_generators(function)
        if not _is_async(function):
            message = f"{function!r} is not awaited: take the guard of an Atlas"
            raise TypeError(message)

        @wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            async with AsyncGuard(self._source, self._payer(args, kwargs), self._ask):
                return await function(*args, **kwargs)

        return guarded
