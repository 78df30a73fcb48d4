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
    from atlas_sdk.model.schema import AppliedMigration, ServerFacts
    from atlas_sdk.model.users import User

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
    "AuthenticationFailed": "errors",
    "Broken": "model.memory",
    "Capture": "model.memory",
    "Change": "model.checkpoints",
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
    "IntegrityFailure": "errors",
    "InvalidInput": "errors",
    "NotAProject": "errors",
    "NotFound": "errors",
    "Options": "_connect",
    "OutsideProject": "errors",
    "Project": "model.projects",
    "Restore": "model.checkpoints",
    "RestorePlan": "model.checkpoints",
    "RestoreRefused": "errors",
    "RestoreStep": "model.checkpoints",
    "Scan": "files",
    "SchemaMismatch": "errors",
    "ServerFacts": "model.schema",
    "Signature": "files",
    "Skipped": "files",
    "Snapshot": "model.memory",
    "State": "model.memory",
    "StorageFull": "errors",
    "Tracking": "files",
    "Transaction": "client",
    "TransactionConflict": "errors",
    "User": "model.users",
    "Verification": "model.memory",
}

__all__ = [
    "AlreadyExists",
    "AmbiguousReference",
    "AppliedMigration",
    "AsyncAtlas",
    "AsyncTransaction",
    "Atlas",
    "AtlasError",
    "Attribution",
    "AuthenticationFailed",
    "Broken",
    "Capture",
    "Change",
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
    "IntegrityFailure",
    "InvalidInput",
    "NotAProject",
    "NotFound",
    "Options",
    "OutsideProject",
    "Project",
    "Restore",
    "RestorePlan",
    "RestoreRefused",
    "RestoreStep",
    "Scan",
    "SchemaMismatch",
    "ServerFacts",
    "Signature",
    "Skipped",
    "Snapshot",
    "State",
    "StorageFull",
    "Tracking",
    "Transaction",
    "TransactionConflict",
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
