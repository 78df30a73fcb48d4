"""A guard's request for a reservation: its tries, which share one id, and what undoes it. No I/O."""

from typing import Any
from uuid import UUID, uuid5

from attrs import define, evolve

from atlas_sdk._plan import Plan, context
from atlas_sdk.errors import AlreadyExists, InvalidInput, QuotaExceeded
from atlas_sdk.guards.options import GuardOptions
from atlas_sdk.guards.outbox import PendingSettlement, may_have_reserved
from atlas_sdk.guards.waiting import WaitSchedule
from atlas_sdk.model.quotas import Reservation
from atlas_sdk.model.users import User
from atlas_sdk.ops import quota_waits, quotas
from atlas_sdk.ops.quota_waits import Queued

__all__ = ["ReservationRequest"]


@define
class ReservationRequest:
    """A request for a reservation. All its tries have the same id, so that at most one reservation is made."""

    user: User
    options: GuardOptions
    #: None for a call that does not wait.
    wait: WaitSchedule | None
    id: UUID | None = None
    tries: int = 0
    #: True once the call is in the queue of waiting calls.
    is_queued: bool = False

    @property
    def is_keyed(self) -> bool:
        """True if an earlier call may have made the reservation, so that this call must not release it."""
        return self.options.get("idempotency_key") is not None

    def plan(self) -> Plan[Reservation | Queued]:
        """Reserve, or return the reservation of an earlier try. Raises AlreadyExists if that reservation has ended."""
        self.tries += 1
        if self.id is None:
            key = self.options.get("idempotency_key")
            self.id = (yield from context()).new_id() if key is None else uuid5(self.user.id, str(key))
        held = yield from self._reserve(self.id)
        if isinstance(held, Queued):
            self.is_queued = True
            return held
        if held.state != "held":
            raise _ended(self.id, f"is {held.state}")
        # Without a key, only a second try of this same call can repeat the id, so do not report a repetition.
        return held if self.is_keyed else evolve(held, repeated=False)

    def _reserve(self, reservation_id: UUID) -> Plan[Reservation | Queued]:
        try:
            return (yield from self._try(reservation_id))
        except InvalidInput as exc:
            if exc.field != "reservation_id":
                raise
            if self.is_keyed:
                raise _ended(reservation_id, "has expired or was released") from exc
        # The answer to a first try was lost, and the reservation expired before the second. Correct its charge to 0.
        yield from quotas.settle(self.user, reservation_id, tokens=0, cost=0)
        self.id = (yield from context()).new_id()
        return (yield from self._try(self.id))

    def _try(self, reservation_id: UUID) -> Plan[Reservation | Queued]:
        amounts: Any = {name: value for name, value in self.options.items() if name in _AMOUNTS}
        if self.wait is None:
            return (yield from quotas.reserve(self.user, **amounts, reservation_id=reservation_id))
        left, waited = self.wait.ask()
        return (
            yield from quota_waits.take_turn(
                self.user, **amounts, reservation_id=reservation_id, wait=left, waited=waited
            )
        )

    def undo(self, problem: BaseException) -> PendingSettlement | None:
        """Return what undoes a call that failed with this problem; None if it surely left nothing in the database."""
        if self.id is None or isinstance(problem, QuotaExceeded):
            return None
        if self.is_keyed:
            # Another try may have made the reservation, so that this call must not release it.
            return None if self.wait is None else evolve(self.release(), leaves=True)
        # A release also ends a wait.
        return self.release() if self.is_queued or may_have_reserved(problem, tries=self.tries) else None

    def release(self) -> PendingSettlement:
        """Return the release of the reservation that this call may have made."""
        assert self.id is not None  # noqa: S101  # a request without an id was never sent
        return PendingSettlement(user=self.user, reservation_id=self.id, releases=True)


#: Options that are arguments of `quotas.reserve`.
_AMOUNTS = frozenset({"tokens", "min_tokens", "cost", "slots", "requests", "builds", "ttl", "holder", "meta"})


def _ended(reservation_id: UUID, how: str) -> AlreadyExists:
    message = f"the call with this idempotency key {how} already: use another key for another call"
    return AlreadyExists(message, kind="reservation", name=str(reservation_id))
