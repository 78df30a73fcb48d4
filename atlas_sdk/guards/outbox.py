"""Write settlements to the database; keep those that fail, and try them again later. No I/O.

Without a settlement the database charges a reservation in full at its expiry. Settlements and releases are idempotent,
so each may be repeated. A client has an outbox for its guards, and each lease has one for its blocks.
"""

import logging
from collections.abc import Callable, Mapping
from decimal import Decimal
from threading import RLock
from uuid import UUID

from attrs import define

from atlas_sdk._forks import reset_in_children
from atlas_sdk._plan import Json, Plan, Script
from atlas_sdk._script import retry_once
from atlas_sdk.errors import (
    AtlasError,
    DatabaseError,
    DatabaseUnreachable,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TimedOut,
)
from atlas_sdk.guards.usage_record import Outcome
from atlas_sdk.model.quotas import Settlement
from atlas_sdk.model.users import User
from atlas_sdk.ops import quota_waits, quotas

__all__ = ["KEPT_MAX", "Outbox", "PendingSettlement", "may_have_reserved"]

logger = logging.getLogger(__name__)

#: The most settlements that an outbox keeps, and the most releases: some hundred kilobytes. Above this, the outbox
#: drops the oldest one and leaves its reservation to the expiry.
KEPT_MAX = 1000
#: The most tries of a settlement in the background: at once, then after 1, 2, 4, … 60 seconds; about five minutes in
#: all.
_TRIES_MAX = 10
_PAUSE_MAX_S = 60.0


def may_have_reserved(problem: BaseException, *, tries: int = 1) -> bool:
    """Return True if a reservation may exist although the call for it failed."""
    if isinstance(problem, DatabaseUnreachable | TimedOut) or not isinstance(problem, AtlasError):
        # A time limit may end the wait for the disk, after the database has committed the reservation.
        return True
    # The first try got no answer. Only QuotaExceeded from the second try proves that the first one reserved nothing.
    return tries > 1 and not isinstance(problem, QuotaExceeded)


@define(kw_only=True, eq=False)
class PendingSettlement:
    """The settlement of one reservation, or its release."""

    user: User
    reservation_id: UUID
    #: True for a release, which ignores the amounts.
    releases: bool = False
    #: True for a release that only ends a wait: another call may have made the reservation.
    leaves: bool = False
    #: Amounts to charge; None charges the whole reservation.
    tokens: int | None = None
    cost: Decimal | None = None
    #: The number of the block's requests that calls used; None for a reservation.
    requests: int | None = None
    meta: Mapping[str, object] | None = None
    #: True when the reservation may not exist, and the caller already saw the error.
    doubtful: bool = False
    #: True when the settlement gives something back to the user.
    frees: bool = False
    tries: int = 0
    due: float = 0.0
    #: True while a thread or task writes it.
    in_flight: bool = False

    @classmethod
    def of(cls, user: User, reservation_id: UUID, outcome: Outcome) -> "PendingSettlement":
        """Return the settlement that writes the outcome of a guard."""
        return cls(
            user=user,
            reservation_id=reservation_id,
            releases=outcome.releases,
            tokens=outcome.tokens,
            cost=outcome.cost,
            meta=outcome.meta,
        )

    def plan(self) -> Plan[Settlement]:
        """Write the settlement. Raises NotFound when there is no such reservation."""
        if self.leaves:
            return self._leave()
        if self.releases:
            return quotas.release(self.user, self.reservation_id)
        meta = None if self.meta is None else Json(self.meta)
        return quotas.charge(
            self.user, self.reservation_id, tokens=self.tokens, cost=self.cost, requests=self.requests, meta=meta
        )

    def _leave(self) -> Plan[Settlement]:
        yield from quota_waits.leave(self.user, self.reservation_id)
        return Settlement(outcome="released", tokens=0, cost=Decimal(), overrun=False)

    def drop_meta(self, refusal: BaseException) -> None:
        """Drop the `meta` that the database refused, so that the amounts can still be written."""
        self.meta = None
        logger.warning("the settlement of %s is written without its meta: %s", self, refusal)

    def log_kept(self, problem: BaseException) -> None:
        """Log that the settlement is kept for later."""
        reason = str(problem) or type(problem).__name__
        logger.warning("the %s of %s is kept for later: %s", "release" if self.releases else "settlement", self, reason)

    def log_missing(self) -> None:
        """Log that there is no reservation to settle."""
        self._log(f"{self} could not be settled: it does not exist")

    def log_abandoned(self, reason: object) -> None:
        """Log that the settlement will not be written."""
        self._log(f"{self} is left to its expiry, which charges all of it: {reason}")

    def _log(self, message: str) -> None:
        logger.log(logging.DEBUG if self.releases or self.doubtful else logging.WARNING, message)

    def __str__(self) -> str:
        return f"{'reservation' if self.requests is None else 'block'} {self.reservation_id}"


