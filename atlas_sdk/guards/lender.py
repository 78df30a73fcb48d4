"""What a lease asks the database for: blocks to spend, and promises for calls that outlive theirs. No I/O, no locks."""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from atlas_sdk._plan import Plan, context
from atlas_sdk.errors import AtlasError, DatabaseUnreachable, QuotaExceeded, TransactionConflict
from atlas_sdk.guards.block import Block, dollars, nano_promised
from atlas_sdk.guards.owed import Debts, Owed, Talk
from atlas_sdk.guards.want import Want
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas

__all__ = ["BEATS", "Lender"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The part of a block's life in which it admits calls: the rest is for the difference of two clocks' speeds and for
#: settling it before it expires.
_LIFE = 0.9
#: Heartbeats in one time to live: two may fail.
BEATS = 3
#: What a second try may mend: a connection that broke, a server that is started again, a conflict.
_AGAIN = (DatabaseUnreachable, TransactionConflict)
#: A try that took this long has waited for a connection in vain; another would wait as long.
_PROMPT_S = 4.0


class Lender:
    """Asks for one lease; what may have been granted unheard of becomes a debt."""

    def __init__(
        self,
        user: User,
        *,
        ttl: timedelta,
        holder: str,
        meta: Mapping[str, object] | None,
        debts: Debts,
        clock: Callable[[], float],
    ) -> None:
        self._user = user
        self._ttl = ttl
        self._holder = holder
        self._meta = meta
        self._debts = debts
        self._clock = clock

    def block(self, size: Want, want: Want) -> Talk[Block]:
        """Get a block of this size, or of what is wanted at least. Raises what the database says."""
        granted, asked_at = yield from self._ask(
            lambda new_id: quotas.lease_block(
                self._user,
                tokens=size.tokens,
                min_tokens=want.least,
                cost=dollars(size.nano),
                min_cost=dollars(want.nano),
                requests=size.requests,
                min_requests=want.requests,
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
            nano=nano_promised(granted.cost),
            requests=granted.requests,
            deadline=asked_at + _LIFE * lasts_s,
            now=asked_at,
            look_at=asked_at + lasts_s / BEATS,
        )

    def promise(self, tokens: int, nano: int) -> Talk[Block]:
        """Get a promise of just this much. Raises what the database says.

        It is one as a guard's, so it does not end with the period, as a block would. Its requests are counted already.
        Of nothing at all it is a promise of one token.
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
            nano=nano_promised(held.cost),
            requests=0,
            deadline=asked_at,
            now=asked_at,
            look_at=asked_at + self._ttl.total_seconds() / BEATS,
        )

    def _ask(self, plan: Callable[[UUID], Plan[T]]) -> Talk[tuple[T, float]]:
        """Ask, once more where that may mend it; return the answer and from when on its time counts."""
        new_id: UUID = (yield context()).new_id()
        doubtful = False
        try:
            for again in (True, False):
                # Measured from before the request, so that it is never thought to last longer than it does.
                asked_at = self._clock()
                doubtful = True
                try:
                    granted: T = yield plan(new_id)
                except _AGAIN:
                    if not again or self._clock() - asked_at > _PROMPT_S:
                        raise
                    logger.debug("once more", exc_info=True)
                except QuotaExceeded:
                    doubtful = False
                    raise
                except AtlasError:
                    # After a first try without an answer anything but a refusal leaves it open what that did.
                    doubtful = not again
                    raise
                else:
                    doubtful = False
                    return granted, asked_at
            raise AssertionError
        finally:
            # Also when the talk is cut off here.
            if doubtful:
                self._debts.owe(Owed(new_id, 0, 0, 0, has_rest=True, doubtful=True))


def _process() -> str:
    """Name this process: near a limit the database gives every holder a share, and this is one."""
    return f"{socket.gethostname()}:{os.getpid()}"
