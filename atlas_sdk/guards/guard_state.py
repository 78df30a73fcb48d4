"""State of one guard: options, grant, and reported usage. No I/O; both kinds of guards share it."""

import inspect
import json
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from decimal import Decimal
from threading import Lock
from typing import Any, Final, Generic, Literal, TypeVar
from uuid import UUID

from atlas_sdk._forks import process
from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.backend import RELEASED, Grant, Outcome
from atlas_sdk.guards.heartbeat import HeartbeatState
from atlas_sdk.guards.options import TTL, GuardOptions, UserOrResolver
from atlas_sdk.model.quotas import Reservation, Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, count, meta_text, money

__all__ = ["GuardState", "UsageRecord", "current"]

logger = logging.getLogger(__name__)

B = TypeVar("B")
H = TypeVar("H")

current: ContextVar["GuardState[Any, Any] | None"] = ContextVar("atlas_guard", default=None)

_OPTIONS = frozenset(GuardOptions.__annotations__)


class UsageRecord:
    """The usage that the body of a guard has reported: progress and final amounts. Several threads may report."""

    __slots__ = ("_cost", "_end", "_lock", "_on_unknown", "_tokens")

    def __init__(self, *, on_unknown: Literal["charge", "release"] = "charge") -> None:
        self._on_unknown = on_unknown
        self._lock = Lock()
        #: Totals of the progress so far.
        self._tokens = 0
        self._cost = Decimal()
        #: The reported end: a settlement or a release; None before that.
        self._end: Outcome | None = None

    def progress(self, *, tokens: int = 0, cost: Money = 0) -> None:
        """Report totals so far, which never decrease. They do not change final amounts."""
        told_tokens, told_cost = count("tokens", tokens, TOKENS_MAX), money("cost", cost)
        with self._lock:
            self._tokens = max(self._tokens, told_tokens)
            self._cost = max(self._cost, told_cost)

    def settle(
        self, *, tokens: int | None = None, cost: Money | None = None, meta: Mapping[str, object] | None = None
    ) -> None:
        """Report the final amounts; None means unknown, not 0. Raises InvalidInput if they differ from earlier ones."""
        end = Outcome(
            tokens=None if tokens is None else count("tokens", tokens, TOKENS_MAX),
            cost=None if cost is None else money("cost", cost),
            # Copy `meta`, so that the caller cannot change it before it is written.
            meta=None if meta is None else json.loads(meta_text(meta)),
        )
        with self._lock:
            if self._end is None:
                self._end = end
            elif self._end is RELEASED:
                raise InvalidInput("this guard was released, so it cannot be settled", field="guard")
            elif (self._end.tokens, self._end.cost) != (end.tokens, end.cost):
                raise InvalidInput("this guard was settled with other amounts: they are final", field="guard")

    def release(self) -> None:
        """Report that the call did not happen. Raises InvalidInput when it was settled."""
        with self._lock:
            if self._end not in {None, RELEASED}:
                raise InvalidInput("this guard was settled, so it cannot be released", field="guard")
            self._end = RELEASED

    def outcome(self, *, unsent: bool = False) -> Outcome:
        """Return the outcome to write at the end of the body.

        Each amount is the final one if reported, else the progress, else None. A released call is charged its progress
        only. With `on_unknown="release"`, or if it was certainly not sent, a call that reported nothing is released.
        """
        with self._lock:
            end, tokens, cost = self._end, self._tokens or None, self._cost or None
        if end is None and self._on_unknown == "charge" and not (unsent and tokens is None and cost is None):
            return Outcome(tokens=tokens, cost=cost)
        if end is not None and end is not RELEASED:
            return Outcome(
                tokens=tokens if end.tokens is None else end.tokens,
                cost=cost if end.cost is None else end.cost,
                meta=end.meta,
            )
        if tokens is None and cost is None:
            return RELEASED
        return Outcome(tokens=tokens or 0, cost=cost or Decimal())


#: The options that a guard's `repr` shows.
_AMOUNTS: Final = frozenset({"tokens", "cost", "slots", "builds", "requests"})


