"""The errors of this package, as one tree.

::

    AtlasError                     exit_code  what it means
    ├── InvalidInput               2          an argument breaks a rule; the field is named
    ├── NotFound                   3          no such user, project, file, version or checkpoint
    │   └── NotAProject            3          no registered project holds this folder
    ├── AlreadyExists              1          a unique name is taken
    ├── IllegalTransition          1          a status that cannot follow the present one
    ├── PortsExhausted             1          a machine has no port left for a preview
    ├── AmbiguousReference         1          a prefix that several versions share
    ├── RestoreRefused             1          continuing would lose bytes
    ├── FileProblem                1          a file cannot be read, kept or written
    │   └── OutsideProject         1          a path or a symlink that leaves the project
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

Every message says what happened and what to do next; the fields hold the same facts for programs. The answer of a web
service is in `http_status` and `headers`, if an error has them.
"""

import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import ClassVar

from atlas_sdk.text import cut, named, quoted, visible

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
    "IllegalTransition",
    "IntegrityFailure",
    "InvalidInput",
    "InvalidToken",
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


#: The longest message: five or six lines of a terminal, with room for a name or two of 200 letters.
_LETTERS = 1_000


class AtlasError(Exception):
    """The root of the tree: catch it to catch everything that this package raises on purpose."""

    #: The exit code of `atlasctl`.
    exit_code: ClassVar[int] = 1
    #: True if the call certainly changed nothing and its reason may pass, so that the caller may repeat it. False for a
    #: failure inside `transaction()`: there the caller must repeat the whole transaction.
    repeatable: bool = False

    def __init__(self, *args: object) -> None:
        # Keep a message on one line and short, whatever names it quotes, so that people can read it in a log or a
        # terminal.
        super().__init__(*(visible(cut(arg, _LETTERS)) if isinstance(arg, str) else arg for arg in args))

    def __reduce__(self) -> tuple[object, ...]:
        # The method of BaseException calls the class with `args`, the message. The constructors here take other
        # arguments.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[AtlasError], args: tuple[object, ...], fields: dict[str, object]) -> AtlasError:
    error = kind.__new__(kind, *args)
    builtin: type[BaseException] = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    builtin.__init__(error, *args)
    error.__dict__.update(fields)
    return error


class InvalidInput(AtlasError, ValueError):
    """An argument breaks a rule."""

    #: The answer of a web service: Unprocessable Content.
    http_status: ClassVar[int] = 422
    exit_code = 2

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(AtlasError, LookupError):
    """No such user, project, file, version or checkpoint."""

    #: The answer of a web service: Not Found.
    http_status: ClassVar[int] = 404
    exit_code = 3

    def __init__(self, message: str, *, kind: str, name: str) -> None:
        super().__init__(message)
        #: The kind of the missing object: "user", "project", "file", "version", "checkpoint", "restore", "reservation".
        self.kind = kind
        self.name = name


class NotAProject(NotFound):
    """No registered project holds this folder."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{named(path)} is not in a registered project", kind="project", name=path)


class AlreadyExists(AtlasError):
    """A unique name is taken."""

    #: The answer of a web service: Conflict.
    http_status: ClassVar[int] = 409

    def __init__(self, message: str, *, kind: str, name: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name


class IllegalTransition(AtlasError):
    """A status that cannot follow the present one; nothing was changed."""

    #: The answer of a web service: Conflict.
    http_status: ClassVar[int] = 409

    def __init__(self, *, kind: str, name: str, from_status: str, to_status: str) -> None:
        final = ", which is final" if from_status in _FINAL else ""
        super().__init__(f"the {kind} {name} is {from_status}{final}: it cannot become {to_status}")
        #: The kind of the object: "build", "preview" or "project".
        self.kind = kind
        #: The id of the object.
        self.name = name
        self.from_status = from_status
        self.to_status = to_status


#: Statuses that no other status can follow.
_FINAL = frozenset({"deleted", "failed", "stopped", "succeeded"})


class PortsExhausted(AtlasError):
    """Live previews use every port of the range on that machine."""

    def __init__(self, *, first: int, last: int, machine: str) -> None:
        place = f" of {machine}" if machine else ""
        super().__init__(f"no port{place} from {first} to {last} is free: stop a preview, or give a wider range")
        self.first = first
        self.last = last
        self.machine = machine


class AmbiguousReference(AtlasError):
    """A prefix that several versions share."""

    def __init__(self, reference: str, candidates: tuple[str, ...]) -> None:
        super().__init__(f"{quoted(reference)} fits several versions: {', '.join(candidates)}; give more characters")
        self.reference = reference
        self.candidates = candidates


class RestoreRefused(AtlasError):
    """Continuing would lose bytes, so nothing was written."""

    def __init__(self, message: str, *, paths: tuple[str, ...]) -> None:
        super().__init__(message)
        self.paths = paths


class FileProblem(AtlasError):
    """A file cannot be read, kept or written."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class OutsideProject(FileProblem):
    """A path or a symlink that leaves the project."""


