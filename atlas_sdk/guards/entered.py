"""One call that is paid for: what the guards of both faces do without waiting."""

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from decimal import Decimal
from threading import Lock
from typing import Literal
from uuid import UUID

from atlas_sdk.errors import AtlasError, InvalidInput
from atlas_sdk.guards.asking import TTL, Ask, checked
from atlas_sdk.guards.heartbeat import Pulse
from atlas_sdk.guards.source import Held
from atlas_sdk.guards.spending import Spending
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import Money

__all__ = ["Entered", "Payer", "current"]

logger = logging.getLogger(__name__)

#: Who pays: a user, or for a decorator what finds the user from the function's arguments.
Payer = User | Callable[..., User]

current: ContextVar["Entered | None"] = ContextVar("atlas_guard", default=None)


class Entered:
    """A guard: reserved when it is entered, and told what is used until it is left."""

    def __init__(self, user: Payer, ask: Ask) -> None:
        self._user = user
        self._ask = checked(ask)
        self._spending = Spending(on_unknown=ask.get("on_unknown", "charge"))
        self._lock = Lock()
        self._state: Literal["new", "entering", "entered", "over"] = "new"
        self._held: Held | None = None
        self._settlement: Settlement | None = None
        self._token: Token[Entered | None] | None = None
        self._pid = 0
        #: Of containers only: they are oversold when a place outlives its time unheard of.
        self._pulse = Pulse(ask.get("ttl", TTL)) if ask.get("slots") else None

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
        """Grows with every grant to the user; of one container, a driver obeys the highest number that came with it."""
        return self._granted.epoch

    @property
    def repeated(self) -> bool:
        """Whether an earlier call with this idempotency key, which did not end, made the reservation."""
        return self._granted.repeated

    @property
    def settlement(self) -> Settlement | None:
        """What was charged; None before the end, and when the database was gone and it is kept for later."""
        return self._settlement

    @property
    def lost(self) -> bool:
        """Whether other containers may run in the `slots` of this guard, as a slot's `lost`; False without any."""
        self._granted  # noqa: B018  # raises before the guard is entered
        return self._pulse is not None and self._pulse.lost

    def check(self) -> None:
        """Do nothing while the `slots` are ours. Raises SlotLost. No round trip."""
        self._granted  # noqa: B018  # as above
        if self._pulse is not None:
            self._pulse.check()

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

    def _begin(self) -> tuple[User, float]:
        user = self._begun
        if callable(self._ask.get("idempotency_key")):
            message = "a guard whose idempotency_key is a function is a decorator: name the key here"
            raise InvalidInput(message, field="idempotency_key")
        with self._lock:
            if self._state != "new":
                raise InvalidInput(f"this guard is {self._state} already: make one for every call", field="guard")
            self._state = "entering"
        return user, 0.0 if self._pulse is None else self._pulse.clock()

    def _refuse(self) -> None:
        """Nothing was reserved, so it may be tried again."""
        self._state = "new"

    def _enter(self, held: Held, asked_at: float) -> None:
        if self._pulse is not None:
            self._pulse.begin(held, asked_at)
        self._held, self._pid, self._state = held, os.getpid(), "entered"
        self._token = current.set(self)

    def _leave(self) -> Held | None:
        """Return what is to be settled; None in a forked child: it is the parent's."""
        if self._token is not None:
            try:
                current.reset(self._token)
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

    def _decorate(self, function: Callable[..., object], *, awaited: bool) -> None:
        """Raise TypeError, InvalidInput for what cannot be decorated with this guard."""
        _refuse_generators(function)
        if _is_async(function) != awaited:
            is_, take = ("is not awaited", "Atlas") if awaited else ("is awaited", "AsyncAtlas")
            message = f"{function!r} {is_}: take the guard of an {take}"
            raise TypeError(message)
        key = self._ask.get("idempotency_key")
        if key is not None and not callable(key):
            message = "one idempotency_key is one call, and a function has many: give a function of its arguments"
            raise InvalidInput(message, field="idempotency_key")

    def _asked(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Ask:
        key = self._ask.get("idempotency_key")
        return {**self._ask, "idempotency_key": key(*args, **kwargs)} if callable(key) else self._ask


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # not whether it is callable


def _refuse_generators(function: Callable[..., object]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        message = f"{function!r} is a generator: its guard would end before its first item; enter one inside of it"
        raise TypeError(message)
