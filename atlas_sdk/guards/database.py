"""Reserves and settles every call on its own, in the database; what cannot be written is kept for later."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from atlas_sdk._faces import AsyncRunner, Runner
from atlas_sdk._plan import Plan
from atlas_sdk.errors import (
    AtlasError,
    DatabaseError,
    DatabaseUnreachable,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TimedOut,
    TransactionConflict,
)
from atlas_sdk.guards.asking import Ask, is_keyed, new_reservation_id, reserve
from atlas_sdk.guards.keeper import keeper_of, keeper_on
from atlas_sdk.guards.pending import Ending, Pending, Tasks
from atlas_sdk.guards.source import Held
from atlas_sdk.model.quotas import Reservation, Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas
from atlas_sdk.ops.amounts import Money

__all__ = ["AsyncDatabaseSource", "DatabaseSource"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: What a second try may mend: a connection that broke, an embedded server that is started again, a conflict.
_AGAIN = (DatabaseUnreachable, TransactionConflict)
#: A try that took this long has waited for a connection (5 s by default) in vain; another would wait as long.
_PROMPT_S = 4.0
#: What keeps a settlement for later.
_LOST = (DatabaseUnreachable, DatabaseError)
#: What leases hold, so that giving it back may help.
_LEASED = frozenset({"tokens", "cost", "requests"})
#: Kept settlements that one guard writes at its exit, so that the first after an outage does not pay for all.
_BATCH = 8
#: How long a closing client waits for what runs in the background.
_CLOSE_S = 10.0


def _may_hold(error: BaseException) -> bool:
    """Whether a reservation may have been made although the call for it failed."""
    # The call commits its promise before it waits for the disk, and only then does a time limit come.
    return isinstance(error, DatabaseUnreachable | TimedOut) or not isinstance(error, AtlasError)


def _tries(ttl: timedelta | None, tokens: int, cost: Money) -> tuple[type[AtlasError], ...]:
    """Return what an extension may be tried again after: twice as much could be promised, not twice as long."""
    return _AGAIN if ttl is not None and not tokens and not cost else (TransactionConflict,)


class DatabaseSource:
    """Reserves and settles every call on its own, in the database. One for a client."""

    def __init__(self, runner: Runner, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._clock = clock
        self._pending = Pending()

    def reserve(self, user: User, ask: Ask) -> Reservation:
        """Reserve what is asked for. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        new_id = self._runner.run(new_reservation_id(user, ask))
        try:
            return self._with_idle(user, lambda: self._twice(lambda: reserve(user, ask, new_id)))
        except BaseException as exc:
            if _may_hold(exc) and not is_keyed(ask):
                self._pending.keep(Ending(user=user, reservation_id=new_id, releases=True))
            raise

    def settle(
        self, user: User, held: Held, *, tokens: int | None, cost: Decimal | None, meta: Mapping[str, object] | None
    ) -> Settlement | None:
        """Charge these amounts. Returns None when that is kept for later, or when there is nothing to charge."""
        return self._end(Ending(user=user, reservation_id=held.id, tokens=tokens, cost=cost, meta=meta))

    def release(self, user: User, held: Held) -> Settlement | None:
        """Give the promise back. Returns None when that is kept for later."""
        return self._end(Ending(user=user, reservation_id=held.id, releases=True))

    def extend(self, user: User, held: Held, *, tokens: int, cost: Money, ttl: timedelta | None) -> Reservation:
        """Promise this much more, or for this long from now on; return the whole. Raises QuotaExceeded, NotFound."""
        return self._with_idle(
            user,
            lambda: self._twice(
                lambda: quotas.extend(user, held.id, tokens=tokens, cost=cost, ttl=ttl), _tries(ttl, tokens, cost)
            ),
        )

    def _with_idle(self, user: User, ask: Callable[[], T]) -> T:
        """Ask once more after a refusal, with what this user's leases of this client held for no call."""
        try:
            return ask()
        except QuotaExceeded as refusal:
            if refusal.dimension not in _LEASED or not keeper_of(self._runner).give_back(user):
                raise
        return ask()

    def _twice(self, plan: Callable[[], Plan[T]], again: tuple[type[AtlasError], ...] = _AGAIN) -> T:
        began = self._clock()
        try:
            return self._runner.run(plan())
        except again:
            if self._clock() - began > _PROMPT_S:
                raise
            logger.debug("once more", exc_info=True)
        return self._runner.run(plan())

    def _end(self, ending: Ending) -> Settlement | None:
        try:
            settlement = self._twice(ending.plan)
        except NotFound:
            ending.tell_missing()
            return None
        except InvalidInput as refusal:
            if ending.meta is None:
                raise
            return self._end(ending.without_meta(refusal))
        except _LOST as exc:
            ending.tell_kept(exc)
            self._pending.keep(ending)
            return None
        except AtlasError:
            raise
        except BaseException as exc:
            # Interrupted: whether it was written is unknown, and writing it again does no harm.
            ending.tell_kept(exc)
            self._pending.keep(ending)
            raise
        self.settle_pending(_BATCH)
        return settlement

    def settle_pending(self, most: int | None = None) -> int:
        """Write what was kept for later, as far as the database answers; return how many are left."""
        for _ in range(len(self._pending) if most is None else min(len(self._pending), most)):
            ending = self._pending.take()
            if ending is None:
                break
            try:
                self._runner.run(ending.plan())
            except NotFound:
                ending.tell_missing()
            except DatabaseError:
                # To the end: what this one cannot do the others may.
                self._pending.keep(ending)
            except DatabaseUnreachable:
                self._pending.put_back(ending)
                break
            except AtlasError as refusal:
                if isinstance(refusal, InvalidInput) and ending.meta is not None:
                    self._pending.keep(ending.without_meta(refusal))
                    continue
                logger.debug("refused", exc_info=True)
                ending.tell_given_up()
            except BaseException:
                self._pending.put_back(ending)
                raise
        return len(self._pending)

    def close(self) -> None:
        """Write what was kept for later; what still cannot be written is left to its expiry. Idempotent."""
        self.settle_pending()
        self._pending.give_up()


