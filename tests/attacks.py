"""One tenant against another: what was tried, and that nothing came of it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from attrs import define, field
from tenants import SECRET, Tenant, everything_of

from atlas_sdk import Atlas


@define
class Attack:
    """One attacker against one victim; counts what was tried."""

    atlas: Atlas
    #: Sees everything.
    owner: psycopg.Connection[Any]
    #: Logged in as a tenant's application: no rights but those of `atlas_app`.
    app: psycopg.Connection[Any]
    attacker: Tenant
    victim: Tenant
    tried: int = 0
    refused: int = 0
    before: str = field(default="", repr=False)

    def named(self, user_id: UUID | None) -> None:
        """Say who the application acts for, as the client does; None: nobody."""
        self.app.rollback()
        self.app.execute("RESET atlas.user_id")
        if user_id is not None:
            self.app.execute(psycopg.sql.SQL("SET atlas.user_id = {}").format(str(user_id)))
        self.app.commit()

    def sql(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]] | str:
        """Try a statement as the attacker; return its rows, or the SQLSTATE. Nothing of it stays."""
        self.tried += 1
        try:
            cursor = self.app.execute(query, parameters)
            rows = cursor.fetchall() if cursor.description else [()] * max(0, cursor.rowcount)
        except psycopg.Error as error:
            self.refused += 1
            self.app.rollback()
            silent(error)
            return error.sqlstate or "?"
        self.app.rollback()
        assert SECRET not in repr(rows), rows
        return rows

    def unharmed(self) -> None:
        """Check that the victim has what it had, to the byte."""
        assert everything_of(self.owner, self.victim.user.id) == self.before


def silent(error: BaseException) -> None:
    """Check that an error says nothing that its victim alone knows."""
    assert SECRET not in f"{error!s} {error!r} {error.__cause__!s}"
