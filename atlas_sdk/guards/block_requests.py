"""Requests of a lease: blocks to spend, and reservations for calls that outlive their block. No I/O, no locks."""

import os
import socket
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from math import inf
from typing import Any, TypeVar
from uuid import UUID

from attrs import frozen

from atlas_sdk._plan import Plan, Script, context
from atlas_sdk._script import retry_once
from atlas_sdk.errors import AtlasError, DatabaseUnreachable, InvalidInput, QuotaExceeded
from atlas_sdk.guards.block import NANO_MAX, Block, LeaseRequest, dollars, nano_reserved
from atlas_sdk.guards.outbox import Outbox, PendingSettlement, may_have_reserved
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas
from atlas_sdk.ops.amounts import COUNT_MAX, TOKENS_MAX

__all__ = ["BEATS", "BlockRequests", "BlockSize", "SharedFailure"]

T = TypeVar("T")

#: The part of a block's lifetime in which it admits calls. The rest allows for clock drift, and for a settlement before
#: the expiry.
_LIFE = 0.9
#: Heartbeats in one time to live, so that two may fail.
BEATS = 3
#: The number of blocks in a row that arrive too late before a request fails. At the end of a period blocks live for a
#: short time, so a few may be late by chance.
_LATE_MAX = 4
#: Use blocks for several calls at this rate of calls per second or more.
_CALLS_PER_S = 20
#: The target lifetime of a block for several calls, in seconds. It bounds the cost of a crash and the rate of requests.
_BLOCK_S = 1.0
#: The most calls in a block for several calls.
_CALLS_MAX = 100_000


@frozen
class SharedFailure:
    """The failed answer to one call's request for a block, shared with the calls that waited for it."""

    #: The number of the request.
    number: int
    request: LeaseRequest
    problem: QuotaExceeded | DatabaseUnreachable

    def answer(self, request: LeaseRequest) -> AtlasError | None:
        """Return the error for another call; None if that call must ask the database itself."""
        problem = self.problem
        if isinstance(problem, DatabaseUnreachable):
            return type(problem)(*problem.args)
        mine, theirs = request.amount(problem.dimension), self.request.amount(problem.dimension)
        if theirs is None or mine is None or mine < theirs:
            return None
        never = problem.limit is not None and mine > _nano_if_cost(problem, problem.limit)
        return QuotaExceeded(
            dimension=problem.dimension,
            asked=dollars(mine) if problem.dimension == "cost" else mine,
            remaining=problem.remaining,
            limit=problem.limit,
            retry_after=None if never else problem.retry_after,
            resets_at=problem.resets_at,
            holders=problem.holders,
            held=problem.held,
        )


def _nano_if_cost(problem: QuotaExceeded, amount: Any) -> int:
    return nano_reserved(amount) if problem.dimension == "cost" else int(amount)


