"""The keys that session tokens are signed with, and their file.

The file has one key on each line, in base64url, the newest first. The first key signs new tokens, and all keys verify
tokens. Text after "#" is a comment. The owner of the file is this OS user or root, and nobody else has a permission on
it.
"""

import base64
import binascii
import hashlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import field, frozen

from atlas_sdk.errors import FileProblem, InvalidInput

__all__ = ["SigningKeys"]

#: RFC 7518, section 3.2: a key of HS256 has the size of the hash or more.
_KEY_BYTES: Final = 32
#: The largest file that is read: enough for a thousand keys. A path given by mistake may lead to an endless device.
_FILE_BYTES: Final = 2**16


def _checked(secret: object) -> bytes:
    """Return a key if it is valid. Raises InvalidInput; the message must not quote the key."""
    if not isinstance(secret, bytes):
        raise InvalidInput(f"a signing key is of bytes, not a {type(secret).__name__}", field="signing_keys")
    if len(secret) < _KEY_BYTES:
        raise InvalidInput(
            f"a signing key has at least {_KEY_BYTES} bytes, not {len(secret)}: SigningKeys.generate() makes one",
            field="signing_keys",
        )
    return secret


def _all_checked(secrets_: Iterable[object]) -> tuple[bytes, ...]:
    return tuple(_checked(secret) for secret in secrets_)


def _kid(secret: bytes) -> str:
    """Return the public name of a key. It is a hash of the key, so two keys never have the same name."""
    return hashlib.sha256(b"atlasengine key id\0" + secret).hexdigest()[:16]


# Do not compare by value: the time of a comparison would reveal something about a key.
@frozen(repr=False, eq=False)
class SigningKeys:
    """The signing keys of session tokens: one key that signs, and older ones that still verify.

    ::

        keys = SigningKeys.generate()
        keys.write("/etc/atlas/signing-keys")                  # 0600; ATLAS_SIGNING_KEYS names it
        SigningKeys.read("/etc/atlas/signing-keys").rotated().write("/etc/atlas/signing-keys")

    Every process that verifies tokens needs the same keys. A key is 32 random bytes or more. Raises InvalidInput for a
    shorter key.
    """

    _current: bytes = field(converter=_checked)
    _older: tuple[bytes, ...] = field(default=(), converter=_all_checked, kw_only=True)

    def __repr__(self) -> str:
        return f"SigningKeys(kid={self.kid!r}, older={len(self._older)})"

    @property
    def kid(self) -> str:
        """The public name of the key that signs."""
        return _kid(self._current)

    @property
    def kids(self) -> tuple[str, ...]:
        """The public names of all keys, the one that signs first."""
        return tuple(_kid(secret) for secret in (self._current, *self._older))

    def secret_of(self, kid: str) -> bytes | None:
        """Return the key with this public name; None if there is no such key."""
        return next((secret for secret in (self._current, *self._older) if _kid(secret) == kid), None)

    @classmethod
    def generate(cls) -> "SigningKeys":
        """Make one new random key."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    def rotated(self, *, keep: int = 4) -> "SigningKeys":
        """Return keys in which a new random key signs, and at most `keep` of the present keys still verify.

        A token is valid as long as its session. So keep a key that long after it has signed its last token. With
        `keep=0` every session ends.
        """
        older = (self._current, *self._older)[: max(keep, 0)]
        return SigningKeys(secrets.token_bytes(_KEY_BYTES), older=older)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "SigningKeys":
        """Read a file of keys. Raises FileProblem, also if other users may read it, and InvalidInput for a bad key."""
        name = os.fspath(path)
        try:
            # Without O_NONBLOCK the call would wait if the file is a pipe.
            handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                # Check the open file: another process may put another file in its place meanwhile.
                _refuse_shared(name, os.fstat(handle))
                raw = os.read(handle, _FILE_BYTES + 1)
            finally:
                os.close(handle)
        except OSError as exc:
            raise _problem(name, f"cannot be read: {(exc.strerror or str(exc)).lower()}") from exc
        if len(raw) > _FILE_BYTES:
            raise _problem(name, f"is larger than {_FILE_BYTES:,} bytes")
        lines = (line.split(b"#", 1)[0].strip() for line in raw.splitlines())
        found = [_decoded(name, number, line) for number, line in enumerate(lines, start=1) if line]
        if not found:
            raise _problem(name, "holds no key: SigningKeys.generate().write(…) makes one")
        return cls(found[0], older=found[1:])

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file of keys with mode 0600; replace an existing file. Raises FileProblem."""
        self._write(os.fspath(path), replace=True)

    def write_new(self, path: str | os.PathLike[str]) -> bool:
        """Write the file of keys if there is none yet; return whether this call wrote it."""
        return self._write(os.fspath(path), replace=False)

    def _write(self, name: str, *, replace: bool) -> bool:
        encoded = (base64.urlsafe_b64encode(secret).rstrip(b"=") for secret in (self._current, *self._older))
        text = b"# Keys of session tokens, the newest first. Secret.\n" + b"".join(key + b"\n" for key in encoded)
        half = f"{name}.{secrets.token_hex(8)}.new"
        try:
            handle = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                if replace:
                    Path(half).replace(name)
                    return True
                # A link, unlike a rename, does not replace a file that another process has just made.
                try:
                    os.link(half, name)
                except FileExistsError:
                    return False
                return True
            finally:
                Path(half).unlink(missing_ok=True)
        except OSError as exc:
            raise _problem(name, f"cannot be written: {(exc.strerror or str(exc)).lower()}") from exc


def _refuse_shared(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _problem(name, "is not a file")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise _problem(name, f"may be read or changed by others (mode {mode:04o}): chmod 600 it, and rotate its keys")
    if status.st_uid not in (0, os.geteuid()):
        raise _problem(name, f"belongs to OS user id {status.st_uid}, who could change the keys")


def _decoded(name: str, number: int, line: bytes) -> bytes:
    try:
        secret = base64.b64decode(line + b"=" * (-len(line) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        # Raise without a cause, which could quote a part of the key.
        raise _problem(name, f"line {number} is not base64url") from None
    if len(secret) < _KEY_BYTES:
        raise _problem(name, f"line {number} is a key of {len(secret)} bytes; at least {_KEY_BYTES} are needed")
    return secret


def _problem(name: str, what: str) -> FileProblem:
    return FileProblem(f"the signing keys {name}: {what}", path=name)
