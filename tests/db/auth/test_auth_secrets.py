"""Passwords, hashes, tokens and keys are shown nowhere, not in logs, reprs, errors or the audit trail."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import argon2
import psycopg
import pytest

from atlas_sdk import (
    AtlasError,
    MissingExtra,
    SigningKeys,
    User,
)

pytestmark = pytest.mark.usefixtures("cheap_hashes", "keys")

PASSWORD = "correct horse battery"


def stored_hash(connection: psycopg.Connection[Any], user: User) -> str:
    ((found,),) = connection.execute("SELECT password_hash FROM users WHERE id = %s", [user.id]).fetchall()
    return found


def everything_of(error: BaseException | None) -> Iterator[str]:
    """Yield every text that a traceback, a log or an error tracker could show of an error and its causes."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
        error = error.__cause__ or error.__context__


def shown_by(attempt: Callable[[], object]) -> str:
    with pytest.raises(AtlasError) as failure:
        attempt()
    return "\n".join(everything_of(failure.value))


def test_nothing_secret_is_ever_shown(
    client: Any, migrated: Any, caplog: Any, keys: SigningKeys, cheap_hashes: argon2.PasswordHasher, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    vars(client).get("_target", client)._view._config.query_log = True
    secret, typo = "Tr0ub4dor-and-3", "Tr0ub4dor-und-3"
    ada = client.users.create("ada@example.com", password=secret)
    hashes = [cheap_hashes.hash(secret), stored_hash(migrated, ada)]
    bob = client.users.create("bob@example.com", password_hash=hashes[0])
    signed_in = [
        repr(client.users.authenticate(email, password))
        for email in ("ada@example.com", "bob@example.com", "nobody@example.com")
        for password in (secret, typo)
    ]
    issued = client.sessions.issue(ada)
    forged = issued.token[:-4] + "AAAA"
    shown = [
        *signed_in,
        *(repr(issued), str(issued), repr(client.sessions.verify(issued.token))),
        shown_by(lambda: client.sessions.verify(forged)),
        shown_by(lambda: client.sessions.revoke(forged)),
        shown_by(lambda: client.users.create("ada@example.com", password=secret)),
        *(
            shown_by(lambda p=p: client.users.set_password(ada, p))
            for p in (secret[:7], secret * 100, secret + "\ud800")
        ),
        # The database quotes the whole row that it refuses.
        *(
            shown_by(lambda n=n: client.users.create("e@x", name=n, password=secret))
            for n in ("x" * 201, "\0", "\ud800")
        ),
        *(row for (row,) in migrated.execute("SELECT row_to_json(e)::text FROM events AS e")),
    ]
    hashes.append(stored_hash(migrated, bob))
    client.users.set_password(ada, secret + "!")
    hashes.append(stored_hash(migrated, ada))
    assert "auth.credentials" in caplog.text, "the log of statements was on"
    everything = "\n".join([*shown, caplog.text, *map(repr, caplog.records)])
    key = (tmp_path / "keys").read_text().splitlines()[1]
    parts = [part for found in hashes for part in (found, *found.split("$")[-2:])]
    tokens = [issued.token, issued.token.rsplit(".", 1)[1], hashlib.sha256(issued.token.encode()).hexdigest()]
    for forbidden in ("Tr0ub", "$argon2", *parts, *tokens, key, repr(keys.secret_of(keys.kid))):
        assert forbidden not in everything, forbidden


# Without the extra.


def test_without_the_extra_the_error_says_how_to_get_it(client: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)
    monkeypatch.setitem(sys.modules, "jwt", None)
    user = client.users.create("ada@example.com")
    for attempt in (
        lambda: client.users.create("bob@example.com", password=PASSWORD),
        lambda: client.users.authenticate("ada@example.com", PASSWORD),
        lambda: client.users.authenticate("nobody@example.com", PASSWORD),
        lambda: client.users.set_password(user, PASSWORD),
        lambda: client.sessions.issue(user),
        lambda: client.sessions.verify("x.y.z"),
    ):
        with pytest.raises(MissingExtra, match=r'pip install "atlasengine\[auth\]"') as failure:
            attempt()
        assert failure.value.extra == "auth"
    assert client.users.by_email("bob@example.com") is None
