"""A password, and functions to look at the stored hash and the events."""

from __future__ import annotations

from typing import Any

import argon2
import psycopg

from atlas_sdk import User

PASSWORD = "correct horse battery"
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=256, parallelism=1)
#: The parameters of new hashes in these tests. The real cost has tests of its own.
PARAMETERS = "$argon2id$v=19$m=512,t=1,p=1$"


class Work:
    """The calls of argon2: parameters of verified hashes, number of new hashes, and threads."""

    def __init__(self) -> None:
        self.verified: list[str] = []
        self.hashed = 0
        self.threads: set[int] = set()


def stored_hash(connection: psycopg.Connection[Any], user: User) -> str:
    ((found,),) = connection.execute("SELECT password_hash FROM users WHERE id = %s", [user.id]).fetchall()
    return found


def events_of(connection: psycopg.Connection[Any], user_id: object) -> list[tuple[str, dict[str, Any]]]:
    rows = connection.execute("SELECT type, meta FROM events WHERE user_id = %s ORDER BY id", [user_id]).fetchall()
    return [
        (kind, {name: value for name, value in meta.items() if name not in {"source", "login"}}) for kind, meta in rows
    ]