class GuardState(Generic[B, H]):
    """Base class of both guards, with everything that needs no I/O."""

    def __init__(self, backend: B, user: UserOrResolver, options: GuardOptions) -> None:
        """Use `atlas.quotas.guard`."""
        _check_options(options)
        self._backend = backend
        self._user = user
        self._options = options
        self._usage = UsageRecord(on_unknown=options.get("on_unknown", "charge"))
        self._lock = Lock()
        self._phase: Literal["new", "entering", "entered", "over"] = "new"
        self._grant: Grant | None = None
        self._settlement: Settlement | None = None
        self._token: Token[GuardState[Any, Any] | None] | None = None
        #: The error that kept a guard inside this one from being entered.
        self._inner_refusal: BaseException | None = None
        self._heartbeat: H | None = None
        #: The process that entered the guard.
        self._process = 0
        #: Heartbeats are for containers only. Without them, more containers than the limit could run after an expiry.
        self._liveness = HeartbeatState(options.get("ttl", TTL)) if options.get("slots") else None

    def __repr__(self) -> str:
        who = self._user.email if isinstance(self._user, User) else "the user of each call"
        amounts = ", ".join(f"{name}={value}" for name, value in self._options.items() if name in _AMOUNTS)
        return f"<{type(self).__name__} for {who}: {amounts or 'requests=1'}; {self._phase}>"

    @property
    def _granted(self) -> Grant:
        if self._grant is None:
            raise InvalidInput("enter the guard first: `with guard as g:`", field="guard")
        return self._grant

    @property
    def id(self) -> UUID:
        """The id of the reservation, or of the lease's block that the grant is a part of."""
        return self._granted.id

    @property
    def tokens(self) -> int:
        """The granted tokens, from `min_tokens` to `tokens`: the `max_tokens` of the call."""
        return self._granted.tokens

    @property
    def cost(self) -> Decimal:
        """The granted cost, in US dollars."""
        return self._granted.cost

    @property
    def epoch(self) -> int | None:
        """The fencing number, which grows with every grant to the user; see `Reservation.epoch`."""
        return self._granted.epoch

    @property
    def repeated(self) -> bool:
        """True if an earlier call with this idempotency key made the reservation, and has not ended."""
        return isinstance(self._granted, Reservation) and self._granted.repeated

    @property
    def settlement(self) -> Settlement | None:
        """The amounts charged; None before the end, and when the settlement is kept for later."""
        return self._settlement

    @property
    def lost(self) -> bool:
        """True if other containers may run in the `slots` of this guard, like a slot's `lost`; False without slots."""
        self._granted  # noqa: B018  # raises before the guard is entered
        return self._liveness is not None and self._liveness.lost

    def check(self) -> None:
        """Raise SlotLost if the guard has lost its `slots`, else do nothing. No round trip."""
        self._granted  # noqa: B018  # as above
        if self._liveness is not None:
            self._liveness.check()

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

    def _begin(self) -> tuple[User, float]:
        """Start the entry; return the user who pays, and the time before the request."""
        user = self._payer
        if callable(self._options.get("idempotency_key")):
            message = "a function as idempotency_key works in a decorator only: give a key here"
            raise InvalidInput(message, field="idempotency_key")
        with self._lock:
            if self._phase != "new":
                raise InvalidInput(f"this guard is {self._phase} already: create one for every call", field="guard")
            self._phase = "entering"
        return user, 0.0 if self._liveness is None else self._liveness.clock()

    def _refuse(self, problem: BaseException) -> None:
        """Allow another entry, because nothing was reserved. Tell the guard around this one."""
        self._phase = "new"
        if isinstance(problem, AtlasError):
            _tell_outer_guard(problem)

    def _outcome(self, error: BaseException | None) -> Outcome:
        """Return the outcome to write after the body, which ended with this error.

        If a guard inside was not entered and its error ended the body, the call was not sent, and a body that reported
        nothing has used nothing. Without a key no other try of the call can be running.
        """
        unsent = error is not None and error is self._inner_refusal and not self.repeated
        outcome = self._usage.outcome(unsent=unsent and "on_unknown" not in self._options)
        # The error refers to frames, and so to this guard.
        self._inner_refusal = None
        if unsent and outcome is RELEASED:
            _tell_outer_guard(error)
        return outcome

    def _enter(self, grant: Grant, asked_at: float) -> None:
        if self._liveness is not None:
            self._liveness.begin(grant, asked_at)
        self._grant, self._process, self._phase = grant, process.generation, "entered"
        self._token = current.set(self)

    def _leave(self) -> Grant | None:
        """Return the grant to settle; None in a forked child, whose parent settles it."""
        if self._token is not None:
            try:
                current.reset(self._token)
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

    def _check_decorated(self, function: Callable[..., object], *, awaited: bool) -> None:
        """Raise TypeError or InvalidInput for a function that this guard cannot decorate."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            message = f"{function!r} is a generator: its guard would end before its first item; use a guard inside"
            raise TypeError(message)
        if _is_async(function) != awaited:
            is_, other = ("is not async", "Atlas") if awaited else ("is async", "AsyncAtlas")
            message = f"{function!r} {is_}: use the guard of an {other}"
            raise TypeError(message)
        key = self._options.get("idempotency_key")
        if key is not None and not callable(key):
            message = "a decorator needs one idempotency_key per call: give a function of the arguments"
            raise InvalidInput(message, field="idempotency_key")

    def _of_call(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[User, GuardOptions]:
        """Return user and options for one call of the decorated function."""
        user = self._user if isinstance(self._user, User) else self._user(*args, **kwargs)
        key = self._options.get("idempotency_key")
        return user, {**self._options, "idempotency_key": key(*args, **kwargs)} if callable(key) else self._options


def _tell_outer_guard(refusal: BaseException | None) -> None:
    """Note in the guard around the running code that a guard inside was not entered."""
    outer = current.get()
    if outer is not None:
        outer._inner_refusal = refusal  # noqa: SLF001  # of this class


def _check_options(options: GuardOptions) -> None:
    """Check names and choices; `quotas.reserve` checks the amounts. Raises TypeError, InvalidInput."""
    if unknown := options.keys() - _OPTIONS:
        message = f"guard() takes no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(_OPTIONS))}"
        raise TypeError(message)
    if options.get("on_unknown", "charge") not in {"charge", "release"}:
        message = f'on_unknown must be "charge" or "release", not {options["on_unknown"]!r}'
        raise InvalidInput(message, field="on_unknown")
    key: object = options.get("idempotency_key")
    if key is not None and not isinstance(key, UUID) and not (isinstance(key, str) and key) and not callable(key):
        raise InvalidInput(f"idempotency_key must be a str or a UUID, not {key!r}", field="idempotency_key")


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # not whether it is callable
