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
    from atlas_sdk.files import FileState, Scan, Signature, Skipped, Tracking
    from atlas_sdk.guards.async_lease import AsyncLease
    from atlas_sdk.guards.guard import AsyncGuard, Guard, current_guard
    from atlas_sdk.guards.lease import Lease
    from atlas_sdk.guards.lease_call import Call
    from atlas_sdk.guards.options import GuardOptions
    from atlas_sdk.guards.slot import AsyncSlot, Slot
    from atlas_sdk.model.attribution import Attribution
    from atlas_sdk.model.builds import Build, BuildStats
    from atlas_sdk.model.checkpoints import Change, Checkpoint, Restore, RestorePlan, RestoreStep
    from atlas_sdk.model.events import Event
    from atlas_sdk.model.health import Health
    from atlas_sdk.model.limits import Limits, TopUp
    from atlas_sdk.model.maintenance import MAINTENANCE_JOBS, JobReport, MaintenanceProgress, MaintenanceRun
    from atlas_sdk.model.memory import Broken, Capture, FileDiff, Snapshot, State, Verification
    from atlas_sdk.model.memory_usage import MemoryUsage
    from atlas_sdk.model.notifications import Gap, Notification
    from atlas_sdk.model.pool import PoolStats
    from atlas_sdk.model.previews import Preview
    from atlas_sdk.model.projects import Project, Purge
    from atlas_sdk.model.quota_accounting import (
        Check,
        Forecast,
        OpenReservation,
        Period,
        QuotaAccounting,
        QuotaAudit,
        Usage,
    )
    from atlas_sdk.model.quotas import Block, Rate, Reservation, Settlement
    from atlas_sdk.model.schema import AppliedMigration, ServerFacts
    from atlas_sdk.model.sessions import IssuedSession, Session
    from atlas_sdk.model.summaries import ProjectHealth, UsageSummary
    from atlas_sdk.model.usage import UsageEntry, UsageTotal
    from atlas_sdk.model.users import Deletion, User
    from atlas_sdk.ops.amounts import UNCHANGED
    from atlas_sdk.signing_keys import SigningKeys

