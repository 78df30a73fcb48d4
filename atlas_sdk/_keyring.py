"""The source of a client's signing keys, read again when the file changes."""

import os
from pathlib import Path
from typing import Final

from attrs import frozen

from atlas_sdk.errors import InvalidInput
from atlas_sdk.signing_keys import SigningKeys

__all__ = ["Keyring"]

#: How long a key that was taken out of the file may go on verifying. A look costs 2 µs, and a thread on asyncio.
_TRUSTED_S: Final = 5.0


@frozen
class _Loaded:
    keys: SigningKeys
    #: What tells the file's states apart.
    signature: tuple[int, ...]
    at: float


class Keyring:
    """Signing keys that were given, or those of a file, as it is now."""

    def __init__(self, given: SigningKeys | None = None, *, file: Path | None = None, makes: bool = False) -> None:
        self._given = given
        self._file = file
        #: Whether to make the file when it is missing.
        self._makes = makes
        # One assignment replaces it as a whole, so threads need no lock.
        self._loaded: _Loaded | None = None

    @property
    def is_set(self) -> bool:
        """True when keys or a file of keys were given."""
        return self._given is not None or self._file is not None

    def cached(self, now: float) -> SigningKeys | None:
        """Return the keys if no look at the file is due. No I/O."""
        if self._given is not None:
            return self._given
        loaded = self._loaded
        return loaded.keys if loaded is not None and 0 <= now - loaded.at < _TRUSTED_S else None

    def load(self, now: float) -> SigningKeys:
        """Return the keys as the file has them now; the embedded server's are made at the first call.

        Raises InvalidInput when no keys were given at all, FileProblem.
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
            # Where another process is faster, its keys are the ones.
            SigningKeys.generate().write_new(self._file)
        # Before it is read: a change in between is then seen at the next look.
        signature = _signature(self._file)
        loaded = self._loaded
        keys = loaded.keys if loaded is not None and signature == loaded.signature else SigningKeys.read(self._file)
        self._loaded = _Loaded(keys, signature, now)
        return keys


def _signature(file: Path) -> tuple[int, ...]:
    try:
        found = os.stat(file)  # noqa: PTH116  # half the time of Path.stat
    except OSError:
        # Reading says what is wrong.
        return ()
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid)
