"""AtlasEngine: every version of your agents' memory files kept and restorable, on PostgreSQL.

::

    from atlas_sdk import Atlas

    with Atlas.open() as atlas:                       # embedded; Atlas.open("postgresql://…") for a server
        user = atlas.users.create("ada@example.com")
        project = atlas.projects.create(user, path="/srv/app")
        atlas.memory.snapshot(project, "CLAUDE.md", b"# Rules")   # None when nothing changed
        atlas.memory.checkpoint(project, "before-refactor")

This package has the names that programs use most: clients, options, objects, errors, guards. These modules are public,
too: `atlas_sdk.results` (rarer results of operations), `atlas_sdk.maintenance`, `atlas_sdk.files`, `atlas_sdk.guards`,
`atlas_sdk.errors` and `atlas_sdk.integrations`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas_sdk._connect import Options
    from atlas_sdk._drive.listener import AsyncListener, Listener
    from atlas_sdk.aio import AsyncAtlas, AsyncTransaction
    from atlas_sdk.client import Atlas, Transaction
    from atlas_sdk.errors import (
        AlreadyExists,
        AmbiguousReference,
        AtlasError,
        AuthenticationFailed,
        AuthError,
        BackupFailed,
        ContentMissing,
        DatabaseError,
        DatabaseUnreachable,
        EmbeddedServerFailed,
        EncryptionFailed,
        FileProblem,
        IdempotencyConflict,
        IllegalTransition,
        IntegrityFailure,
        InvalidInput,
        InvalidToken,
        MissingExtra,
        NotAProject,
        NotFound,
        NotPermitted,
        OutsideProject,
        PortsExhausted,
        QuotaExceeded,
        RestoreRefused,
        SchemaMismatch,
        SlotLost,
        StorageFull,
        TimedOut,
        TransactionConflict,
    )
    from atlas_sdk.files import Tracking
    from atlas_sdk.guards.async_lease import AsyncLease
    from atlas_sdk.guards.guard import AsyncGuard, Guard, current_guard
    from atlas_sdk.guards.lease import Lease
    from atlas_sdk.guards.options import GuardOptions
    from atlas_sdk.guards.slot import AsyncSlot, Slot
    from atlas_sdk.model.attribution import Attribution
    from atlas_sdk.model.builds import Build
    from atlas_sdk.model.checkpoints import Checkpoint, Restore, RestorePlan
    from atlas_sdk.model.events import Event
    from atlas_sdk.model.health import Health
    from atlas_sdk.model.limits import Limits, TopUp
    from atlas_sdk.model.memory import Capture, FileDiff, Snapshot, Verification
    from atlas_sdk.model.notifications import Notification, NotificationGap
    from atlas_sdk.model.previews import Preview
    from atlas_sdk.model.projects import Project
    from atlas_sdk.model.quota_accounting import (
        OpenReservation,
        Usage,
    )
    from atlas_sdk.model.quotas import Reservation, Settlement
    from atlas_sdk.model.sessions import IssuedSession, Session
    from atlas_sdk.model.summaries import UsageSummary
    from atlas_sdk.model.usage import UsageEntry
    from atlas_sdk.model.users import User
    from atlas_sdk.ops.amounts import UNCHANGED
    from atlas_sdk.signing_keys import SigningKeys

    __version__: str

# Import each name at its first use: `import atlas_sdk` and `atlasctl --help` must not wait for psycopg.
_HOME_OF = {
    "AlreadyExists": "errors",
    "AmbiguousReference": "errors",
    "GuardOptions": "guards.options",
    "AsyncAtlas": "aio",
    "AsyncGuard": "guards.guard",
    "AsyncLease": "guards.async_lease",
    "AsyncListener": "_drive.listener",
    "AsyncSlot": "guards.slot",
    "AsyncTransaction": "aio",
    "Atlas": "client",
    "AtlasError": "errors",
    "Attribution": "model.attribution",
    "AuthError": "errors",
    "AuthenticationFailed": "errors",
    "BackupFailed": "errors",
    "Build": "model.builds",
    "Capture": "model.memory",
    "Checkpoint": "model.checkpoints",
    "ContentMissing": "errors",
    "DatabaseError": "errors",
    "DatabaseUnreachable": "errors",
    "EmbeddedServerFailed": "errors",
    "EncryptionFailed": "errors",
    "Event": "model.events",
    "FileDiff": "model.memory",
    "FileProblem": "errors",
    "NotificationGap": "model.notifications",
    "TopUp": "model.limits",
    "Guard": "guards.guard",
    "Health": "model.health",
    "OpenReservation": "model.quota_accounting",
    "IdempotencyConflict": "errors",
    "IllegalTransition": "errors",
    "IntegrityFailure": "errors",
    "InvalidInput": "errors",
    "InvalidToken": "errors",
    "IssuedSession": "model.sessions",
    "Lease": "guards.lease",
    "Limits": "model.limits",
    "Listener": "_drive.listener",
    "MissingExtra": "errors",
    "NotAProject": "errors",
    "NotFound": "errors",
    "NotPermitted": "errors",
    "Notification": "model.notifications",
    "Options": "_connect",
    "OutsideProject": "errors",
    "PortsExhausted": "errors",
    "Preview": "model.previews",
    "Project": "model.projects",
    "QuotaExceeded": "errors",
    "Reservation": "model.quotas",
    "Restore": "model.checkpoints",
    "RestorePlan": "model.checkpoints",
    "RestoreRefused": "errors",
    "SchemaMismatch": "errors",
    "Session": "model.sessions",
    "Settlement": "model.quotas",
    "SigningKeys": "signing_keys",
    "Slot": "guards.slot",
    "SlotLost": "errors",
    "Snapshot": "model.memory",
    "StorageFull": "errors",
    "TimedOut": "errors",
    "Tracking": "files",
    "Transaction": "client",
    "TransactionConflict": "errors",
    "UNCHANGED": "ops.amounts",
    "Usage": "model.quota_accounting",
    "UsageEntry": "model.usage",
    "UsageSummary": "model.summaries",
    "User": "model.users",
    "Verification": "model.memory",
    "current_guard": "guards.guard",
}

__all__ = [
    "UNCHANGED",
    "AlreadyExists",
    "AmbiguousReference",
    "AsyncAtlas",
    "AsyncGuard",
    "AsyncLease",
    "AsyncListener",
    "AsyncSlot",
    "AsyncTransaction",
    "Atlas",
    "AtlasError",
    "Attribution",
    "AuthError",
    "AuthenticationFailed",
    "BackupFailed",
    "Build",
    "Capture",
    "Checkpoint",
    "ContentMissing",
    "DatabaseError",
    "DatabaseUnreachable",
    "EmbeddedServerFailed",
    "EncryptionFailed",
    "Event",
    "FileDiff",
    "FileProblem",
    "Guard",
    "GuardOptions",
    "Health",
    "IdempotencyConflict",
    "IllegalTransition",
    "IntegrityFailure",
    "InvalidInput",
    "InvalidToken",
    "IssuedSession",
    "Lease",
    "Limits",
    "Listener",
    "MissingExtra",
    "NotAProject",
    "NotFound",
    "NotPermitted",
    "Notification",
    "NotificationGap",
    "OpenReservation",
    "Options",
    "OutsideProject",
    "PortsExhausted",
    "Preview",
    "Project",
    "QuotaExceeded",
    "Reservation",
    "Restore",
    "RestorePlan",
    "RestoreRefused",
    "SchemaMismatch",
    "Session",
    "Settlement",
    "SigningKeys",
    "Slot",
    "SlotLost",
    "Snapshot",
    "StorageFull",
    "TimedOut",
    "TopUp",
    "Tracking",
    "Transaction",
    "TransactionConflict",
    "Usage",
    "UsageEntry",
    "UsageSummary",
    "User",
    "Verification",
    "current_guard",
]


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        value = import_module("importlib.metadata").version("atlasengine")
    elif name in _HOME_OF:
        value = getattr(import_module(f"atlas_sdk.{_HOME_OF[name]}"), name)
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
