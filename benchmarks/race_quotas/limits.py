"""Small limits. Most of them grow when they are reached, so that workers reach them all the time."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg

from atlas_sdk import Atlas, AtlasError, DatabaseUnreachable, TransactionConflict, User
from benchmarks.race_quotas.watch import Row, Watch, dimensions

#: The limits of a new user, and the amounts added when a limit is reached.
ROOM: dict[str, Any] = {"tokens": 60_000, "cost": Decimal("0.30"), "requests": 600, "builds": 10}
_SLOTS = 3
#: Seconds between two checks, and the probability that a check raises a reached limit. So some users stay refused for a
#: while.
_PAUSE_S = 0.4
_CHANCE = 0.4
#: A limit counts as reached when less is left than one call may ask for.
_SHORT: dict[str, Any] = {"tokens": 2000, "cost": Decimal("0.01"), "requests": 5, "builds": 1}


def new_user(atlas: Atlas, number: int) -> User:
    """Create a user with small limits."""
    user = atlas.users.create(f"racer-{number}@race.example")
    atlas.quotas.set_limits(
        user,
        tokens=ROOM["tokens"],
        cost=ROOM["cost"],
        containers=_SLOTS,
        requests_per_hour=ROOM["requests"],
        builds_per_day=ROOM["builds"],
    )
    return user


@contextmanager
def filled_up(atlas: Atlas, dsn: str, users: Sequence[User], watch: Watch, problems: list[str]) -> Iterator[None]:
    """Raise reached limits in a thread: by top-ups for monthly limits, by higher limits for the others."""
    over = threading.Event()
    dice = random.Random(0)

    def fill() -> None:
        while not over.wait(_PAUSE_S):
            try:
                for number, user in enumerate(users):
                    if number < len(watch.rows):
                        _raise(atlas, user, watch.rows[number], dice)
                used, limit = watch.naive
                if limit - used < _SHORT["tokens"] and dice.random() < _CHANCE:
                    with psycopg.connect(dsn, autocommit=True) as connection:
                        connection.execute(
                            "UPDATE naive_quotas SET tokens_limit = tokens_limit + %s", (ROOM["tokens"],)
                        )
            except (DatabaseUnreachable, TransactionConflict, psycopg.OperationalError):
                # The server has crashed.
                continue
            except (AtlasError, psycopg.Error) as problem:
                problems.append(f"a limit cannot be raised: {problem}")
                return

    thread = threading.Thread(target=fill, name="limits")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _raise(atlas: Atlas, user: User, row: Row, dice: random.Random) -> None:
    left = {name: limit - taken for name, (taken, limit) in dimensions(row).items()}
    short = {name for name, least in _SHORT.items() if left[name] < least and dice.random() < _CHANCE}
    # Half of the top-ups expire; then their unused part is lost.
    lasts = timedelta(seconds=dice.uniform(1, 10)) if dice.random() < 0.5 else None
    for dimension in sorted(short & {"tokens", "cost"}):
        atlas.quotas.grant(user, **{dimension: ROOM[dimension]}, expires_in=lasts)
    if "requests" in short:
        atlas.quotas.set_limits(user, requests_per_hour=row["requests_limit"] + ROOM["requests"])
    if "builds" in short:
        atlas.quotas.set_limits(user, builds_per_day=row["builds_limit"] + ROOM["builds"])
