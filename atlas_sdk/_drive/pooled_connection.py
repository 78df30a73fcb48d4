"""The connections of both pools, which execute a statement without a cursor, in one round trip."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from psycopg import AsyncConnection, Connection, Error

from atlas_sdk._drive.statement_cache import StatementCache
from atlas_sdk._plan import Result
from atlas_sdk.dsn import scrub

__all__ = ["AsyncPooledConnection", "PooledConnection"]


class PooledConnection(Connection[Any]):
    """A connection of a blocking client's pool."""

    _statements: StatementCache | None = None
    #: The command that sets the search_path of a transaction; empty if the connection itself has the search_path.
    path = b""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect. Errors hold no secrets, because the pool logs them."""
        try:
            return super().connect(conninfo, **kwargs)
        except Error as exc:
            scrub(exc, conninfo)
            raise

    @property
    def statements(self) -> StatementCache:
        """The prepared statements of this connection."""
        if self._statements is None:
            self._statements = StatementCache(self)
        return self._statements

    def execute_prepared(self, text: str, parameters: Mapping[str, object]) -> Result:
        """Run one statement outside of a transaction."""
        with self.lock:
            return self.wait(self.statements.execute_prepared(text, parameters))

    def execute_in_transaction(
        self, begin: Sequence[bytes], end: bytes, text: str, parameters: Mapping[str, object]
    ) -> Result:
        """Run one statement between the commands that start and end a transaction, in one round trip."""
        with self.lock:
            return self.wait(self.statements.execute_in_transaction(begin, end, text, parameters))


class AsyncPooledConnection(AsyncConnection[Any]):
    """A connection of an asyncio client's pool. The twin of `PooledConnection`, line by line."""

    _statements: StatementCache | None = None
    #: The command that sets the search_path of a transaction; empty if the connection itself has the search_path.
    path = b""

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect. Errors hold no secrets, because the pool logs them."""
        try:
            return await super().connect(conninfo, **kwargs)
        except Error as exc:
            scrub(exc, conninfo)
            raise

    @property
    def statements(self) -> StatementCache:
        """The prepared statements of this connection."""
        if self._statements is None:
            self._statements = StatementCache(self)
        return self._statements

    async def execute_prepared(self, text: str, parameters: Mapping[str, object]) -> Result:
        """Run one statement outside of a transaction."""
        async with self.lock:
            return await self.wait(self.statements.execute_prepared(text, parameters))

    async def execute_in_transaction(
        self, begin: Sequence[bytes], end: bytes, text: str, parameters: Mapping[str, object]
    ) -> Result:
        """Run one statement between the commands that start and end a transaction, in one round trip."""
        async with self.lock:
            return await self.wait(self.statements.execute_in_transaction(begin, end, text, parameters))
