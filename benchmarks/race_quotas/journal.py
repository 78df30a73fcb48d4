"""What workers know: lines in a file of each, which a kill of the process does not reach."""

import json
import os
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from attrs import astuple, frozen

__all__ = ["Grant", "Journal", "Outcome", "Paid", "Stay", "entries", "nano"]


def nano(cost: Decimal | int) -> int:
    """Return dollars as billionths, which JSON keeps exactly."""
    return int(cost * 10**9)


@frozen
class Grant:
    """An answer of the database: this was promised."""

    user: int
    id: str
    epoch: int
    #: Seconds of the clock that all processes of a machine share: before the question, after the answer.
    asked: float
    answered: float
    #: Counted in the hour and in the day by this promise.
    requests: int
    builds: int


@frozen
class Paid:
    """What was used of a promise, or of a block of a lease, and told: the answer came."""

    user: int
    id: str
    tokens: int
    nano: int
    #: Of a block this is only a part.
    whole: bool


@frozen
class Stay:
    """A slot that its holder was sure to have, from then until then; the latest entry of an epoch counts."""

    user: int
    epoch: int
    since: float
    until: float


@frozen
class Outcome:
    """How a job ended."""

    kind: str
    end: str


Entry = Grant | Paid | Stay | Outcome
_KINDS: dict[str, type[Entry]] = {kind.__name__: kind for kind in (Grant, Paid, Stay, Outcome)}


class Journal:
    """Appends one line with one write, so that a killed worker leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, entry: Entry) -> None:
        """Write an entry down."""
        os.write(self._file, (json.dumps([type(entry).__name__, *astuple(entry)]) + "\n").encode())

    def granted(
        self, user: int, reservation: UUID, epoch: int | None, asked: float, *, requests: int = 0, builds: int = 0
    ) -> None:
        """Note a promise that has just been answered."""
        self.note(Grant(user, str(reservation), epoch or 0, asked, time.monotonic(), requests, builds))


def entries(folder: Path) -> Iterator[Entry]:
    """Yield what all workers noted."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                kind, *values = json.loads(line)
                yield _KINDS[kind](*values)
