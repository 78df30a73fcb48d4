"""Time measurement, in which contenders take turns, so that disturbances of a shared machine affect all of them."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import field, frozen


@frozen
class Times:
    """The seconds that one contender's operations took."""

    seconds: list[float] = field(factory=list)

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def p90(self) -> float:
        """The 90th percentile."""
        return statistics.quantiles(self.seconds, n=10, method="inclusive")[-1]

    def spread(self) -> str:
        """Return the 90th percentile and the number of operations as a note."""
        return f"p90 {self.p90 * 1000:.3g} ms, n {len(self)}"


class Contender(Protocol):
    """A program that keeps versions."""

    #: The contender takes only every n-th turn. Starting programs is slow, and a median needs fewer turns.
    every: int

    def put(self, path: str, content: bytes, /) -> float:
        """Store a version durably; return the seconds that this took, without preparations."""
        ...


def elapsed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def take_turns(contenders: Sequence[Contender], versions: Sequence[tuple[str, bytes]], *, warm_up: int) -> list[Times]:
    """Give each version to each contender in turn; the first `warm_up` rounds do not count.

    Every round has a random order, so that no contender always follows one that leaves the disk busy.
    """
    times = [Times() for _ in contenders]
    order = random.Random(0)
    gc.collect()
    # Collect garbage of imports now, not during a turn.
    gc.freeze()
    try:
        for turn, (path, content) in enumerate(versions, start=-warm_up):
            for index in order.sample(range(len(contenders)), len(contenders)):
                if turn >= 0 and turn % contenders[index].every:
                    continue
                took_s = contenders[index].put(path, content)
                if turn >= 0:
                    times[index].seconds.append(took_s)
    finally:
        gc.unfreeze()
    return times
