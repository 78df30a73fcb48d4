"""AtlasEngine: every version of your agents' memory files kept and restorable, on PostgreSQL.

::

    from atlas_sdk import Atlas

    with Atlas.open() as atlas:                       # embedded; Atlas.open("postgresql://…") for a server
        user = atlas.users.create("ada@example.com")
        project = atlas.projects.create(user, path="/srv/app")
        atlas.memory.snapshot(project, "CLAUDE.md", b"# Rules")   # None when nothing changed
        atlas.memory.checkpoint(project, "before-refactor")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas_sdk._connect import Options
    from atlas_sdk.aio import AsyncAtlas, AsyncTransaction
    from atlas_sdk.client import Atlas, Transaction
    from atlas_sdk.errors import (
        AlreadyExists,
        AmbiguousReference,
        AtlasError,
        AuthenticationFailed,
        ContentMissing,
        DatabaseError,
        DatabaseUnreachable,
        EmbeddedServerFailed,
        FileProblem,
        IntegrityFailure,
        InvalidInput,
        NotAProject,
        NotFound,
        OutsideProject,
        QuotaExceeded,
        RestoreRefused,
        SchemaMismatch,
        StorageFull,
        TransactionConflict,
    )
    from atlas_sdk.files import FileState, Scan, Signature, Skipped, Tracking
    from atlas_sdk.model.attribution import Attribution
    from atlas_sdk.model.checkpoints import Change, Checkpoint, Restore, RestorePlan, RestoreStep
    from atlas_sdk.model.events import Event
    from atlas_sdk.model.health import Health
    from atlas_sdk.model.memory import Broken, Capture, FileDiff, Snapshot, State, Verification
    from atlas_sdk.model.projects import Project
    from atlas_sdk.model.quotas import Audit, Books, Check, Hold, Reservation, Settlement, Usage
    from atlas_sdk.model.schema import AppliedMigration, ServerFacts
    from atlas_sdk.model.users import User
    from atlas_sdk.ops.quotas import UNCHANGED

# Imported when first used: `import atlas_sdk` and `atlasctl --help` must not wait for psycopg.
_HOME_OF = {
    "AlreadyExists": "errors",
    "AmbiguousReference": "errors",
    "AppliedMigration": "model.schema",
    "AsyncAtlas": "aio",
    "AsyncTransaction": "aio",
    "Atlas": "client",
    "AtlasError": "errors",
    "Attribution": "model.attribution",
    "Audit": "model.quotas",
    "AuthenticationFailed": "errors",
    "Books": "model.quotas",
    "Broken": "model.memory",
    "Capture": "model.memory",
    "Change": "model.checkpoints",
    "Check": "model.quotas",
    "Checkpoint": "model.checkpoints",
    "ContentMissing": "errors",
    "DatabaseError": "errors",
    "DatabaseUnreachable": "errors",
    "EmbeddedServerFailed": "errors",
    "Event": "model.events",
    "FileDiff": "model.memory",
    "FileProblem": "errors",
    "FileState": "files",
    "Health": "model.health",
    "Hold": "model.quotas",
    "IntegrityFailure": "errors",
    "InvalidInput": "errors",
    "NotAProject": "errors",
    "NotFound": "errors",
    "Options": "_connect",
    "OutsideProject": "errors",
    "Project": "model.projects",
    "QuotaExceeded": "errors",
    "Reservation": "model.quotas",
    "Restore": "model.checkpoints",
    "RestorePlan": "model.checkpoints",
    "RestoreRefused": "errors",
    "RestoreStep": "model.checkpoints",
    "Scan": "files",
    "SchemaMismatch": "errors",
    "ServerFacts": "model.schema",
    "Settlement": "model.quotas",
    "Signature": "files",
    "Skipped": "files",
    "Snapshot": "model.memory",
    "State": "model.memory",
    "StorageFull": "errors",
    "Tracking": "files",
    "Transaction": "client",
    "TransactionConflict": "errors",
    "UNCHANGED": "ops.quotas",
    "Usage": "model.quotas",
    "User": "model.users",
    "Verification": "model.memory",
}

__all__ = [
    "UNCHANGED",
    "AlreadyExists",
    "AmbiguousReference",
    "AppliedMigration",
    "AsyncAtlas",
    "AsyncTransaction",
    "Atlas",
    "AtlasError",
    "Attribution",
    "Audit",
    "AuthenticationFailed",
    "Books",
    "Broken",
    "Capture",
    "Change",
    "Check",
    "Checkpoint",
    "ContentMissing",
    "DatabaseError",
    "DatabaseUnreachable",
    "EmbeddedServerFailed",
    "Event",
    "FileDiff",
    "FileProblem",
    "FileState",
    "Health",
    "Hold",
    "IntegrityFailure",
    "InvalidInput",
    "NotAProject",
    "NotFound",
    "Options",
    "OutsideProject",
    "Project",
    "QuotaExceeded",
    "Reservation",
    "Restore",
    "RestorePlan",
    "RestoreRefused",
    "RestoreStep",
    "Scan",
    "SchemaMismatch",
    "ServerFacts",
    "Settlement",
    "Signature",
    "Skipped",
    "Snapshot",
    "State",
    "StorageFull",
    "Tracking",
    "Transaction",
    "TransactionConflict",
    "Usage",
    "User",
    "Verification",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"atlas_sdk.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