class BlockSize:
    """The size of a lease's blocks: fixed by the user, or adapted to the rate of calls.

    An adaptive size starts with one call per block. It doubles while blocks are used up quickly, and falls back to one
    call after a pause and near the limit, so that an idle process holds nothing that another process may need.
    """

    def __init__(self, fixed: LeaseRequest | None) -> None:
        self.fixed = fixed
        self.start_small()

    def start_small(self) -> None:
        """Go back to blocks for one call."""
        self._calls = 0
        self._asked_at = -inf

    def next(self, now: float) -> None:
        """Choose the size of the next block by the time in which the last one was used up."""
        quick = now - self._asked_at < min(max(self._calls, 1) / _CALLS_PER_S, _BLOCK_S)
        self._calls = min(max(2 * self._calls if quick else self._calls // 2, 1), _CALLS_MAX)
        self._asked_at = now

    def of(self, request: LeaseRequest) -> LeaseRequest:
        """Return the amounts of the next block, which are at least those of this call."""
        size, calls = self.fixed, self._calls
        if size is None:
            size = LeaseRequest(
                min(request.tokens * calls, TOKENS_MAX),
                0,
                min(request.nano * calls, NANO_MAX),
                min(request.requests * calls, COUNT_MAX),
            )
        return LeaseRequest(
            max(size.tokens, request.tokens),
            request.least,
            max(size.nano, request.nano),
            max(size.requests, request.requests),
        )

    def granted(self, block: Block, wanted: LeaseRequest) -> None:
        """Go back to blocks for one call if a block is smaller than wanted: the limit is near."""
        if block.tokens < wanted.tokens or block.nano < wanted.nano or block.requests < wanted.requests:
            self.start_small()

    @property
    def is_one_call(self) -> bool:
        """True if the block is a reservation of one call."""
        return self.fixed is None and self._calls <= 1


class BlockRequests:
    """The requests of one lease. If the answer to a request was lost, the outbox gives its block back."""

    def __init__(
        self,
        user: User,
        *,
        ttl: timedelta,
        holder: str,
        meta: Mapping[str, object] | None,
        outbox: Outbox,
        clock: Callable[[], float],
    ) -> None:
        self._user = user
        self._ttl = ttl
        self._holder = holder
        self._meta = meta
        self._outbox = outbox
        self._clock = clock

    def block(self, size: "BlockSize", request: LeaseRequest, without: AbstractSet[str]) -> Script[Block]:
        """Get a block for at least this request, without the dimensions in `without`. Raises the database's refusal."""
        wanted = size.of(request)
        asked = LeaseRequest(
            0 if "tokens" in without else wanted.tokens,
            request.least,
            0 if "cost" in without else wanted.nano,
            0 if "requests" in without else wanted.requests,
        )
        for _ in range(_LATE_MAX):
            try:
                block = yield from self._block(asked, request)
            except InvalidInput as exc:
                if exc.field != "reservation_id":
                    raise
                # The answer to the first try was lost, and its block expired before the second try. The outbox settles
                # the block.
                continue
            if self._clock() < block.deadline:
                size.granted(block, wanted)
                return block
            self._outbox.add(self.settlement(block))
        message = f"the database answers so slowly that a block of {self._ttl} is over when it arrives"
        raise DatabaseUnreachable(message)

    def _block(self, size: LeaseRequest, request: LeaseRequest) -> Script[Block]:
        granted, asked_at = yield from self._ask(
            lambda new_id: quotas.lease_block(
                self._user,
                tokens=size.tokens,
                min_tokens=request.least,
                cost=dollars(size.nano),
                min_cost=dollars(request.nano),
                requests=size.requests,
                min_requests=request.requests,
                ttl=self._ttl,
                holder=self._holder or _process(),
                meta=self._meta,
                reservation_id=new_id,
            )
        )
        lasts_s = granted.lasts.total_seconds()
        return Block(
            id=granted.id,
            epoch=granted.epoch,
            tokens=granted.tokens,
            nano=nano_reserved(granted.cost),
            requests=granted.requests,
            deadline=asked_at + _LIFE * lasts_s,
            used_at=asked_at,
            look_at=asked_at + lasts_s / BEATS,
        )

    def reservation(self, tokens: int, nano: int) -> Script[Block]:
        """Get a reservation of this size, to replace a block. Raises the database's refusal.

        Unlike a block, a reservation does not end with the period. The old block counts the requests of its calls. An
        empty reservation is not possible, so for a size of 0 this asks for one token.
        """
        held, asked_at = yield from self._ask(
            lambda new_id: quotas.reserve(
                self._user,
                tokens=tokens if tokens or nano else 1,
                cost=dollars(nano),
                requests=0,
                ttl=self._ttl,
                holder=self._holder or _process(),
                meta=self._meta,
                reservation_id=new_id,
            )
        )
        return Block(
            id=held.id,
            epoch=held.epoch or 0,
            tokens=held.tokens,
            nano=nano_reserved(held.cost),
            requests=0,
            deadline=asked_at,
            used_at=asked_at,
            look_at=asked_at + self._ttl.total_seconds() / BEATS,
        )

    def settlement(self, block: Block, *, spent_only: bool = False) -> PendingSettlement:
        """Return the settlement of a block, with or without the parts of running calls."""
        tokens, nano, requests = block.charge
        if spent_only:
            tokens, nano = block.spent_tokens, block.spent_nano
        return PendingSettlement(
            user=self._user,
            reservation_id=block.id,
            tokens=min(tokens, TOKENS_MAX),
            cost=dollars(nano),
            requests=requests,
            frees=spent_only or block.has_rest,
        )

    def unused(self, reservation_id: UUID, *, doubtful: bool = False) -> PendingSettlement:
        """Return the settlement of an unused block."""
        return PendingSettlement(
            user=self._user,
            reservation_id=reservation_id,
            tokens=0,
            cost=dollars(0),
            requests=0,
            doubtful=doubtful,
            frees=True,
        )

    def _ask(self, plan: Callable[[UUID], Plan[T]]) -> Script[tuple[T, float]]:
        """Send a request, and repeat it once if that may help; return the answer and the time of the request."""
        new_id: UUID = (yield context()).new_id()
        tries, asked_at = 0, 0.0

        def one_try() -> Plan[T]:
            nonlocal tries, asked_at
            # Take the time before the request, so that the lifetime of a block is never overestimated.
            tries, asked_at = tries + 1, self._clock()
            return plan(new_id)

        try:
            answer: T = yield from retry_once(one_try, self._clock)
        except BaseException as problem:
            if may_have_reserved(problem, tries=tries):
                self._outbox.add(self.unused(new_id, doubtful=True))
            raise
        return answer, asked_at


def _process() -> str:
    """Return the holder name of this process. Near a limit, the database divides the rest among the holders."""
    return f"{socket.gethostname()}:{os.getpid()}"
