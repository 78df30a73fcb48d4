"""Check passwords, and hash them with argon2id.

A password is normalised by NFKC before it is hashed (NIST SP 800-63B, section 5.1.1.2), because the same key presses
give different code points on different systems, and an input method may produce full-width letters. This module changes
and cuts off nothing else. Error messages never quote a password or a hash, and this module raises and chains no
exception that contains one.
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
#: The longest password. The limit bounds the work of a sign-in.
_BYTES_MAX: Final = 1024
#: RFC 9106, section 4, the second recommended option: 3 passes over 64 MiB, 4 lanes.
_TIME_COST, _MEMORY_KIB, _LANES = 3, 65536, 4
_SALT_BYTES, _TAG_BYTES = 16, 32

_SURROGATE = re.compile("[\ud800-\udfff]")
#: The modular crypt format that the column accepts: "$argon2id$v=19$…", "$2b$12$…", "$pbkdf2-sha256$…".
_CRYPT = re.compile(r"\$[a-z0-9][a-z0-9-]{0,31}\$[!-~]{1,980}", re.ASCII)
#: An argon2 hash with a salt of at least 8 bytes and a tag of at least 16; a shorter tag could be guessed.
_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d{1,2})\$[\w+/-]{11,}\$[\w+/-]{22,}", re.ASCII
)
#: The most memory that a hash from another system may make a sign-in use: 1 GiB.
_FOREIGN_KIB_MAX: Final = 2**20

#: The most computations at the same time. Each takes 64 MiB, and a flood of sign-ins must not use up the memory. More
#: computations than processors would not be faster.
_TURNS: Final = max(2, os.cpu_count() or 1)


class _Workers:
    """The semaphore that bounds the computations, and the threads in which asyncio clients compute."""

    def __init__(self) -> None:
        self.after_fork()
        reset_in_children(self)

    def after_fork(self) -> None:
        """Create a new semaphore and new threads: a forked child has none of the parent's threads."""
        self.turns = BoundedSemaphore(_TURNS)
        #: The threads for asyncio clients. In asyncio's default executor, computations that wait for their turn would
        #: block the application's file reads and name lookups.
        self.executor = ThreadPoolExecutor(_TURNS, thread_name_prefix="atlas-passwords")


_workers = _Workers()


def computed(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Plan[T]:
    """Run a function of this module, such as `hashed`; on asyncio it runs in this module's threads."""
    return local_in(_workers.executor, call, *args, **kwargs)


def checked(password: str) -> bytes:
    """Return the normalised bytes of a new password. Raises InvalidInput, which does not quote the password."""
    normal = _normal(password)
    if normal is None:
        raise InvalidInput(f"a password must have at most {_BYTES_MAX:,} bytes of valid text", field="password")
    # Count before and after the normalisation: one Arabic ligature becomes 18 letters.
    if min(len(password), len(normal)) < _CHARACTERS_MIN:
        raise InvalidInput(f"a password must have at least {_CHARACTERS_MIN} characters", field="password")
    # A later version of Unicode may normalise unassigned code points differently, and lock the user out.
    if any(unicodedata.category(character) == "Cn" for character in normal):
        raise InvalidInput("a password must not have code points that Unicode does not assign", field="password")
    return normal.encode()


def presented(password: str) -> bytes | None:
    """Return the normalised bytes of a password at a sign-in; None when it cannot be valid.

    The password may be shorter than a new one must be, because the hash may come from another system.
    """
    normal = _normal(password)
    return None if normal is None else normal.encode()


def _normal(password: object) -> str | None:
    if not isinstance(password, str):
        raise InvalidInput(f"a password must be a str, not a {type(password).__name__}", field="password")
    # Search for surrogates here, because the exception of encode() would contain the password.
    if len(password) > _BYTES_MAX or _SURROGATE.search(password):
        return None
    normal = unicodedata.normalize("NFKC", password)
    return normal if len(normal.encode()) <= _BYTES_MAX else None


def checked_hash(password_hash: object) -> str:
    """Return a hash from another system. Raises InvalidInput for anything else, such as a password given by mistake."""
    if not isinstance(password_hash, str) or _CRYPT.fullmatch(password_hash) is None:
        raise InvalidInput(
            "password_hash must be a hash in the crypt format, such as $argon2id$…; for a password use password=",
            field="password_hash",
        )
    return password_hash


def is_verifiable(stored: str | None) -> bool:
    """Return True if a stored hash is an argon2 hash whose cost is allowed at a sign-in."""
    found = None if stored is None else _ARGON2.fullmatch(stored)
    return found is not None and int(found[1]) <= _FOREIGN_KIB_MAX


def hashed(password: bytes) -> str:
    """Hash a password with a new salt. Raises MissingExtra.

    Call this through `computed`: a call takes about 50 ms and 64 MiB.
    """
    hasher = _hasher()
    with _workers.turns:
        return hasher.hash(password)


def matches(stored: str | None, password: bytes | None) -> bool:
    """Return True if the hash matches the password. Every call does one argon2 computation.

    Without a hash, or with one that cannot be verified, the call verifies a dummy hash of the same cost, so that the
    time does not reveal which accounts exist. Call this through `computed`. Raises MissingExtra.
    """
    hasher = _hasher()
    if stored is None or password is None or not is_verifiable(stored):
        _verify(hasher, _dummy(), password or b"")
        return False
    return _verify(hasher, stored, password)


def refreshed(stored: str, password: bytes) -> str | None:
    """Return a new hash if the stored one has outdated parameters, else None. Call this through `computed`."""
    return hashed(password) if _hasher().check_needs_rehash(stored) else None


def _verify(hasher: "PasswordHasher", stored: str, password: bytes) -> bool:
    errors = _library().exceptions
    with _workers.turns:
        try:
            return bool(hasher.verify(stored, password))
        except errors.VerifyMismatchError:
            return False
        except (errors.VerificationError, errors.InvalidHashError) as exc:
            # For example, no memory is left. Answer as for a wrong password. Log only the type of the error, because
            # its text may contain the hash.
            logger.warning("a password hash could not be verified: %s", type(exc).__name__)
            return False


def _dummy() -> str:
    """Return a hash that no password matches, since its tag is random."""
    salt, tag = (base64.b64encode(os.urandom(size)).rstrip(b"=").decode() for size in (_SALT_BYTES, _TAG_BYTES))
    return f"$argon2id$v=19$m={_MEMORY_KIB},t={_TIME_COST},p={_LANES}${salt}${tag}"


def _library() -> ModuleType:
    try:
        import argon2  # noqa: PLC0415  # an optional dependency
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