# Imported when first used: `import atlas_sdk` and `atlasctl --help` must not wait for psycopg.
_HOME_OF = {
    "AlreadyExists": "errors",
    "AmbiguousReference": "errors",
    "AppliedMigration": "model.schema",
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
    "QuotaAudit": "model.quota_accounting",
    "AuthError": "errors",
    "AuthenticationFailed": "errors",
    "BackupFailed": "errors",
    "Block": "model.quotas",
    "QuotaAccounting": "model.quota_accounting",
    "Broken": "model.memory",
    "Build": "model.builds",
    "BuildStats": "model.builds",
    "Call": "guards.lease_call",
    "Capture": "model.memory",
    "Change": "model.checkpoints",
    "Check": "model.quota_accounting",
    "Checkpoint": "model.checkpoints",
    "ContentMissing": "errors",
    "DatabaseError": "errors",
    "DatabaseUnreachable": "errors",
    "Deletion": "model.users",
    "EmbeddedServerFailed": "errors",
    "EncryptionFailed": "errors",
    "Event": "model.events",
    "FileDiff": "model.memory",
    "FileProblem": "errors",
    "FileState": "files",
    "Forecast": "model.quota_accounting",
    "Gap": "model.notifications",
    "TopUp": "model.limits",
    "Guard": "guards.guard",
    "Health": "model.health",
    "OpenReservation": "model.quota_accounting",
    "IllegalTransition": "errors",
    "IntegrityFailure": "errors",
    "InvalidInput": "errors",
    "InvalidToken": "errors",
    "IssuedSession": "model.sessions",
    "JobReport": "model.maintenance",
    "Lease": "guards.lease",
    "Limits": "model.limits",
    "Listener": "_drive.listener",
    "MAINTENANCE_JOBS": "model.maintenance",
    "MaintenanceProgress": "model.maintenance",
    "MaintenanceRun": "model.maintenance",
    "MemoryUsage": "model.memory_usage",
    "MissingExtra": "errors",
    "NotAProject": "errors",
    "NotFound": "errors",
    "NotPermitted": "errors",
    "Notification": "model.notifications",
    "Options": "_connect",
    "OutsideProject": "errors",
    "Period": "model.quota_accounting",
    "PoolStats": "model.pool",
    "PortsExhausted": "errors",
    "Preview": "model.previews",
    "Project": "model.projects",
    "ProjectHealth": "model.summaries",
    "Purge": "model.projects",
    "QuotaExceeded": "errors",
    "Rate": "model.quotas",
    "Reservation": "model.quotas",
    "Restore": "model.checkpoints",
    "RestorePlan": "model.checkpoints",
    "RestoreRefused": "errors",
    "RestoreStep": "model.checkpoints",
    "Scan": "files",
    "SchemaMismatch": "errors",
    "ServerFacts": "model.schema",
    "Session": "model.sessions",
    "Settlement": "model.quotas",
    "Signature": "files",
    "SigningKeys": "signing_keys",
    "Skipped": "files",
    "Slot": "guards.slot",
    "SlotLost": "errors",
    "Snapshot": "model.memory",
    "State": "model.memory",
    "StorageFull": "errors",
    "TimedOut": "errors",
    "Tracking": "files",
    "Transaction": "client",
    "TransactionConflict": "errors",
    "UNCHANGED": "ops.amounts",
    "Usage": "model.quota_accounting",
    "UsageEntry": "model.usage",
    "UsageSummary": "model.summaries",
    "UsageTotal": "model.usage",
    "User": "model.users",
    "Verification": "model.memory",
    "current_guard": "guards.guard",
}

__all__ = [
    "MAINTENANCE_JOBS",
    "UNCHANGED",
    "AlreadyExists",
    "AmbiguousReference",
    "AppliedMigration",
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
    "Block",
    "Broken",
    "Build",
    "BuildStats",
    "Call",
    "Capture",
    "Change",
    "Check",
    "Checkpoint",
    "ContentMissing",
    "DatabaseError",
    "DatabaseUnreachable",
    "Deletion",
    "EmbeddedServerFailed",
    "EncryptionFailed",
    "Event",
    "FileDiff",
    "FileProblem",
    "FileState",
    "Forecast",
    "Gap",
    "Guard",
    "GuardOptions",
    "Health",
    "IllegalTransition",
    "IntegrityFailure",
    "InvalidInput",
    "InvalidToken",
    "IssuedSession",
    "JobReport",
    "Lease",
    "Limits",
    "Listener",
    "MaintenanceProgress",
    "MaintenanceRun",
    "MemoryUsage",
    "MissingExtra",
    "NotAProject",
    "NotFound",
    "NotPermitted",
    "Notification",
    "OpenReservation",
    "Options",
    "OutsideProject",
    "Period",
    "PoolStats",
    "PortsExhausted",
    "Preview",
    "Project",
    "ProjectHealth",
    "Purge",
    "QuotaAccounting",
    "QuotaAudit",
    "QuotaExceeded",
    "Rate",
    "Reservation",
    "Restore",
    "RestorePlan",
    "RestoreRefused",
    "RestoreStep",
    "Scan",
    "SchemaMismatch",
    "ServerFacts",
    "Session",
    "Settlement",
    "Signature",
    "SigningKeys",
    "Skipped",
    "Slot",
    "SlotLost",
    "Snapshot",
    "State",
    "StorageFull",
    "TimedOut",
    "TopUp",
    "Tracking",
    "Transaction",
    "TransactionConflict",
    "Usage",
    "UsageEntry",
    "UsageSummary",
    "UsageTotal",
    "User",
    "Verification",
    "current_guard",
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
