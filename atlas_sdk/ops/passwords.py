"""Passwords: what may be one, and argon2id.

A password is normalised by NFKC before it is hashed, as NIST SP 800-63B, section 5.1.1.2, says: the same keys give
different code points on different systems, and full-width letters come from an input method that was left on. Nothing
else is changed, nothing is cut off. Its sentences in errors never quote a password or a hash, and exceptions that hold
one are never raised from here, nor chained.
"""

import base64
import logging
import os
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from types import ModuleType
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from atlas_sdk._forks import reset_in_children
from atlas_sdk._plan import Plan, local_in
from atlas_sdk.errors import InvalidInput, MissingExtra

if TYPE_CHECKING:
    from argon2 import PasswordHasher

__all__ = ["checked", "checked_hash", "computed", "hashed", "is_verifiable", "matches", "presented", "refreshed"]

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)

#: NIST SP 800-63B, section 5.1.1.2: at least 8 code points.
_CHARACTERS_MIN: Final = 8
#: More is no password, and would be work for nothing.
_BYTES_MAX: Final = 1024
#: RFC 9106, section 4, the second recommended option: 3 passes over 64 MiB, 4 lanes.
_TIME_COST, _MEMORY_KIB, _LANES = 3, 65536, 4
_SALT_BYTES, _TAG_BYTES = 16, 32

_SURROGATE = re.compile("[\ud800-\udfff]")
#: "$argon2id$v=19$…", "$2b$12$…", "$pbkdf2-sha256$…": the modular crypt format, as the column takes it.
_CRYPT = re.compile(r"\$[a-z0-9][a-z0-9-]{0,31}\$[!-~]{1,980}", re.ASCII)
#: A salt of 8 bytes or more and a tag of 16 or more; shorter tags could be guessed.
_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d{1,2})\$[\w+/-]{11,}\$[\w+/-]{22,}", re.ASCII
)
#: 1 GiB: a hash that came from elsewhere must not decide how much memory a sign-in takes.
_FOREIGN_KIB_MAX: Final = 2**20

#: Every computation takes 64 MiB: a flood of sign-ins must not take all memory. More than the processors at once
#: would not be faster.
_TURNS: Final = max(2, os.cpu_count() or 1)


class _Workers:
    """The permission to compute, and the threads in which asyncio computes."""

    def __init__(self) -> None:
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Start anew in a forked child, which has none of the parent's threads."""
        self.turns = BoundedSemaphore(_TURNS)
        #: Not the event loop's own threads: calls that wait for a turn would keep the application from reading a file
        #: or resolving a name.
        self.executor = ThreadPoolExecutor(_TURNS, thread_name_prefix="atlas-passwords")


_workers = _Workers()


def computed(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Plan[T]:
    """Run one of the computations below, on asyncio in threads of their own."""
    return local_in(_workers.executor, call, *args, **kwargs)


def checked(password: str) -> bytes:
    """Return what is hashed for a new password. Raises InvalidInput, which does not quote it."""
    normal = _normal(password)
    if normal is None:
        raise InvalidInput(f"a password has at most {_BYTES_MAX:,} bytes of valid text", field="password")
    # Before as well as after: one Arabic ligature stands for 18 letters.
    if min(len(password), len(normal)) < _CHARACTERS_MIN:
        raise InvalidInput(f"a password has at least {_CHARACTERS_MIN} characters", field="password")
    # A later version of Unicode may normalise it in another way, and then the password would not fit any more.
    if any(unicodedata.category(character) == "Cn" for character in normal):
        raise InvalidInput("a password has no code points that Unicode does not assign", field="password")
    return normal.encode()


def presented(password: str) -> bytes | None:
    """Return what a password at a sign-in is compared by; None when it cannot be anybody's.

    It may be shorter than a new one: the hash may come from an older system.
    """
    normal = _normal(password)
    return None if normal is None else normal.encode()


def _normal(password: object) -> str | None:
    if not isinstance(password, str):
        raise InvalidInput(f"a password is a text, not a {type(password).__name__}", field="password")
    # Searched for, because the exception of encode() would hold the password.
    if len(password) > _BYTES_MAX or _SURROGATE.search(password):
        return None
    normal = unicodedata.normalize("NFKC", password)
    return normal if len(normal.encode()) <= _BYTES_MAX else None


def checked_hash(password_hash: object) -> str:
    """Return a hash that was made elsewhere. Raises InvalidInput for what is none, such as a password by mistake."""
    if not isinstance(password_hash, str) or _CRYPT.fullmatch(password_hash) is None:
        raise InvalidInput(
            "password_hash is a hash in the crypt format, such as $argon2id$…; for a password use password=",
            field="password_hash",
        )
    return password_hash


def is_verifiable(stored: str | None) -> bool:
    """Tell whether a stored hash is one of argon2, with a cost that a sign-in may take."""
    found = None if stored is None else _ARGON2.fullmatch(stored)
    return found is not None and int(found[1]) <= _FOREIGN_KIB_MAX


def hashed(password: bytes) -> str:
    """Hash a password with a new salt. Takes some 50 ms and 64 MiB: call it through `computed`. Raises MissingExtra."""
    hasher = _hasher()
    with _workers.turns:
        return hasher.hash(password)


def matches(stored: str | None, password: bytes | None) -> bool:
    """Tell whether the hash is that of the password; one argon2 computation, whatever the answer.

    Without a hash, or with one that cannot be verified, a dummy of the same cost is verified instead, so that the time
    does not tell which accounts exist. Call it through `computed`. Raises MissingExtra.
    """
    hasher = _hasher()
    if stored is None or password is None or not is_verifiable(stored):
        _verify(hasher, _dummy(), password or b"")
        return False
    return _verify(hasher, stored, password)


def refreshed(stored: str, password: bytes) -> str | None:
    """Return a new hash of a password whose hash has other parameters than a new one; call it through `computed`."""
    return hashed(password) if _hasher().check_needs_rehash(stored) else None


def _verify(hasher: "PasswordHasher", stored: str, password: bytes) -> bool:
    errors = _library().exceptions
    with _workers.turns:
        try:
            return bool(hasher.verify(stored, password))
        except errors.VerifyMismatchError:
            return False
        except (errors.VerificationError, errors.InvalidHashError) as exc:
            # Such as no memory. Strangers get the same answer as ever; the name says nothing of the hash.
            logger.warning("a password hash could not be verified: %s", type(exc).__name__)
            return False


def _dummy() -> str:
    """Return a hash of no password: the tag is random."""
    salt, tag = (base64.b64encode(os.urandom(size)).rstrip(b"=").decode() for size in (_SALT_BYTES, _TAG_BYTES))
    return f"$argon2id$v=19$m={_MEMORY_KIB},t={_TIME_COST},p={_LANES}${salt}${tag}"


def _library() -> ModuleType:
    try:
        import argon2  # noqa: PLC0415  # of an extra, and nobody else needs it
    except ImportError as exc:
        raise MissingExtra("auth", needed_for="signing in with a password") from exc
    return argon2


def _hasher() -> "PasswordHasher":
    hasher: PasswordHasher = _library().PasswordHasher(
        time_cost=_TIME_COST,
        memory_cost=_MEMORY_KIB,
        parallelism=_LANES,
        hash_len=_TAG_BYTES,
        salt_len=_SALT_BYTES,
    )
    return hasher
