"""The errors of this package, as one tree.

::

    AtlasError                     exit_code  what it means
    ├── InvalidInput               2          an argument breaks a rule; the field is named
    ├── NotFound                   3          no such user, project, file, version or checkpoint
    │   └── NotAProject            3          no registered project holds this folder
    ├── AlreadyExists              1          a unique name is taken
    ├── IdempotencyConflict        1          an idempotency key was used with other amounts before
    ├── IllegalTransition          1          a status that cannot follow the present one
    ├── PortsExhausted             1          a machine has no port left for a preview
    ├── AmbiguousReference         1          a prefix that several versions share
    ├── RestoreRefused             1          continuing would lose bytes
    ├── FileProblem                1          a file cannot be read, kept or written
    │   ├── OutsideProject         1          a path or a symlink that leaves the project
    │   └── JournalProblem         1          the journal cannot be read or written
    ├── ContentMissing             1          only hash and size were kept (over the size limit)
    ├── IntegrityFailure           6          stored bytes do not have their SHA-256
    ├── QuotaExceeded              4          a limit does not allow it; nothing was reserved
    ├── SlotLost                   1          a container has lost its slot: stop the container
    ├── AuthError                  1          a sign-in or a session is not valid
    │   └── InvalidToken           1          no session has this token (any more)
    ├── MissingExtra               1          a library of an extra is not installed
    ├── NotPermitted               1          this login may not do that, or the rows belong to another tenant
    ├── BackupFailed               1          a dump was not made, or not loaded; nothing was kept
    ├── DatabaseError              1          PostgreSQL refused a statement
    │   ├── StorageFull            1          the server's disk is full
    │   ├── TimedOut               1          a time limit of the server's ended a statement or a wait for a lock
    │   └── TransactionConflict    1          another transaction was in the way: repeat
    ├── DatabaseUnreachable        5          no connection
    │   ├── AuthenticationFailed   5          wrong password or role
    │   ├── EmbeddedServerFailed   5          the embedded server does not start
    │   └── EncryptionFailed       5          no TLS, or a certificate that does not verify
    └── SchemaMismatch             1          the schema is missing, older or newer than this code

Every message says what happened and what to do next; the fields hold the same facts for programs. A web service finds
the status and the header fields of its answer in `http_status` and `headers`.
"""

from atlas_sdk.errors.base import (
    AlreadyExists,
    AmbiguousReference,
    AtlasError,
    AuthError,
    ContentMissing,
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
    RestoreRefused,
)
from atlas_sdk.errors.database import (
    AuthenticationFailed,
    BackupFailed,
    DatabaseError,
    DatabaseUnreachable,
    EmbeddedServerFailed,
    EncryptionFailed,
    SchemaMismatch,
    StorageFull,
    TimedOut,
    TransactionConflict,
)
from atlas_sdk.errors.quotas import QuotaExceeded, SlotLost

__all__ = [
    "AlreadyExists",
    "AmbiguousReference",
    "AtlasError",
    "AuthError",
    "AuthenticationFailed",
    "BackupFailed",
    "ContentMissing",
    "DatabaseError",
    "DatabaseUnreachable",
    "EmbeddedServerFailed",
    "EncryptionFailed",
    "FileProblem",
    "IdempotencyConflict",
    "IllegalTransition",
    "IntegrityFailure",
    "InvalidInput",
    "InvalidToken",
    "JournalProblem",
    "MissingExtra",
    "NotAProject",
    "NotFound",
    "NotPermitted",
    "OutsideProject",
    "PortsExhausted",
    "QuotaExceeded",
    "RestoreRefused",
    "SchemaMismatch",
    "SlotLost",
    "StorageFull",
    "TimedOut",
    "TransactionConflict",
]
