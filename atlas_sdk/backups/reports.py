"""The reports of a dump and of a load."""

from pathlib import Path

from attrs import field, frozen

from atlas_sdk.model.memory import BrokenVersion
from atlas_sdk.model.quota_accounting import QuotaAccounting

__all__ = ["Dumped", "Loaded", "Progress"]


@frozen(kw_only=True)
class Progress:
    """The progress of a dump or a load."""

    #: "dump", "load", "index" or "verify".
    step: str
    #: The table at work, or in the step "verify" the e-mail of a user; "" in the step "index".
    name: str
    #: The number of finished tables, or users in the step "verify".
    done: int
    #: The number of all tables or users.
    total: int
    #: Bytes written or read so far.
    size: int


@frozen(kw_only=True)
class Dumped:
    """A complete dump on the disk."""

    file: Path
    #: The size of the file in bytes.
    size: int
    sha256: str
    seconds: float = field(repr="{:.1f}".format)
    #: The number of rows of every table, at the moment of the dump.
    rows: dict[str, int]
    schema_version: int
    server_version: str
    #: The pg_dump that made the dump.
    program: Path


@frozen(kw_only=True)
class Loaded:
    """A dump that was loaded, and the result of its verification."""

    file: Path
    seconds: float = field(repr="{:.1f}".format)
    #: The number of loaded rows of every table.
    rows: dict[str, int]
    #: The schema version of the dump; if it is smaller than `schema_version`, the dump was migrated.
    dumped_version: int
    schema_version: int
    #: The number of users whose memory and quota accounting were verified.
    users: int
    #: The number of memory entries that were read back; see `Verification.versions`.
    versions: int
    #: Entries whose bytes do not have their SHA-256.
    broken: tuple[BrokenVersion, ...]
    #: Users whose counters do not match the ledger.
    unbalanced: tuple[QuotaAccounting, ...]
    #: True if the role of tenants has its rights; False also if there is no such role.
    granted: bool
    #: True if the file has a seal, which proves that no byte has changed since `dump` wrote it. A file that pg_dump
    #: alone wrote has none: then only the rows of memory and of quotas were verified.
    sealed: bool

    @property
    def ok(self) -> bool:
        """True when the verification found no mismatch. A mismatch was already in the dump."""
        return not self.broken and not self.unbalanced
