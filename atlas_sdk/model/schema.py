"""Applied migrations, and facts about a server."""

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
    """Facts that a server reports about itself."""

    server_version: str
    database: str
    role: str
    now: datetime
    database_bytes: int
