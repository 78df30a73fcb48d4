"""Write and remove the files of a service. A file that somebody else wrote is never replaced or removed."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attrs import field, frozen

from atlas_sdk.errors import FileProblem, NotPermitted
from atlas_sdk.text import named

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen(kw_only=True)
class ServiceFile:
    """A file of a service."""

    path: Path
    content: bytes = field(repr=False)
    mode: int
    #: Return whether a content was written by an installation of this service.
    is_ours: Callable[[bytes], bool]

    def found(self) -> bytes | None:
        """Return the content of the file as it is now; None if there is none. Raises FileProblem."""
        if self.path.is_symlink():
            raise FileProblem(
                f"{named(str(self.path))} is a link, which `atlasctl service` did not make; systemctl unmask, or rm, "
                "removes it",
                path=str(self.path),
            )
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise _problem(self.path, "read", exc) from exc

    @property
    def is_current(self) -> bool:
        """True if the file is there, with this content and mode."""
        return self.found() == self.content and self.path.stat().st_mode & 0o777 == self.mode

    def check(self) -> None:
        """Raise FileProblem if somebody else wrote the file."""
        found = self.found()
        if found is not None and found != self.content and not self.is_ours(found):
            raise FileProblem(
                f"{named(str(self.path))} was not written by atlasctl service install; move it away first",
                path=str(self.path),
            )

    def write(self) -> bool:
        """Write the file in one step; return False if it is current already. Raises FileProblem, NotPermitted."""
        self.check()
        if self.is_current:
            return False
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(fresh, _NEW, self.mode)
                with os.fdopen(descriptor, "wb") as file:
                    # Set the mode again, because the umask has removed bits.
                    os.fchmod(descriptor, self.mode)
                    file.write(self.content)
                    file.flush()
                    os.fsync(descriptor)
                fresh.replace(self.path)
            finally:
                fresh.unlink(missing_ok=True)
        except OSError as exc:
            raise _problem(self.path, "written", exc) from exc
        return True

    def remove(self) -> bool:
        """Remove the file; return False if there is none. Raises FileProblem, NotPermitted."""
        self.check()
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise _problem(self.path, "removed", exc) from exc
        return True


def _problem(path: Path, what: str, exc: OSError) -> FileProblem | NotPermitted:
    shown = named(str(path))
    if isinstance(exc, PermissionError):
        return NotPermitted(f"{shown} cannot be {what} by this account; run the command with sudo, or without --system")
    return FileProblem(f"{shown} cannot be {what}: {(exc.strerror or str(exc)).lower()}", path=str(path))
