"""The source of a client's signing keys: given keys, or a file that is read again when it changes."""

import os
from pathlib import Path
from typing import Final

from attrs import frozen

from atlas_sdk.errors import InvalidInput
from atlas_sdk.signing_keys import SigningKeys

__all__ = ["Keyring"]

#: Seconds between two checks of the file: for so long, a key that was removed may still verify tokens. A check costs
#: 2 µs, and on asyncio a thread.
_TRUSTED_S: Final = 5.0


@frozen
class _Loaded:
    keys: SigningKeys
    #: A value that changes when the file changes.
    signature: tuple[int, ...]
    at: float


class Keyring:
    """Signing keys that the caller gave, or that a file contains now."""

    def __init__(self, given: SigningKeys | None = None, *, file: Path | None = None, makes: bool = False) -> None:
        self._given = given
        self._file = file
        #: True to create a missing file.
        self._makes = makes
        # One assignment replaces the object, so threads need no lock.
        self._loaded: _Loaded | None = None

    @property
    def is_set(self) -> bool:
        """True if the caller gave keys or a file."""
        return self._given is not None or self._file is not None

    def cached(self, now: float) -> SigningKeys | None:
        """Return the keys; None if the file must be checked first. No I/O."""
        if self._given is not None:
            return self._given
        loaded = self._loaded
        return loaded.keys if loaded is not None and 0 <= now - loaded.at < _TRUSTED_S else None

    def load(self, now: float) -> SigningKeys:
        """Return the keys that the file holds now; the first call for an embedded server creates them.

        Raises InvalidInput if there are neither keys nor a file, and FileProblem.
        """
        if self._given is not None:
            return self._given
        if self._file is None:
            raise InvalidInput(
                "session tokens need signing keys that every process of this database shares: make them once, "
                'SigningKeys.generate().write("/etc/atlas/signing-keys"), and name that file in ATLAS_SIGNING_KEYS, '
                "or open the client with signing_keys=SigningKeys.read(…)",
                field="signing_keys",
            )
        if self._makes and not self._file.exists():
            # If another process creates the file first, its keys count.
            SigningKeys.generate().write_new(self._file)
        # Take the signature first: the next check then sees a change made during the read.
        signature = _signature(self._file)
        loaded = self._loaded
        keys = loaded.keys if loaded is not None and signature == loaded.signature else SigningKeys.read(self._file)
        self._loaded = _Loaded(keys, signature, now)
        return keys


def _signature(file: Path) -> tuple[int, ...]:
    try:
        found = os.stat(file)  # noqa: PTH116  # half the time of Path.stat
    except OSError:
        # The read that follows raises the error.
        return ()
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid)