class ContentMissing(AtlasError):
    """Only hash and size of this version were kept, because it was over the size limit."""

    def __init__(self, message: str, *, path: str, size: int) -> None:
        super().__init__(message)
        self.path = path
        self.size = size


class IntegrityFailure(AtlasError):
    """Stored bytes do not have the SHA-256 that they were stored under."""

    exit_code = 6

    def __init__(self, message: str, *, sha256: str) -> None:
        super().__init__(message)
        self.sha256 = sha256


class QuotaExceeded(AtlasError):
    """A limit does not allow the requested amount; nothing was reserved in any dimension."""

    exit_code = 4

    def __init__(
        self,
        *,
        dimension: str,
        asked: int | Decimal,
        remaining: int | Decimal,
        limit: int | Decimal | None = None,
        retry_after: timedelta | None = None,
        resets_at: datetime | None = None,
        holders: tuple[str, ...] = (),
        held: int | Decimal | None = None,
        waited: timedelta | None = None,
    ) -> None:
        sentence = _sentence(dimension, asked, remaining, limit, retry_after, resets_at, held)
        super().__init__(sentence if waited is None else f"after a wait of {_spoken(waited)}, {sentence}")
        #: "tokens", "cost", "builds", "containers", "requests" or "memory_bytes". For objects of which a user may have
        #: a limited number at one time: "projects", "sessions" or "previews".
        self.dimension = dimension
        self.asked = asked
        self.remaining = remaining
        #: The whole limit, if it is known.
        self.limit = limit
        #: The time until the same call can succeed; None if waiting alone never helps.
        self.retry_after = retry_after
        self.resets_at = resets_at
        #: The holders of the slots, if a container was refused.
        self.holders = holders
        #: The part of a month's limit that running calls have reserved, if the call fits without it. None if the limit
        #: is used up.
        self.held = held
        #: The time that the call has waited for its turn; None if it did not wait.
        self.waited = waited

    @property
    def http_status(self) -> int:
        """429 if waiting for seconds or minutes helps (requests, containers, running calls), else 403.

        Clients repeat a call after a 429 by themselves, but repeating does not bring back a month's budget.
        """
        return 429 if self.dimension in _RETRIED or self.held is not None else 403

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the answer: RateLimit-Policy, RateLimit, and with a 429 Retry-After.

        RateLimit and its policy follow draft-ietf-httpapi-ratelimit-headers-11. For cost, `r` and `q` are whole cents.
        Retry-After is missing when the same call can never succeed.
        """
        fields: dict[str, str] = {}
        seconds = None if self.retry_after is None else _seconds(self.retry_after)
        if self.http_status == 429 and seconds is not None:  # noqa: PLR2004  # Too Many Requests
            fields["Retry-After"] = str(seconds)
        name, unit = f'"{self.dimension}"', 100 if self.dimension == "cost" else 1
        if self.limit is not None:
            policy = f"{name};q={_integer(self.limit * unit)}{_POLICIES.get(self.dimension, '')}"
            fields["RateLimit-Policy"] = policy
        # The draft says that Retry-After must not be earlier than the end of this window.
        window = "" if seconds is None else f";t={seconds}"
        fields["RateLimit"] = f"{name};r={_integer(self.remaining * unit)}{window}"
        return fields


#: The advice on how to make room for one more object, for objects that stay until somebody ends them.
_ENDED = {"projects": "delete one", "sessions": "revoke one", "previews": "stop one"}
#: Dimensions that free up by themselves soon.
_RETRIED = frozenset({"requests", "containers"})
#: The parts of a policy beside its quota: the window `w` in seconds, if all windows have the same length, and the unit
#: `qu`, if it is not requests and the draft has a word for it.
_POLICIES = {
    "requests": ";w=3600",
    "builds": ";w=86400",
    "containers": ';qu="concurrent-requests"',
    "memory_bytes": ';qu="content-bytes"',
    "cost": ';atlas-unit="cents"',
}
#: The greatest integer of a structured field (RFC 9651, 3.3.1).
_INTEGER_MAX = 999_999_999_999_999


def _integer(value: int | Decimal) -> int:
    return max(0, min(math.floor(value), _INTEGER_MAX))


def _seconds(wait: timedelta) -> int:
    """Return whole seconds, rounded up: a client that comes back a moment early is refused again."""
    return max(1, math.ceil(wait.total_seconds()))


def _spoken(wait: timedelta) -> str:
    """Return a waiting time in words, rounded up: a client that comes back a moment early is refused again."""
    seconds = _seconds(wait)
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{math.ceil(seconds / unit)} {name}"
    return f"{seconds} s"


def _sentence(
    dimension: str,
    asked: int | Decimal,
    remaining: int | Decimal,
    limit: int | Decimal | None,
    retry_after: timedelta | None,
    resets_at: datetime | None,
    held: int | Decimal | None,
) -> str:
    unit = {"cost": " dollars", "memory_bytes": " bytes"}.get(dimension, "")
    whole = "" if limit is None else f" of {limit}{unit}"
    name = dimension.removesuffix("_bytes")
    what = f"the {name} limit{whole} leaves {remaining}{unit}, and {asked} were asked for"
    if dimension == "memory_bytes":
        return f"{what}: have the limit raised"
    if dimension in _ENDED:
        return f"{what}: {_ENDED[dimension]}, or have the limit raised"
    if retry_after is None or resets_at is None:
        return f"{what}: more than it can ever allow; ask for less, or have the limit raised"
    when = f"in {_spoken(retry_after)} ({resets_at:%Y-%m-%d %H:%M:%S %Z})"
    less = ", or ask for less" if remaining > 0 else ""
    if held is not None:
        return f"{what}, because running calls hold {held}{unit}; try again when one has ended, or {when}{less}"
    return f"{what}; try again {when}{less}"


class SlotLost(AtlasError):
    """A container has lost its slot, so another container may run in its place. Stop the container."""

    def __init__(self, message: str, *, epoch: int | None) -> None:
        super().__init__(message)
        #: The slot's fencing number. From now on, refuse every action that carries this number.
        self.epoch = epoch


class AuthError(AtlasError):
    """A sign-in or a session is not valid. The message never tells whether an account exists."""

    #: The answer of a web service: Unauthorized.
    http_status: ClassVar[int] = 401

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the answer: WWW-Authenticate, as in RFC 6750."""
        return {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class InvalidToken(AuthError):
    """No session has this token, or no session has it any more. The message is the same for every reason."""

    def __init__(self, reason: str) -> None:
        super().__init__("this session token is not valid: sign in again")
        #: For logs only: "malformed", "algorithm", "unknown key", "signature", "unknown session", "revoked", "expired".
        self.reason = reason


class MissingExtra(AtlasError, ImportError):
    """A library that comes with an extra of this package is not installed."""

    def __init__(self, extra: str, *, needed_for: str) -> None:
        super().__init__(f'{needed_for} needs the extra "{extra}": pip install "atlasengine[{extra}]"')
        self.extra = extra


class NotPermitted(AtlasError):
    """This login may not do that, or the rows belong to another tenant; nothing was done."""

    #: The answer of a web service: Forbidden.
    http_status: ClassVar[int] = 403


class BackupFailed(AtlasError):
    """A dump was not made, or not loaded; nothing of it was kept."""


class DatabaseError(AtlasError):
    """PostgreSQL refused a statement."""

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class StorageFull(DatabaseError):
    """The server's disk is full; nothing of the statement was kept."""


class TimedOut(DatabaseError):
    """A statement took longer, or waited longer for a lock, than a time limit allows; nothing of it was kept."""

    def __init__(self, message: str, *, limit: str, sqlstate: str | None = None) -> None:
        super().__init__(message, sqlstate=sqlstate)
        #: The name of the limit: "statement", "lock", "idle" (a transaction in which nothing happened) or
        #: "transaction".
        self.limit = limit


class TransactionConflict(DatabaseError):
    """Another transaction was in the way, and nothing was kept. It is safe to repeat the call."""


class DatabaseUnreachable(AtlasError):
    """No connection to the database."""

    exit_code = 5
    #: The answer of a web service: Service Unavailable.
    http_status: ClassVar[int] = 503

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

    def __init__(self, message: str, *, found: int | None, wanted: int) -> None:
        super().__init__(message)
        #: The version in the database; None when there is no schema at all.
        self.found = found
        self.wanted = wanted
