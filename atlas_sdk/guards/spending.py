"""What a guard's body has said so far, and what that comes to at its end. No I/O."""

import json
from collections.abc import Mapping
from decimal import Decimal
from threading import Lock
from typing import Literal

from attrs import frozen

from atlas_sdk.errors import InvalidInput
from atlas_sdk.ops.amounts import TOKENS_MAX, Money, count, meta_text, money

__all__ = ["Spending", "Verdict"]


@frozen(kw_only=True)
class Verdict:
    """How a guard ends."""

    #: Give everything back; the amounts are then of no meaning.
    releases: bool = False
    #: What to charge; None is unknown: all that was promised.
    tokens: int | None = None
    cost: Decimal | None = None
    meta: Mapping[str, object] | None = None


class Spending:
    """Records progress and the end of one call; several threads may tell."""

    __slots__ = ("_cost", "_end", "_lock", "_on_unknown", "_tokens")

    def __init__(self, *, on_unknown: Literal["charge", "release"] = "charge") -> None:
        self._on_unknown = on_unknown
        self._lock = Lock()
        #: What has progressed, as totals.
        self._tokens = 0
        self._cost = Decimal()
        #: What the body said last: a settlement, "released", or nothing yet.
        self._end: Verdict | Literal["released"] | None = None

    def progress(self, *, tokens: int = 0, cost: Money = 0) -> None:
        """Note totals; they never go down. Amounts that were told as final stay as they are."""
        told_tokens, told_cost = count("tokens", tokens, TOKENS_MAX), money("cost", cost)
        with self._lock:
            self._tokens = max(self._tokens, told_tokens)
            self._cost = max(self._cost, told_cost)

    def settle(
        self, *, tokens: int | None = None, cost: Money | None = None, meta: Mapping[str, object] | None = None
    ) -> None:
        """Note the final amounts; None is not 0 but unknown. Raises InvalidInput when others were told before."""
        end = Verdict(
            tokens=None if tokens is None else count("tokens", tokens, TOKENS_MAX),
            cost=None if cost is None else money("cost", cost),
            meta=_checked(meta),
        )
        with self._lock:
            if self._end is None:
                self._end = end
            elif self._end == "released":
                raise InvalidInput("this guard was released, so it cannot be settled", field="guard")
            elif (self._end.tokens, self._end.cost) != (end.tokens, end.cost):
                raise InvalidInput("this guard was settled with other amounts: they are final", field="guard")

    def release(self) -> None:
        """Note that the call did not happen. Raises InvalidInput when it was settled."""
        with self._lock:
            if isinstance(self._end, Verdict):
                raise InvalidInput("this guard was settled, so it cannot be released", field="guard")
            self._end = "released"

    def verdict(self) -> Verdict:
        """Return what to write, now that the body is over.

        Each amount is what was told as final, else what has progressed, else unknown: then it is all that was
        promised. Of a released call only what has progressed is charged; "release" as the answer to an unknown
        outcome makes a release of it.
        """
        with self._lock:
            tokens, cost = self._tokens or None, self._cost or None
            if isinstance(self._end, Verdict):
                end = self._end
                return Verdict(
                    tokens=tokens if end.tokens is None else end.tokens,
                    cost=cost if end.cost is None else end.cost,
                    meta=end.meta,
                )
            if self._end is None and self._on_unknown == "charge":
                return Verdict(tokens=tokens, cost=cost)
            if tokens is None and cost is None:
                return Verdict(releases=True)
            return Verdict(tokens=tokens or 0, cost=cost or Decimal())


def _checked(meta: Mapping[str, object] | None) -> Mapping[str, object] | None:
    """Return a copy that can be stored: at the end of the body it would be too late to say so.

    It is the body's alone, so that nothing of it can change until then.
    """
    if meta is None:
        return None
    copy: dict[str, object] = json.loads(meta_text(meta))
    return copy
