"""The schema's versions, and what a server says of itself."""

from datetime import datetime

from attrs import field, frozen

__all__ = ["AppliedMigration", "ServerFacts"]


@frozen(kw_only=True)
class AppliedMigration:
    """One row of schema_version."""

    version: int
    name: str
    checksum: str = field(repr=False)
    applied_at: datetime = field(repr=str)


@frozen(kw_only=True)
class ServerFacts:
    """The server's description of itself."""

    server_version: str
    database: str
    role: str
    now: datetime
    database_bytes: int
