"""The root of the tree, and the errors of arguments, files, memory and sign-ins."""

from typing import ClassVar

from atlas_sdk.text import cut, named, quoted, visible

#: The longest message: five or six lines of a terminal, with room for a name or two of 200 letters.
_LETTERS = 1_000


class AtlasError(Exception):
    """The root of the tree: catch this class to catch everything that this package raises on purpose."""

    #: The exit code of `atlasctl`.
    exit_code: ClassVar[int] = 1
    #: True if the call certainly changed nothing, and may succeed later: the caller may repeat it. False for a failure
    #: inside `transaction()`, where the caller must repeat the whole transaction.
    repeatable: bool = False

    @property
    def http_status(self) -> int:
        """The status of a web service's answer: 500 if the request is not at fault."""
        return 500

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of a web service's answer."""
        return {}

    def __init__(self, *args: object) -> None:
        # Keep a message on one line and short, whatever names it quotes, so that people can read it in a log or a
        # terminal.
        super().__init__(*(visible(cut(arg, _LETTERS)) if isinstance(arg, str) else arg for arg in args))

    def __reduce__(self) -> tuple[object, ...]:
        # For pickle and copy. The method of BaseException would call the class with `args`, the message, and the
        # constructors here take other arguments.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[AtlasError], args: tuple[object, ...], fields: dict[str, object]) -> AtlasError:
    error = kind.__new__(kind, *args)
    builtin: type[BaseException] = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    builtin.__init__(error, *args)
    error.__dict__.update(fields)
    return error


class InvalidInput(AtlasError, ValueError):
    """An argument breaks a rule."""

    http_status = 422
    exit_code = 2

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotFound(AtlasError, LookupError):
    """No such user, project, file, version or checkpoint."""

    http_status = 404
    exit_code = 3

    def __init__(self, message: str, *, kind: str, name: str) -> None:
        super().__init__(message)
        #: The kind of the missing object: "user", "project", "file", "version", "checkpoint", "restore", "reservation".
        self.kind = kind
        self.name = name


class NotAProject(NotFound):
    """No registered project holds this folder."""

    def __init__(self, path: str, *, border: str | None = None, outer: str | None = None) -> None:
        sentence = f"{named(path)} is not in a registered project"
        if border is not None and outer is not None:
            sentence = f"{named(border)} has a git repository of its own, so the project {named(outer)} ends there"
        super().__init__(sentence, kind="project", name=path)
        #: The folder with a `.git` that lies between the path and a registered project, and that project's folder.
        #: Both are None if no project is registered further out.
        self.border = None if outer is None else border
        self.outer = outer


class AlreadyExists(AtlasError):
    """A unique name is taken."""

    http_status = 409

    def __init__(self, message: str, *, kind: str, name: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name


class IdempotencyConflict(AtlasError):
    """An earlier call used the same idempotency key with other amounts; nothing was changed."""

    http_status = 409

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        #: The id of the reservation, top-up or refund that the key stands for.
        self.key = key


class IllegalTransition(AtlasError):
    """A status that cannot follow the present one; nothing was changed."""

    http_status = 409

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

    http_status = 503

    def __init__(self, *, first: int, last: int, machine: str) -> None:
        place = f" of {machine}" if machine else ""
        super().__init__(f"no port{place} from {first} to {last} is free: stop a preview, or give a wider range")
        self.first = first
        self.last = last
        self.machine = machine


class AmbiguousReference(AtlasError):
    """A reference that begins the ids of several versions."""

    http_status = 422

    def __init__(self, reference: str, candidates: tuple[str, ...]) -> None:
        super().__init__(f"{quoted(reference)} fits several versions: {', '.join(candidates)}; give more characters")
        self.reference = reference
        self.candidates = candidates


class RestoreRefused(AtlasError):
    """Continuing would lose bytes, so nothing more was written."""

    http_status = 409

    def __init__(self, message: str, *, paths: tuple[str, ...], followed_by: str | None = None) -> None:
        super().__init__(message)
        self.paths = paths
        #: The operation of `memory` to call next, if some files were written before the refusal. For a restore: "undo",
        #: which takes the files back. For an undo or redo: "undo" or "redo" again, which goes on.
        self.followed_by = followed_by


class FileProblem(AtlasError):
    """A file cannot be read, kept or written."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class OutsideProject(FileProblem):
    """A path or a symlink that leaves the project."""

    http_status = 422


class JournalProblem(FileProblem):
    """The journal of a home cannot be read or written: nothing was stored in it."""


class ContentMissing(AtlasError):
    """Only hash and size of this version were kept, because it was over the size limit."""

    http_status = 404

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


class AuthError(AtlasError):
    """A sign-in or a session is not valid. The message never tells whether an account exists."""

    http_status = 401

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the answer: WWW-Authenticate, as in RFC 6750."""
        return {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class InvalidToken(AuthError):
    """No session has this token, or the session has ended. The message is the same for every reason."""

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

    http_status = 403
