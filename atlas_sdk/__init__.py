"""AtlasEngine: every version of your agents' memory files kept and restorable, on PostgreSQL.

::

    from atlas_sdk import Atlas

    with Atlas.open() as atlas:                       # embedded; Atlas.open("postgresql://…") for a server
        user = atlas.users.create("ada@example.com")
        project = atlas.projects.create(user, path="/srv/app")
        atlas.memory.snapshot(project, "CLAUDE.md", b"# Rules")   # None when nothing changed
        atlas.memory.checkpoint(project, "before-refactor")

This package has the names that programs use most: clients, options, objects, errors, guards. These modules are public,
too: `atlas_sdk.results` (rarer results of operations), `atlas_sdk.maintenance`, `atlas_sdk.files`, `atlas_sdk.journal`,
`atlas_sdk.guards`, `atlas_sdk.errors` and `atlas_sdk.integrations`.
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
        JournalProblem,
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
    from atlas_sdk.model.quota_accounting import OpenReservation, Usage
    from atlas_sdk.model.quotas import Reservation, Settlement
    from atlas_sdk.model.sessions import IssuedSession, Session
    from atlas_sdk.model.summaries import UsageSummary
    from atlas_sdk.model.usage import UsageEntry
    from atlas_sdk.model.users import User
    from atlas_sdk.ops.amounts import UNCHANGED
    from atlas_sdk.signing_keys import SigningKeys

    __version__: str

# Import each name at its first use: `import atlas_sdk` and `atlasctl --help` must not wait for psycopg.
#: The names to import from each module. All other public names are errors, from `atlas_sdk.errors`.
_NAMES_OF = {
    "_connect": "Options",
    "_drive.listener": "AsyncListener Listener",
    "aio": "AsyncAtlas AsyncTransaction",
    "client": "Atlas Transaction",
    "files": "Tracking",
    "guards.async_lease": "AsyncLease",
    "guards.guard": "AsyncGuard Guard current_guard",
    "guards.lease": "Lease",
    "guards.options": "GuardOptions",
    "guards.slot": "AsyncSlot Slot",
    "model.attribution": "Attribution",
    "model.builds": "Build",
    "model.checkpoints": "Checkpoint Restore RestorePlan",
    "model.events": "Event",
    "model.health": "Health",
    "model.limits": "Limits TopUp",
    "model.memory": "Capture FileDiff Snapshot Verification",
    "model.notifications": "Notification NotificationGap",
    "model.previews": "Preview",
    "model.projects": "Project",
    "model.quota_accounting": "OpenReservation Usage",
    "model.quotas": "Reservation Settlement",
    "model.sessions": "IssuedSession Session",
    "model.summaries": "UsageSummary",
    "model.usage": "UsageEntry",
    "model.users": "User",
    "ops.amounts": "UNCHANGED",
    "signing_keys": "SigningKeys",
}
_HOME_OF = {name: home for home, names in _NAMES_OF.items() for name in names.split()}

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
    "JournalProblem",
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
    elif name in __all__:
        value = getattr(import_module(f"atlas_sdk.{_HOME_OF.get(name, 'errors')}"), name)
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
