"""One call's part of a block, and what both leases share: the path that does not leave the process.

A pair of `reserve` and `settle` costs about a microsecond, so here are no validators, no Decimal unless an amount of
dollars is given, and one lock.
"""

import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from threading import Condition, RLock
from typing import Any
from uuid import UUID

from atlas_sdk.errors import InvalidInput
from atlas_sdk.guards.asking import Ask
from atlas_sdk.guards.block import NANO_MAX, Block, dollars, nano_promised, nano_used
from atlas_sdk.guards.forks import tell_of_forks
from atlas_sdk.guards.owed import seconds
from atlas_sdk.guards.purse import Purse
from atlas_sdk.guards.source import Held
from atlas_sdk.guards.want import Want
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, as_json, count, money, ttl_of

__all__ = ["Call", "Leasing", "amounts_of", "call_of"]

#: The requests of a block, unless told: they are held while the block lives, and few users may make more an hour.
REQUESTS = 1000
#: A shorter life is over before it is worth a round trip.
_TTL_MIN = timedelta(seconds=1)


class Call:
    """A call that was promised its part of a block: settle or release it. It costs no round trip."""

    __slots__ = ("block", "cost_nano", "ended", "leasing", "tokens")

    #: Every call is its own.
    repeated = False

    def __init__(self, leasing: "Leasing", block: Block, tokens: int, cost_nano: int) -> None:
        """Use `reserve` of a lease."""
        self.leasing = leasing
        self.block = block
        #: What was granted: the `max_tokens` of the call.
        self.tokens = tokens
        #: In billionths of a dollar.
        self.cost_nano = cost_nano
        self.ended = False

    @property
    def id(self) -> UUID:
        """The block that this is a part of, as `quotas.holds` lists it; a long call is moved to one of its own size."""
        return self.block.id

    @property
    def epoch(self) -> int:
        """The block's epoch."""
        return self.block.epoch

    @property
    def cost(self) -> Decimal:
        """US dollars."""
        return dollars(self.cost_nano)

    def settle(self, tokens: int | None = None, *, cost: Money | None = None, cost_nano: int | None = None) -> None:
        """Note what was used; None is not 0 but unknown: all that was promised. Raises InvalidInput.

        More than was promised is charged too. A second call changes nothing. `cost_nano` is in billionths of a dollar.
        """
        if tokens is None:
            tokens = self.tokens
        elif tokens.__class__ is not int or not 0 <= tokens <= TOKENS_MAX:
            tokens = count("tokens", tokens, TOKENS_MAX)
        if cost is not None:
            cost_nano = nano_used(money("cost", cost))
        elif cost_nano is None:
            cost_nano = self.cost_nano
        elif cost_nano.__class__ is not int or cost_nano < 0:
            cost_nano = count("cost_nano", cost_nano, NANO_MAX)
        leasing = self.leasing
        with leasing.lock:
            if self.ended:
                return
            self.ended = True
            if self.block.give(self.tokens, self.cost_nano, tokens, cost_nano):
                leasing.drained(self.block)

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Dropped, and nobody will tell what it used: its block must not wait for that. At the end of the interpreter
        # everything is settled already, and the thread that had the lock may be gone.
        if not self.ended and not finalizing():
            self.settle()

    def release(self) -> None:
        """Give the promise back: the call did not happen. It counts as a request all the same."""
        self.settle(0, cost_nano=0)

    def released(self) -> Settlement:
        """Release, and say it as the database says it."""
        outcome = "repeated" if self.ended else "released"
        self.release()
        return Settlement(outcome=outcome, tokens=0, cost=Decimal(), overrun=False)

    def settlement(self, tokens: int | None, cost: Decimal | None) -> Settlement:
        """Settle, and say it as the database says it."""
        outcome = "repeated" if self.ended else "settled"
        self.settle(tokens, cost=cost)
        used, spent = self.tokens if tokens is None else tokens, self.cost if cost is None else cost
        return Settlement(
            outcome=outcome, tokens=used, cost=spent, overrun=used > self.tokens or nano_used(spent) > self.cost_nano
        )


