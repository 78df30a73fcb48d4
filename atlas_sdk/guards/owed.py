"""What a lease has spent and the database has not confirmed: settled, tried again, or left to its expiry. No I/O."""

import logging
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from attrs import define

from atlas_sdk._plan import Plan
from atlas_sdk.errors import AtlasError, DatabaseUnreachable, NotFound, StorageFull, TimedOut, TransactionConflict
from atlas_sdk.guards.block import Block, dollars
from atlas_sdk.model.users import User
from atlas_sdk.ops import quotas
from atlas_sdk.ops.amounts import TOKENS_MAX

__all__ = ["Debts", "Owed", "Talk", "seconds"]

T = TypeVar("T")
#: A conversation with the database: yields plans, is sent their results, or has their errors thrown in.
Talk = Generator[Plan[Any], Any, T]

logger = logging.getLogger(__name__)

#: Seconds that only go forward, and go on while the machine is suspended where the system can tell: the server's do.
seconds: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)

#: A settlement is tried this often: at once, then after 1, 2, 4, … and at most 60 seconds; about five minutes in all.
_SETTLE_TRIES = 10
_SETTLE_PAUSE_MAX_S = 60.0
#: Settlements that wait for the database at most, of one lease.
_OWED_MAX = 100


@define(eq=False)
class Owed:
    """A settlement that the database has not confirmed."""

    id: UUID
    tokens: int
    nano: int
    requests: int
    #: Settling gives something back.
    has_rest: bool
    #: It is not known whether this block was ever granted: nobody spends it.
    doubtful: bool = False
    tries: int = 0
    due: float = 0.0

    @classmethod
    def of(cls, block: Block) -> "Owed":
        """Return what is to be settled for a block now."""
        tokens, nano, requests = block.charge
        return cls(block.id, tokens, nano, requests, has_rest=block.has_rest)


class Debts:
    """The settlements that one lease owes, oldest first."""

    def __init__(self, user: User, clock: Callable[[], float]) -> None:
        self._user = user
        self._clock = clock
        self._owed: list[Owed] = []

    def __len__(self) -> int:
        return len(self._owed)

    @property
    def has_rest(self) -> bool:
        """Whether settling gives something back."""
        return any(owed.has_rest for owed in self._owed)

    def forget(self) -> None:
        """Owe nothing: in a forked child it is the parent's to settle."""
        self._owed.clear()

    def owe(self, owed: Owed) -> None:
        """Settle this as soon as possible."""
        owed.due = self._clock()
        self._owed.append(owed)
        if len(self._owed) > _OWED_MAX:
            logger.warning("block %s is left to its expiry: too many wait to be settled", self._owed.pop(0).id)

    def next_due_s(self) -> float | None:
        """Return in how many seconds something owed is to be settled."""
        return max(min(owed.due for owed in self._owed) - self._clock(), 0.0) if self._owed else None

    def settle(self, *, due_only: bool) -> Talk[bool]:
        """Settle what is owed; return whether that gave something back. Raises nothing: what fails is tried later."""
        came_back = False
        now = self._clock()
        for owed in [owed for owed in self._owed if not due_only or owed.due <= now]:
            plan = quotas.settle(
                self._user,
                owed.id,
                tokens=min(owed.tokens, TOKENS_MAX),
                cost=dollars(owed.nano),
                requests=owed.requests,
            )
            try:
                yield plan
            except (DatabaseUnreachable, TransactionConflict, TimedOut, StorageFull) as problem:
                self._later(owed, problem)
                if isinstance(problem, DatabaseUnreachable):
                    break
            except NotFound as problem:
                # For a doubtful one that is the better case: it was never granted.
                self._drop(owed, None if owed.doubtful else problem)
            except AtlasError as problem:
                self._drop(owed, problem)
            else:
                self._drop(owed, None)
                came_back = came_back or owed.has_rest
        return came_back

    def _later(self, owed: Owed, problem: AtlasError) -> None:
        owed.tries += 1
        if owed.tries >= _SETTLE_TRIES:
            self._drop(owed, problem)
            return
        if owed.tries == 1:
            logger.warning("the settlement of block %s is tried again later: %s", owed.id, problem)
        owed.due = self._clock() + min(2.0 ** (owed.tries - 1), _SETTLE_PAUSE_MAX_S)

    def _drop(self, owed: Owed, problem: AtlasError | None) -> None:
        if owed in self._owed:
            self._owed.remove(owed)
        if problem is not None:
            logger.warning("block %s is left to its expiry, which charges all of it: %s", owed.id, problem)
