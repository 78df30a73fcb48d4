"""One call's part of a block, and the core of both leases: everything that stays inside the process.

A pair of `reserve` and `settle` takes about a microsecond. To stay that fast, this module uses one lock, no validators,
and no Decimal unless the caller gives an amount of dollars.
"""

import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from functools import partial
from threading import Condition, RLock
from typing import Any
from uuid import UUID

from atlas_sdk._forks import reset_in_children
from atlas_sdk._plan import Script
from atlas_sdk.errors import InvalidInput
from atlas_sdk.guards.block import NANO_MAX, Block, LeaseRequest, dollars, nano_reserved, nano_used
from atlas_sdk.guards.block_pool import BlockPool
from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.guards.usage_record import Outcome
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, as_json, at_most, count, money, ttl_of

__all__ = ["REQUESTS", "LeaseCall", "LeaseCore", "core_options", "end_call"]

#: The default number of requests in a block. A block holds them while it lives, and few users may make more in an hour.
REQUESTS = 1000
#: A block with a shorter lifetime is not worth its round trip.
_TTL_MIN = timedelta(seconds=1)
#: A monotonic clock that, where the system has one, counts while the machine is suspended, as the server's clock does.
_seconds: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


class LeaseCall:
    """A call's part of a block. Settle or release it, without a round trip."""

    __slots__ = ("_block", "_core", "_ended", "cost_nano", "tokens")

    def __init__(self, core: "LeaseCore", block: Block, tokens: int, cost_nano: int) -> None:
        """Use `reserve` of a lease."""
        self._core = core
        self._block = block
        #: The granted tokens: the `max_tokens` of the call.
        self.tokens = tokens
        #: Granted cost, in billionths of a dollar.
        self.cost_nano = cost_nano
        self._ended = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "running"
        return f"<LeaseCall of block {self._block.id}: tokens={self.tokens}, cost_nano={self.cost_nano}; {state}>"

    @property
    def id(self) -> UUID:
        """The id of the block in `quotas.reservations`. It changes when a long call moves to a smaller reservation."""
        return self._block.id

    @property
    def epoch(self) -> int:
        """The fencing number of the block."""
        return self._block.epoch

    @property
    def cost(self) -> Decimal:
        """The granted cost, in US dollars."""
        return dollars(self.cost_nano)

    def settle(self, tokens: int | None = None, *, cost: Money | None = None, cost_nano: int | None = None) -> None:
        """Report the usage; None means unknown, not 0, and charges the whole grant. Raises InvalidInput.

        Usage above the grant is charged too. A second call changes nothing. `cost_nano` is in billionths of a dollar.
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
        core = self._core
        with core.lock:
            if self._ended:
                return
            self._ended = True
            if self._block.give(self.tokens, self.cost_nano, tokens, cost_nano):
                core.drained(self._block)

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Settle a call that the caller has dropped, because its block waits for it. Skip this at the end of the
        # interpreter: everything is settled by then, and a dead thread may have held the lock.
        if not self._ended and not finalizing():
            self.settle()
            self._core.schedule()

    def release(self) -> None:
        """Release the grant, because the call did not happen. It still counts as a request."""
        self.settle(0, cost_nano=0)


def end_call(call: LeaseCall, outcome: Outcome) -> Settlement:
    """Settle or release a call; return a settlement like that of the database."""
    ended = call._ended  # noqa: SLF001  # a private part of `LeaseCall`
    if outcome.releases:
        call.release()
        return Settlement(outcome="repeated" if ended else "released", tokens=0, cost=Decimal(), overrun=False)
    call.settle(outcome.tokens, cost=outcome.cost)
    tokens = call.tokens if outcome.tokens is None else outcome.tokens
    cost = call.cost if outcome.cost is None else outcome.cost
    overrun = tokens > call.tokens or nano_used(cost) > call.cost_nano
    return Settlement(outcome="repeated" if ended else "settled", tokens=tokens, cost=cost, overrun=overrun)


def core_options(
    *,
    tokens: int = 0,
    cost: Money = 0,
    requests: int = REQUESTS,
    ttl: timedelta = timedelta(seconds=60),
    idle_s: float = 2.0,
    **more: Any,
) -> dict[str, Any]:
    """Convert the options of `atlas.quotas.lease` to those of a core. Raises InvalidInput."""
    size = LeaseRequest(
        count("tokens", tokens, TOKENS_MAX), 0, nano_reserved(money("cost", cost)), count("requests", requests)
    )
    if not (size.tokens or size.nano or size.requests):
        raise InvalidInput("nothing to lease: every amount is 0", field="tokens")
    return {"size": size, "ttl": ttl, "idle_s": idle_s, **more}


class LeaseCore:
    """The core of a lease, with everything that does not wait for the database."""

    def __init__(
        self,
        user: User,
        size: LeaseRequest | None,
        *,
        ttl: timedelta,
        idle_s: float,
        holder: str = "",
        meta: Mapping[str, object] | None = None,
        clock: Callable[[], float] = _seconds,
    ) -> None:
        """Reserve nothing before the first call. Without a size, the size of blocks adapts to the rate of calls."""
        if ttl_of(ttl) < _TTL_MIN:
            raise InvalidInput(f"the ttl of a lease must be at least 1 s, not {ttl}", field="ttl")
        as_json(meta)
        if not idle_s > 0:
            raise InvalidInput(f"idle_s must be more than 0, not {idle_s}", field="idle_s")
        self.user = user
        self.pool = BlockPool(user, size=size, ttl=ttl, holder=holder, meta=meta, idle_s=idle_s, clock=clock)
        self.clock = clock
        self.closed = False
        self._requests_each = 0 if size is not None and not size.requests else 1
        self._renew()
        reset_in_children(self)

    def _renew(self) -> None:
        # Use an RLock: the garbage collector may run a finalizer that settles a call while this thread holds it.
        self.lock = RLock()
        #: Notified when a script has ended.
        self.changed = Condition(self.lock)
        #: True while a script of this lease runs.
        self.busy = False

    def after_fork(self) -> None:
        """Reset the lease in a forked child: the parent owns blocks, locks and running scripts."""
        self._renew()
        self.pool.forget()

    def drained(self, block: Block) -> None:
        """Schedule the settlement of a block whose last call has ended. The caller holds the lock."""
        self.pool.drained(block)
        if self.pool.size.fixed is not None:
            self.schedule()

    def schedule(self) -> None:
        """Ask the lease manager to maintain this lease now."""
        raise NotImplementedError

    # The three methods of a backend of guards, as in `backend.py`; on asyncio their results are awaitable:

    def reserve(self, _user: User, options: GuardOptions, _wait: WaitSchedule | None = None) -> Any:
        """Reserve a part of a block for a guard."""
        raise NotImplementedError

    def settle(self, _user: User, grant: Any, outcome: Outcome) -> Any:
        """Charge or release a guard's part of a block. The ledger has one entry per block, with the lease's `meta`."""
        raise NotImplementedError

    def extend(self, _user: User, grant: Any, *, tokens: int, cost: Money, ttl: timedelta | None) -> Any:
        """Add these amounts to the grant of a running call."""
        raise NotImplementedError

    @property
    def empty(self) -> bool:
        """True if the lease manager has nothing to maintain."""
        return self.pool.empty

    @property
    def can_give_back(self) -> bool:
        """True if the lease holds something that no call needs."""
        with self.lock:
            return self.pool.can_give_back

    def refuse_if_closed(self) -> None:
        """Raise InvalidInput when this lease was closed."""
        if self.closed:
            raise InvalidInput("this lease is closed: open a new one", field="lease")

    def retire(self) -> None:
        """Schedule the return of the current block, without waiting."""
        with self.lock:
            self.pool.retire()
            if not self.empty:
                self.schedule()

    def take(self, tokens: int, cost_nano: int) -> LeaseCall | None:
        """Take a part of the current block without waiting; return None if its amounts need checks or a new block."""
        if tokens.__class__ is int and tokens > 0 and cost_nano.__class__ is int and cost_nano >= 0:
            with self.lock:
                block = self.pool.current
                if block is not None and block.take(tokens, cost_nano, self._requests_each, self.clock()):
                    return LeaseCall(self, block, tokens, cost_nano)
        return None

    def request_of(self, options: GuardOptions) -> LeaseRequest:
        """Check the amounts of a guard; return them as a request. Raises InvalidInput."""
        tokens, cost = options.get("tokens", 0), options.get("cost", 0)
        return self.request(tokens, options.get("min_tokens"), cost, 0, options.get("requests"))

    def request(
        self, tokens: int, min_tokens: int | None, cost: Money, cost_nano: int, requests: int | None
    ) -> LeaseRequest:
        """Check the amounts of a call; return them as a request. Raises InvalidInput."""
        self.refuse_if_closed()
        asked = LeaseRequest(
            count("tokens", tokens, TOKENS_MAX),
            tokens if min_tokens is None else at_most("min_tokens", min_tokens, "tokens", tokens, least=min(tokens, 1)),
            nano_reserved(money("cost", cost)) if cost else count("cost_nano", cost_nano, NANO_MAX),
            self._requests_each if requests is None else count("requests", requests),
        )
        if not (asked.tokens or asked.nano or asked.requests):
            raise InvalidInput("nothing to reserve: every amount is 0", field="tokens")
        size = self.pool.size.fixed
        if size is not None:
            for name, amount, most in (
                ("tokens", asked.tokens, size.tokens),
                ("cost", asked.nano, size.nano),
                ("requests", asked.requests, size.requests),
            ):
                if amount and not most:
                    raise InvalidInput(f"this lease has no {name}: open it with {name}=…", field=name)
        return asked

    def extension(self, call: LeaseCall, tokens: int, cost: Money, ttl: timedelta | None) -> Script[LeaseCall]:
        """Add these amounts to the grant of a running call. Raises QuotaExceeded, NotFound, InvalidInput."""
        tokens, nano = count("tokens", tokens, TOKENS_MAX), nano_reserved(money("cost", cost))
        yield from self.pool.extend(call._block, tokens, nano, ttl)  # noqa: SLF001  # the call is of this lease
        call.tokens += tokens
        call.cost_nano += nano
        return call

    def closing(self) -> Script[None]:
        """Give back the unused parts of all blocks. Calls that still run keep their parts."""
        self.pool.retire()
        yield from self.pool.give_back()