class Leasing:
    """What a lease is for both faces; the lock is one that a finalizer may take while it is held."""

    def __init__(
        self,
        user: User,
        *,
        tokens: int = 0,
        cost: Money = 0,
        requests: int = REQUESTS,
        ttl: timedelta = timedelta(seconds=60),
        idle_s: float = 2.0,
        holder: str = "",
        meta: Mapping[str, object] | None = None,
        clock: Callable[[], float] = seconds,
    ) -> None:
        """Take the size of a block; nothing is reserved until the first call."""
        self.user = user
        self.purse = Purse(
            user,
            tokens=count("tokens", tokens, TOKENS_MAX),
            nano=nano_promised(money("cost", cost)),
            requests=count("requests", requests),
            ttl=_ttl(ttl),
            holder=holder,
            meta=meta,
            idle_s=idle_s,
            clock=clock,
        )
        if not tokens and not self.purse.nano and not requests:
            raise InvalidInput("nothing to lease: every amount is 0", field="tokens")
        as_json(meta)
        if not idle_s > 0:
            raise InvalidInput(f"idle_s must be more than 0, not {idle_s}", field="idle_s")
        self.idle_s = idle_s
        self.clock = clock
        self.closed = False
        self._requests_each = 1 if requests else 0
        self._renew()
        tell_of_forks(self)

    def _renew(self) -> None:
        # Not a plain Lock: the collector may run a finalizer that settles a call while this thread holds it.
        self.lock = RLock()
        #: Told when a talk ends.
        self.changed = Condition(self.lock)
        #: Somebody talks to the database for this lease.
        self.talking = False

    def after_fork(self) -> None:
        """Begin anew in a forked child: blocks, locks and talks are the parent's."""
        self._renew()
        self.purse.forget()

    def drained(self, block: Block) -> None:
        """Settle soon a block whose last call has ended. The lock is held."""
        self.purse.drained(block)
        self.remind()

    def remind(self) -> None:
        """Have the keeper look after this lease now."""
        raise NotImplementedError

    @property
    def empty(self) -> bool:
        """Whether the keeper has nothing to look after."""
        return self.purse.empty

    @property
    def can_give_back(self) -> bool:
        """Whether it holds something that no call needs."""
        with self.lock:
            return self.purse.can_give_back

    def refuse_if_closed(self) -> None:
        """Raise InvalidInput when this lease was closed."""
        if self.closed:
            raise InvalidInput("this lease is closed: open a new one", field="lease")

    def resize(self, tokens: int, nano: int, requests: int) -> None:
        """Change the size of the blocks to come."""
        with self.lock:
            self.purse.tokens, self.purse.nano, self.purse.requests = tokens, nano, requests

    def drop(self) -> None:
        """Give the present block back soon. Does not wait."""
        with self.lock:
            self.purse.retire()
            if not self.empty:
                self.remind()

    def take(self, tokens: int, nano: int, requests: int) -> Call | None:
        """Promise from the present block, if it is enough: no round trip, no waiting."""
        with self.lock:
            block = self.purse.current
            if block is not None and block.take(tokens, nano, requests, self.clock()):
                return Call(self, block, tokens, nano)
        return None

    def want(self, tokens: int, least: int | None, cost: Money, nano: int, requests: int | None) -> Want:
        """Check what is asked for. Raises InvalidInput."""
        self.refuse_if_closed()
        asked = Want(
            count("tokens", tokens, TOKENS_MAX),
            tokens if least is None else count("min_tokens", least, tokens, least=min(tokens, 1)),
            nano_promised(money("cost", cost)) if cost else count("cost_nano", nano, NANO_MAX),
            self._requests_each if requests is None else count("requests", requests),
        )
        if not (asked.tokens or asked.nano or asked.requests):
            raise InvalidInput("nothing to reserve: every amount is 0", field="tokens")
        for name, amount, size in (
            ("tokens", asked.tokens, self.purse.tokens),
            ("cost", asked.nano, self.purse.nano),
            ("requests", asked.requests, self.purse.requests),
        ):
            if amount and not size:
                raise InvalidInput(f"this lease holds no {name}: open it with {name}=…", field=name)
        return asked


#: What a guard may be asked for that is one block's for all of its calls, or needs a reservation of its own.
_NOT_OF_A_LEASE = ("slots", "builds", "ttl", "holder", "meta", "idempotency_key")


def amounts_of(ask: Ask) -> dict[str, Any]:
    """Return what a lease is asked for by a guard. Raises InvalidInput for what is the lease's, or not for leases."""
    for name in _NOT_OF_A_LEASE:
        if ask.get(name):
            message = f"a guard of a lease takes no {name}: give it to the lease, or use `quotas.guard`"
            raise InvalidInput(message, field=name)
    return {name: ask[name] for name in ("tokens", "min_tokens", "cost", "requests") if name in ask}


def call_of(held: Held) -> Call:
    """Return what a lease promised. Raises TypeError for what something else did."""
    if not isinstance(held, Call):
        message = f"{held!r} is not of a lease"
        raise TypeError(message)
    return held


def _ttl(value: timedelta) -> timedelta:
    if ttl_of(value) < _TTL_MIN:
        raise InvalidInput(f"the ttl of a lease must be at least 1 s, not {value}", field="ttl")
    return value
