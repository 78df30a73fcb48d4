"""Attacks of one tenant on another, and checks that none of them had an effect."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from attrs import define, field
from tenants import SECRET, Tenant, everything_of

from atlas_sdk import Atlas


@define
class Attack:
    """An attacker and a victim, with counts of the attacks."""

    atlas: Atlas
    #: A superuser's connection.
    owner: psycopg.Connection[Any]
    #: The connection of a tenant's application, with the rights of `atlas_app` only.
    app: psycopg.Connection[Any]
    attacker: Tenant
    victim: Tenant
    tried: int = 0
    refused: int = 0
    before: str = field(default="", repr=False)

    def named(self, user_id: UUID | None) -> None:
        """Set the user for whom the application acts, as the client does; None for nobody."""
        self.app.rollback()
        self.app.execute("RESET atlas.user_id")
        if user_id is not None:
            self.app.execute(psycopg.sql.SQL("SET atlas.user_id = {}").format(str(user_id)))
        self.app.commit()

    def sql(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]] | str:
        """Run a statement as the attacker, and roll it back. Return its rows or the SQLSTATE."""
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
        """Check that the rows of the victim did not change."""
        assert everything_of(self.owner, self.victim.user.id) == self.before


def silent(error: BaseException) -> None:
    """Check that an error names nothing that only the victim knows."""
    assert SECRET not in f"{error!s} {error!r} {error.__cause__!s}"
