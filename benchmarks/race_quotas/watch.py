"""The invariants of the counters during the race, checked in one statement and so at one moment."""

import time
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID

import psycopg
from attrs import define, field
from psycopg.rows import dict_row

_LOOK = """
SELECT user_id, tokens_used, tokens_held, tokens_limit, cost_used, cost_held, cost_limit, containers_used,
       containers_limit, requests_used, requests_held, requests_limit, builds_used, builds_limit,
       build_day, (SELECT sum(c) FROM unnest(request_cells) AS c) AS request_sum
FROM user_quotas WHERE user_id = ANY(%s)
"""
_NAIVE = "SELECT tokens_used, tokens_limit FROM naive_quotas"

Row = Mapping[str, Any]


def dimensions(row: Row) -> dict[str, tuple[Any, Any]]:
    """Return the amount and the limit of each dimension."""
    return {
        "tokens": (row["tokens_used"] + row["tokens_held"], row["tokens_limit"]),
        "cost": (row["cost_used"] + row["cost_held"], row["cost_limit"]),
        "slots": (row["containers_used"], row["containers_limit"]),
        "requests": (row["request_sum"] + row["requests_held"], row["requests_limit"]),
        "builds": (row["builds_used"], row["builds_limit"]),
    }


def problems(row: Row, name: str) -> list[str]:
    """Return the errors in a user's counters, in words."""
    found = [
        f"{name} is over the limit of {dimension}: {taken} of {limit}"
        for dimension, (taken, limit) in dimensions(row).items()
        if taken > limit
    ]
    if row["request_sum"] != row["requests_used"]:
        found.append(f"{name}: the minutes have {row['request_sum']} requests, their sum says {row['requests_used']}")
    return found


@define
class Watch:
    """A watcher of the counters that remembers the highest shares."""

    dsn: str
    users: Sequence[UUID]
    looks: int = 0
    #: The number of looks that failed because the server had crashed.
    missed: int = 0
    #: The highest share of each limit, by user and dimension.
    peaks: list[dict[str, float]] = field(init=False)
    rows: list[Row] = field(factory=list)
    naive_over: int = 0
    #: The usage and the limit of the naive pair.
    naive: tuple[int, int] = (0, 0)
    problems: list[str] = field(factory=list)
    #: The days on which builds were counted.
    days: set[date] = field(factory=set)
    _connection: psycopg.Connection[Any] | None = None

    def __attrs_post_init__(self) -> None:
        self.peaks = [dict.fromkeys(("tokens", "cost", "slots", "requests", "builds"), 0.0) for _ in self.users]

    def look(self) -> bool:
        """Look once; return False if the server is down."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)
            found = self._connection.execute(_LOOK, (list(self.users),)).fetchall()
            naive = self._connection.execute(_NAIVE).fetchall()
        except psycopg.OperationalError:
            self.close()
            self.missed += 1
            return False
        by_user = {row["user_id"]: row for row in found}
        self.rows = [by_user[user] for user in self.users]
        self.looks += 1
        for number, row in enumerate(self.rows):
            self.problems += [f"at {time.strftime('%H:%M:%S')}: {text}" for text in problems(row, f"user {number}")]
            for dimension, (taken, limit) in dimensions(row).items():
                share = float(taken / limit) if limit else 0.0
                self.peaks[number][dimension] = max(self.peaks[number][dimension], share)
        self.days |= {row["build_day"] for row in self.rows} - {None}
        self.naive = naive[0]["tokens_used"], naive[0]["tokens_limit"]
        self.naive_over = max(self.naive_over, self.naive[0] - self.naive[1])
        return True

    @property
    def same_day(self) -> bool:
        """True if the whole race was on one day, so that the count of builds never restarted."""
        return len(self.days) <= 1

    def close(self) -> None:
        """End the connection. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
