"""Journals of the workers: a file for each, whose lines survive a kill of the process."""

import json
import os
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from attrs import astuple, frozen


def nano(cost: Decimal | int) -> int:
    """Return dollars as an integer of billionths, which JSON keeps exactly."""
    return int(cost * 10**9)


@frozen
class Grant:
    """A reservation that the database granted."""

    user: int
    id: str
    epoch: int
    #: Seconds of the machine's monotonic clock, before the request and after the answer.
    asked: float
    answered: float
    #: Requests and builds that the reservation counts.
    requests: int
    builds: int


@frozen
class Paid:
    """A confirmed settlement of a reservation, or of a part of a lease's block."""

    user: int
    id: str
    tokens: int
    nano: int
    #: False if this is only a part of a block.
    whole: bool


@frozen
class Stay:
    """The time in which a holder was sure of its slot; the latest entry of an epoch counts."""

    user: int
    epoch: int
    since: float
    until: float


@frozen
class Outcome:
    """The outcome of a job."""

    kind: str
    end: str


Entry = Grant | Paid | Stay | Outcome
_KINDS: dict[str, type[Entry]] = {kind.__name__: kind for kind in (Grant, Paid, Stay, Outcome)}


class Journal:
    """A journal that appends each line with one write, so that a killed worker leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, entry: Entry) -> None:
        """Write an entry down."""
        os.write(self._file, (json.dumps([type(entry).__name__, *astuple(entry)]) + "\n").encode())

    def granted(
        self, user: int, reservation: UUID, epoch: int | None, asked: float, *, requests: int = 0, builds: int = 0
    ) -> None:
        """Note a reservation that was just granted."""
        self.note(Grant(user, str(reservation), epoch or 0, asked, time.monotonic(), requests, builds))


def entries(folder: Path) -> Iterator[Entry]:
    """Yield the entries of all workers."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                kind, *values = json.loads(line)
                yield _KINDS[kind](*values)
