"""Many client processes, which all run one contender for a slice of time, and then the next one.

The processes are started, connected and warm before the first slice. A disturbance of the machine affects neighbouring
slices of all contenders alike, so the result is the median of the ratios of rounds.
"""

import multiprocessing
import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from attrs import field, frozen

from benchmarks.timing import Times

#: Seconds for 32 interpreters that start and connect at once on a slow machine.
_START_S = 120.0
#: Seconds until every process knows the next contender.
_LEAD_S = 0.05

Call = Callable[[], object]
#: A function that opens a client process, and yields its contenders and queries by name.
Opened = Callable[..., AbstractContextManager[Mapping[str, Call]]]


@frozen
class Slice:
    """The calls of all clients in one slice."""

    #: Operations per second, all clients together.
    rate: float
    times: Times = field(repr=False)


def run_for(call: Call, until: float) -> tuple[float, "array[float]"]:
    """Call until this time of the monotonic clock; return the rate, and the seconds of each call."""
    seconds = array("d")
    began = before = time.monotonic()
    while before < until:
        call()
        now = time.monotonic()
        seconds.append(now - before)
        before = now
    return len(seconds) / (before - began), seconds


def _client(opened: Opened, arguments: Sequence[Any], number: int, wire: Connection) -> None:
    with opened(*arguments, number) as calls:
        wire.send(None)
        while (order := wire.recv()) is not None:
            name, start_at, for_s = order
            if for_s is None:
                wire.send(calls[name]())
                continue
            time.sleep(max(0.0, start_at - time.monotonic()))
            wire.send(run_for(calls[name], start_at + for_s))


class Crew:
    """Client processes that wait for orders."""

    def __init__(self, wires: Sequence[Connection]) -> None:
        """Make a crew. Callers use `crew` instead."""
        self._wires = wires

    def _answers(self, order: object) -> list[Any]:
        for wire in self._wires:
            wire.send(order)
        return [wire.recv() for wire in self._wires]

    def slice(self, name: str, seconds: float) -> Slice:
        """Let all clients run a contender at the same time."""
        answers = self._answers((name, time.monotonic() + _LEAD_S, seconds))
        return Slice(sum(rate for rate, _ in answers), Times([took for _, each in answers for took in each]))

    def ask(self, name: str) -> list[Any]:
        """Let every client call the query of this name once; return the results."""
        return self._answers((name, 0.0, None))


@contextmanager
def crew(size: int, opened: Opened, *arguments: Any) -> Iterator[Crew]:
    """Start clients; each calls `opened(*arguments, its number)`."""
    # Do not fork: a client must be like an independent program.
    spawn = multiprocessing.get_context("spawn")
    wires, processes = [], []
    try:
        for number in range(size):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_client, args=(opened, arguments, number, theirs))
            process.start()
            # Close our copy of the child's end. Otherwise reading would wait for ever if the child dies.
            theirs.close()
            wires.append(ours)
            processes.append(process)
        for wire in wires:
            if not wire.poll(_START_S):
                message = f"a client was not ready within {_START_S:.0f} s"
                raise TimeoutError(message)
            wire.recv()
        yield Crew(wires)
        for wire in wires:
            wire.send(None)
        for process in processes:
            process.join(_START_S)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def take_slices(
    run: Callable[[str, float], Slice], names: Sequence[str], *, rounds: int, seconds: float
) -> dict[str, list[Slice]]:
    """Give each contender a slice in every round, in alternating order; the first round does not count."""
    slices: dict[str, list[Slice]] = {name: [] for name in names}
    for turn in range(-1, rounds):
        for name in names if turn % 2 else reversed(names):
            done = run(name, seconds)
            if turn >= 0:
                slices[name].append(done)
    return slices


def paired(ours: Sequence[Slice], theirs: Sequence[Slice]) -> tuple[float, str]:
    """Return the median of the ratios of rates, and a note about the spread of rounds and single calls."""
    ratios = sorted(mine.rate / other.rate for mine, other in zip(ours, theirs, strict=True))
    p50s = [statistics.median(took for each in side for took in each.times.seconds) * 1000 for side in (ours, theirs)]
    note = f"p50 {p50s[0]:.3g} and {p50s[1]:.3g} ms; {len(ratios)} rounds from {ratios[0]:.2f} to {ratios[-1]:.2f}"
    return statistics.median(ratios), note
