"""The usage that a guard's body reports, and the outcome that the guard writes at its end. No I/O."""

import json
from collections.abc import Mapping
from decimal import Decimal
from threading import Lock
from typing import Literal

from attrs import frozen

from atlas_sdk.errors import InvalidInput
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, count, meta_text, money

__all__ = ["RELEASED", "Outcome", "UsageRecord"]


@frozen(kw_only=True)
class Outcome:
    """Amounts to charge at the end of a guard, or a release."""

    #: True for a release, which ignores the amounts.
    releases: bool = False
    #: Amounts to charge; None charges the whole reservation.
    tokens: int | None = None
    cost: Decimal | None = None
    meta: Mapping[str, object] | None = None


RELEASED = Outcome(releases=True)


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

    def outcome(self) -> Outcome:
        """Return the outcome to write at the end of the body.

        Each amount is the final one if reported, else the progress, else None. A released call is charged its progress
        only. With `on_unknown="release"`, a call that reported nothing is released.
        """
        with self._lock:
            end, tokens, cost = self._end, self._tokens or None, self._cost or None
        if end is None and self._on_unknown == "charge":
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
