"""Atomic output: a file gets its name only when it is complete, not when the disk is full or the writer is killed."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from atlas_sdk.errors import FileProblem
from atlas_sdk.home import sync_folder

__all__ = ["Partial"]

_SUFFIX = ".part"


class Partial:
    """A file with a temporary name beside its target, until `publish`. It is removed when the writer fails.

    The descriptor holds a lock, also in a child process that inherits it. The file of a killed writer has no lock, and
    the next writer for the same target removes the file.
    """

    def __init__(self, place: Path, *, overwrite: bool) -> None:
        self._place = place
        self._overwrite = overwrite
        if not place.parent.is_dir():
            # Do not make the folder: if a disk is not mounted there, the file would be on another disk unnoticed.
            raise FileProblem(
                f"{place} cannot be written: the folder {place.parent} is not there; make it, or mount its disk",
                path=str(place),
            )
        if not overwrite:
            self._check_free()
        prefix = f".{place.name}."
        try:
            self._sweep(prefix)
            #: An empty file that only its owner can read, which the writer fills.
            self.descriptor, self.path = self._make(prefix)
        except OSError as exc:
            raise self._problem(exc) from exc

    def size(self) -> int:
        """Return the number of bytes that have been written."""
        return os.fstat(self.descriptor).st_size

    def publish(self, ending: Callable[[Path], bytes] | None = None) -> str:
        """Flush the file to the disk, then give it its name; return its SHA-256.

        `ending` is called with the file, and returns the bytes to append.
        """
        try:
            if ending is not None:
                with self.path.open("ab") as file:
                    file.write(ending(self.path))
            os.fsync(self.descriptor)
            with self.path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if self._overwrite:
                self.path.replace(self._place)
            else:
                self._link()
            sync_folder(self._place.parent)
        except OSError as exc:
            raise self._problem(exc) from exc
        return sha256

    def _link(self) -> None:
        """Give the file its name, unless another file has it by now."""
        try:
            os.link(self.path, self._place)
        except FileExistsError:
            self._check_free()
        except OSError:
            # This file system has no hard links.
            self._check_free()
            self.path.rename(self._place)

    def _check_free(self) -> None:
        if self._place.is_symlink() or self._place.exists():
            raise FileProblem(
                f"{self._place} is there already: choose another name, or overwrite it (--force)", path=str(self._place)
            )

    def _make(self, prefix: str) -> tuple[int, Path]:
        """Make a file and lock it."""
        while True:
            descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=self._place.parent)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # Before the lock, another writer may have taken the file for that of a killed writer and removed it.
                # The dump would then go to a new file with default rights.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), Path(name).stat()):
                        return descriptor, Path(name)
            except BaseException:
                os.close(descriptor)
                Path(name).unlink(missing_ok=True)
                raise
            os.close(descriptor)

    def _sweep(self, prefix: str) -> None:
        for left in self._place.parent.iterdir():
            if left.name.startswith(prefix) and left.name.endswith(_SUFFIX) and not left.is_symlink():
                with suppress(FileNotFoundError), left.open("rb") as file, suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()

    def _problem(self, error: OSError) -> FileProblem:
        reason = (error.strerror or str(error)).lower()
        return FileProblem(f"{self._place} cannot be written: {reason}", path=str(self._place))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