class AsyncDatabaseSource:
    """Reserves and settles every call on its own, in the database. The twin of `DatabaseSource`."""

    def __init__(self, runner: AsyncRunner, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._clock = clock
        self._pending = Pending()
        self._tasks = Tasks()

    async def reserve(self, user: User, ask: Ask) -> Reservation:
        """Reserve what is asked for. Raises QuotaExceeded, AlreadyExists, DatabaseUnreachable, InvalidInput."""
        new_id = await self._runner.run(new_reservation_id(user, ask))
        # In a task of its own: a second cancellation would leave a statement that nobody waits for, and that may
        # still reserve after the release.
        reserving = self._tasks.start(self._with_idle(user, lambda: self._twice(lambda: reserve(user, ask, new_id))))
        try:
            return await asyncio.shield(reserving)
        except asyncio.CancelledError:
            reserving.cancel()
            self._tasks.start(self._abandon(user, ask, new_id, reserving))
            raise
        except BaseException as exc:
            if _may_hold(exc) and not is_keyed(ask):
                self._pending.keep(Ending(user=user, reservation_id=new_id, releases=True))
            raise

    async def _abandon(self, user: User, ask: Ask, new_id: UUID, reserving: "asyncio.Task[Reservation]") -> None:
        """Give back what a cancelled call may have reserved, as soon as its statement has ended."""
        await asyncio.wait([reserving])
        if reserving.cancelled():
            ours = not is_keyed(ask)
        elif (error := reserving.exception()) is not None:
            ours = not is_keyed(ask) and _may_hold(error)
        else:
            ours = not reserving.result().repeated
        if ours:
            await self._end(Ending(user=user, reservation_id=new_id, releases=True))

    async def settle(
        self, user: User, held: Held, *, tokens: int | None, cost: Decimal | None, meta: Mapping[str, object] | None
    ) -> Settlement | None:
        """Charge these amounts. Returns None when that is kept for later, or when there is nothing to charge."""
        ending = Ending(user=user, reservation_id=held.id, tokens=tokens, cost=cost, meta=meta)
        return await asyncio.shield(self._tasks.start(self._end(ending)))

    async def release(self, user: User, held: Held) -> Settlement | None:
        """Give the promise back. Returns None when that is kept for later."""
        ending = Ending(user=user, reservation_id=held.id, releases=True)
        return await asyncio.shield(self._tasks.start(self._end(ending)))

    async def extend(self, user: User, held: Held, *, tokens: int, cost: Money, ttl: timedelta | None) -> Reservation:
        """Promise this much more, or for this long from now on; return the whole. Raises QuotaExceeded, NotFound."""
        return await self._with_idle(
            user,
            lambda: self._twice(
                lambda: quotas.extend(user, held.id, tokens=tokens, cost=cost, ttl=ttl), _tries(ttl, tokens, cost)
            ),
        )

    async def _with_idle(self, user: User, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask once more after a refusal, with what this user's leases of this client held for no call."""
        try:
            return await ask()
        except QuotaExceeded as refusal:
            if refusal.dimension not in _LEASED or not await keeper_on(self._runner).give_back(user):
                raise
        return await ask()

    async def _twice(self, plan: Callable[[], Plan[T]], again: tuple[type[AtlasError], ...] = _AGAIN) -> T:
        began = self._clock()
        try:
            return await self._runner.run(plan())
        except again:
            if self._clock() - began > _PROMPT_S:
                raise
            logger.debug("once more", exc_info=True)
        return await self._runner.run(plan())

    async def _end(self, ending: Ending) -> Settlement | None:
        try:
            settlement = await self._twice(ending.plan)
        except NotFound:
            ending.tell_missing()
            return None
        except InvalidInput as refusal:
            if ending.meta is None:
                raise
            return await self._end(ending.without_meta(refusal))
        except _LOST as exc:
            ending.tell_kept(exc)
            self._pending.keep(ending)
            return None
        except AtlasError:
            raise
        except BaseException as exc:
            # Interrupted: whether it was written is unknown, and writing it again does no harm.
            ending.tell_kept(exc)
            self._pending.keep(ending)
            raise
        if self._pending:
            self._tasks.start(self.settle_pending(_BATCH))
        return settlement

    async def settle_pending(self, most: int | None = None) -> int:
        """Write what was kept for later, as far as the database answers; return how many are left."""
        for _ in range(len(self._pending) if most is None else min(len(self._pending), most)):
            ending = self._pending.take()
            if ending is None:
                break
            try:
                await self._runner.run(ending.plan())
            except NotFound:
                ending.tell_missing()
            except DatabaseError:
                # To the end: what this one cannot do the others may.
                self._pending.keep(ending)
            except DatabaseUnreachable:
                self._pending.put_back(ending)
                break
            except AtlasError as refusal:
                if isinstance(refusal, InvalidInput) and ending.meta is not None:
                    self._pending.keep(ending.without_meta(refusal))
                    continue
                logger.debug("refused", exc_info=True)
                ending.tell_given_up()
            except BaseException:
                self._pending.put_back(ending)
                raise
        return len(self._pending)

    async def close(self) -> None:
        """Wait for what runs in the background and write what was kept for later. Idempotent."""
        await self._tasks.finish(_CLOSE_S)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.settle_pending()
        except TimeoutError:
            logger.debug("the database took too long", exc_info=True)
        self._pending.give_up()
