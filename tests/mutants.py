"""Mutants: functions of the database that are broken on purpose, so that a test must fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg


def source(connection: psycopg.Connection[Any], function: str) -> str:
    """Return the statement that makes a function or procedure."""
    row = connection.execute(
        "SELECT pg_get_functiondef(oid) AS text FROM pg_proc WHERE proname = %s", (function,)
    ).fetchone()
    assert row is not None, f"no function is called {function}"
    (text,) = row.values() if isinstance(row, dict) else row
    return str(text)


@contextmanager
def mutated(connection: psycopg.Connection[Any], function: str, *changes: tuple[str, str]) -> Iterator[None]:
    """Replace the first occurrence of each text in a function, until the end of the context."""
    whole = source(connection, function)
    broken = whole
    for old, new in changes:
        assert old in broken, f"{function} does not contain {old!r} any more: change the mutant"
        broken = broken.replace(old, new, 1)
    connection.execute(broken)  # type: ignore[call-overload]
    try:
        yield
    finally:
        connection.execute(whole)  # type: ignore[call-overload]
