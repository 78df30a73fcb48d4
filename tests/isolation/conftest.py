"""Fixtures with an attacker and a victim, both with rows in every table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from attacks import Attack
from tenants import SECRET, complete, everything_of, settle_in

from atlas_sdk import Atlas, SigningKeys


@pytest.fixture(autouse=True)
def _keys(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    SigningKeys.generate().write(tmp_path / "keys")
    monkeypatch.setenv("ATLAS_SIGNING_KEYS", str(tmp_path / "keys"))


@contextmanager
def _application(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        login = "app_" + connection.info.dbname.removeprefix("test_")[:16]
        name = psycopg.sql.Identifier(login)
        connection.execute(psycopg.sql.SQL("CREATE ROLE {} LOGIN IN ROLE atlas_app").format(name))
        # A connection of the new login would need a rule in pg_hba.conf. This command changes the session's user
        # instead. The server checks the rights of a superuser for the session's user, so they are gone.
        connection.execute(psycopg.sql.SQL("SET SESSION AUTHORIZATION {}").format(name))
        connection.autocommit = False
        yield connection
        connection.rollback()
        connection.autocommit = True
        connection.execute("RESET SESSION AUTHORIZATION")
        connection.execute(psycopg.sql.SQL("DROP OWNED BY {}").format(name))
        connection.execute(psycopg.sql.SQL("DROP ROLE {}").format(name))


@pytest.fixture
def attack(dsn: str, cheap_hashes: object, record_property: Any) -> Iterator[Attack]:
    """Yield an attack between two tenants; check at the end that the victim's rows did not change."""
    with Atlas.open(dsn) as atlas, psycopg.connect(dsn, autocommit=True) as owner, _application(dsn) as app:
        attacker, victim = settle_in(atlas, "mallory", "mine"), settle_in(atlas, "victim", SECRET)
        for tenant in (attacker, victim):
            complete(owner, tenant)
        made = Attack(atlas, owner, app, attacker, victim)
        made.before = everything_of(owner, victim.user.id)
        made.named(attacker.user.id)
        yield made
        made.unharmed()
        record_property("attacks", made.tried)
        assert made.tried > 0, "nothing was tried"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report the number of attacks. The tests have checked that each one read, changed and revealed nothing."""
    tried = sum(
        value
        # The reports of passed set-ups and teardowns have the empty category.
        for report in terminalreporter.getreports("")
        if getattr(report, "when", None) == "teardown"
        for name, value in report.user_properties
        if name == "attacks"
    )
    if tried:
        terminalreporter.write_line(f"isolation: {tried} attacks, 0 rows of another tenant, 0 leaks")
