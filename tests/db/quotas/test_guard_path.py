"""The path of a reservation through the package: a reader must be able to follow it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from guard_adapter import QuotaClient

import atlas_sdk

PACKAGE = Path(atlas_sdk.__file__).parent
#: The most Python files of the package that the entry and the exit of a guard may enter.
RESERVES, SETTLES = 9, 10


@contextmanager
def calls_by_file() -> Iterator[dict[str, int]]:
    """Count the calls of functions of the package in this thread."""
    found: dict[str, int] = {}

    def note(frame: FrameType, event: str, _arg: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(PACKAGE):
            name = str(file.relative_to(PACKAGE))
            found[name] = found.get(name, 0) + 1

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def test_a_reservation_enters_few_files(client: QuotaClient) -> None:
    user = client.user(tokens=10**6)
    for _ in range(3):
        # Fill the pool, and let the connection prepare its statements.
        with client.guard(user, tokens=10) as g:
            g.settle(tokens=1)
    guard = client.guard(user, tokens=10)
    with calls_by_file() as reserving:
        g = guard.__enter__()
    g.settle(tokens=1)
    with calls_by_file() as settling:
        guard.__exit__(None, None, None)
    assert g.settlement.tokens == 1
    # An asyncio client connects after the call of `open`, so `aio.py` passes its plans on.
    more = client.kind == "asyncio"
    assert 0 < len(reserving) <= RESERVES + more, sorted(reserving)
    assert 0 < len(settling) <= SETTLES + more, sorted(settling)
