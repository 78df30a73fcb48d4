"""The errors of the database, its schema and its dumps."""

from atlas_sdk.errors.base import AtlasError


class BackupFailed(AtlasError):
    """A dump was not made, or not loaded; nothing of it was kept."""


class DatabaseError(AtlasError):
    """PostgreSQL refused a statement."""

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class StorageFull(DatabaseError):
    """The server's disk is full; nothing of the statement was kept."""

    http_status = 507


class TimedOut(DatabaseError):
    """A statement took longer, or waited longer for a lock, than a time limit allows; nothing of it was kept."""

    http_status = 503

    def __init__(self, message: str, *, limit: str, sqlstate: str | None = None) -> None:
        super().__init__(message, sqlstate=sqlstate)
        #: The name of the limit: "statement", "lock", "idle" (a transaction in which nothing happened) or
        #: "transaction".
        self.limit = limit


class TransactionConflict(DatabaseError):
    """Another transaction was in the way, and nothing was kept. It is safe to repeat the call."""

    http_status = 503


class DatabaseUnreachable(AtlasError):
    """No connection to the database."""

    exit_code = 5
    http_status = 503

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the answer: Retry-After with the time that a client waits for a connection."""
        return {"Retry-After": "5"}


class AuthenticationFailed(DatabaseUnreachable):
    """The server does not accept this role or password."""


class EmbeddedServerFailed(DatabaseUnreachable):
    """The embedded PostgreSQL server does not start."""


class EncryptionFailed(DatabaseUnreachable):
    """The server offers no TLS although it is required, or its certificate is not the right one."""


class SchemaMismatch(AtlasError):
    """The schema is missing, older or newer than this code."""

    def __init__(self, message: str, *, found: int | None, wanted: int, migratable: bool = False) -> None:
        super().__init__(message)
        #: The version in the database; None when there is no schema at all.
        self.found = found
        self.wanted = wanted
        #: True if the missing migrations make the schema fit.
        self.migratable = migratable