class Outbox:
    """A bounded list of settlements that the database has not confirmed, oldest first. Any thread may use it.

    A settlement stays in the outbox while it is being written, so `frees` counts it until the database confirms it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Empty the outbox in a forked child: the parent settles its own reservations."""
        # Use an RLock: the garbage collector may run a finalizer that adds a settlement while this thread holds it.
        self._lock = RLock()
        self._kept: list[PendingSettlement] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def frees(self) -> bool:
        """True if a kept settlement gives something back to the user."""
        return any(pending.frees for pending in list(self._kept))

    def next_due_s(self) -> float | None:
        """Return the seconds until the next settlement is due; None if the outbox is empty."""
        kept = list(self._kept)
        return max(min(pending.due for pending in kept) - self._clock(), 0.0) if kept else None

    def add(self, pending: PendingSettlement) -> None:
        """Keep a settlement, to be written as soon as possible."""
        pending.due = self._clock()
        with self._lock:
            self._kept.append(pending)
            # Count settlements and releases separately: many releases are doubtful, and must not push out settlements.
            same = [each for each in self._kept if each.releases == pending.releases]
            dropped = same[0] if len(same) > KEPT_MAX else None
            if dropped is not None:
                self._kept.remove(dropped)
        if dropped is not None:
            dropped.log_abandoned("too many wait to be written")

    def add_later(self, pending: PendingSettlement, problem: BaseException) -> None:
        """Keep a settlement that could not be written."""
        pending.log_kept(problem)
        self.add(pending)
        pending.tries = 1
        self._postpone(pending)

    def abandon(self) -> None:
        """Drop all settlements and log them, because the client closes."""
        with self._lock:
            kept, self._kept = self._kept, []
        for pending in kept:
            pending.log_abandoned("the client closes")

    def write(self, pending: PendingSettlement) -> Script[Settlement | None]:
        """Write a settlement now; keep it and return None if the database fails. Raises the database's refusal."""
        try:
            return (yield from retry_once(pending.plan, self._clock))
        except NotFound:
            pending.log_missing()
            return None
        except InvalidInput as refusal:
            if pending.meta is None:
                raise
            pending.drop_meta(refusal)
        except (DatabaseUnreachable, DatabaseError) as problem:
            self.add_later(pending, problem)
            return None
        except AtlasError:
            raise
        except BaseException as interruption:
            # The settlement may have been written. Writing it again does no harm.
            self.add_later(pending, interruption)
            raise
        return (yield from self.write(pending))

    def flush(self, *, due_only: bool = False, most: int | None = None) -> Script[bool]:
        """Write the kept settlements, each once, then the releases; return True if that gave something back.

        Raises nothing: a settlement that fails stays in the outbox. In the background (`due_only`), the outbox drops a
        settlement after ten tries. A flush by a caller drops none.
        """
        freed = False
        for pending in self._due(due_only=due_only)[:most]:
            if not self._claim(pending):
                continue
            try:
                yield pending.plan()
            except NotFound:
                pending.log_missing()
                self._remove(pending)
            except (DatabaseUnreachable, DatabaseError) as problem:
                self._failed(pending, problem, last_try=due_only)
                if isinstance(problem, DatabaseUnreachable):
                    break
            except AtlasError as refusal:
                if isinstance(refusal, InvalidInput) and pending.meta is not None:
                    pending.drop_meta(refusal)
                    continue
                self._remove(pending)
                pending.log_abandoned(refusal)
            else:
                self._remove(pending)
                freed = freed or pending.frees
            finally:
                pending.in_flight = False
        return freed

    def _due(self, *, due_only: bool) -> list[PendingSettlement]:
        now = self._clock()
        with self._lock:
            due = [pending for pending in self._kept if not due_only or pending.due <= now]
        return sorted(due, key=lambda pending: pending.releases)

    def _claim(self, pending: PendingSettlement) -> bool:
        with self._lock:
            if pending.in_flight or pending not in self._kept:
                return False
            pending.in_flight = True
            return True

    def _failed(self, pending: PendingSettlement, problem: AtlasError, *, last_try: bool) -> None:
        pending.tries += 1
        if last_try and pending.tries >= _TRIES_MAX:
            self._remove(pending)
            pending.log_abandoned(problem)
            return
        if pending.tries == 1:
            pending.log_kept(problem)
        self._postpone(pending)
        if not isinstance(problem, DatabaseUnreachable):
            # Move the settlement to the end: the database may accept the others.
            with self._lock:
                if pending in self._kept:
                    self._kept.remove(pending)
                    self._kept.append(pending)

    def _postpone(self, pending: PendingSettlement) -> None:
        pending.due = self._clock() + min(2.0 ** (pending.tries - 1), _PAUSE_MAX_S)

    def _remove(self, pending: PendingSettlement) -> None:
        with self._lock:
            if pending in self._kept:
                self._kept.remove(pending)
