"""The reports of a dump and of a load."""

from pathlib import Path

from attrs import field, frozen

from atlas_sdk.model.memory import BrokenVersion
from atlas_sdk.model.quota_accounting import QuotaAccounting

__all__ = ["Dumped", "Loaded", "Progress"]


@frozen(kw_only=True)
class Progress:
    """The progress of a dump or a load."""

    #: What is being done: "dump", "load", "index", "verify".
    step: str
    #: A table, or a user's e-mail while verifying; "" while there is nothing to name.
    name: str
    #: How many of them are finished, of how many.
    done: int
    total: int
    #: Bytes written or read so far.
    size: int


@frozen(kw_only=True)
class Dumped:
    """A dump that is on the disk, whole."""

    file: Path
    #: Bytes.
    size: int
    sha256: str
    seconds: float = field(repr="{:.1f}".format)
    #: Of every table, all of one moment: the one that the dump holds.
    rows: dict[str, int]
    schema_version: int
    server_version: str
    #: The pg_dump that made it.
    program: Path


@frozen(kw_only=True)
class Loaded:
    """A dump that was loaded, and what reading all of it back has found."""

    file: Path
    seconds: float = field(repr="{:.1f}".format)
    #: Of every table, as loaded.
    rows: dict[str, int]
    #: Of the dump; a smaller one than `schema_version` was migrated after loading.
    dumped_version: int
    schema_version: int
    #: Users whose memory and quota accounting were verified.
    users: int
    #: Entries of memory that were read back; see `Verification.versions`.
    versions: int
    #: Entries whose bytes do not have their SHA-256.
    broken: tuple[BrokenVersion, ...]
    #: Users whose counters do not match the ledger.
    unbalanced: tuple[QuotaAccounting, ...]
    #: Whether the role that tenants act as has its rights; False where it does not exist.
    granted: bool
    #: Whether the file has a seal, and so is byte for byte what `dump` wrote. One that pg_dump made by hand has none:
    #: of the rows in it, only those of memory and of the quotas were verified.
    sealed: bool

    @property
    def ok(self) -> bool:
        """True when everything read back correctly; a mismatch was in the dump already."""
        return not self.broken and not self.unbalanced
