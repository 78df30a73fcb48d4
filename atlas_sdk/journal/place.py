"""The journal's file: find it, make it, and check that it is a journal of this OS user and of this version."""

import fcntl
import os
import sqlite3
import time
from pathlib import Path
from threading import Lock

from atlas_sdk._sql import sql_root
from atlas_sdk.errors import FileProblem, JournalProblem
from atlas_sdk.home import open_private_file, prepare_home, private_folder, sync_folder
from atlas_sdk.journal.records import FOLDER, NAME

__all__ = ["FOLDER", "NAME", "checked", "closed", "find", "forget_all", "identity", "make", "opening"]

_MAGIC = b"SQLite format 3\0"
#: "ATLJ", and the version of the format: the fields `application_id` and `user_version` of the file's header.
_APPLICATION, _VERSION = b"ATLJ", 1
_VERSION_AT, _APPLICATION_AT, _HEADER_BYTES = 60, 68, 100

#: Held while a file is checked and opened. A process that closes any descriptor of a file loses its POSIX locks on that
#: file, also those of its other connections; so the check must not read a file that this process has open.
opening = Lock()
#: Device and inode of the journals that this process has open, with the number of connections.
_open: dict[tuple[int, int], int] = {}


def find(home: Path) -> Path | None:
    """Return the path of the journal of a home; None if there is none. Make nothing. Raises JournalProblem."""
    if identity(home / FOLDER / NAME) is None:
        return None
    return _private(home)


def make(home: Path) -> Path:
    """Return the path of the journal of a home; make the home, the folder and the file if they are missing.

    Raises JournalProblem.
    """
    path = _private(home)
    if identity(path) is None:
        try:
            _make(path)
        except (OSError, sqlite3.Error, FileProblem) as exc:
            reason = (getattr(exc, "strerror", None) or str(exc)).lower()
            raise JournalProblem(f"the journal {path} cannot be made: {reason}", path=str(path)) from exc
    return path


def _private(home: Path) -> Path:
    try:
        return private_folder(prepare_home(home) / FOLDER) / NAME
    except JournalProblem:
        raise
    except FileProblem as exc:
        raise JournalProblem(f"the journal cannot be used: {exc}", path=exc.path) from exc


def _make(path: Path) -> None:
    """Make an empty journal in one step, so that no process ever sees half of one."""
    lock = open_private_file(path.with_name("lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if identity(path) is None:
            _make_alone(path)
    finally:
        os.close(lock)


def _make_alone(path: Path) -> None:
    # A person may have moved the file alone. SQLite would take the log that was left for the log of the new file.
    for ending in ("-wal", "-shm"):
        left = path.with_name(NAME + ending)
        if left.exists():
            left.rename(path.with_name(f"{NAME}.left-{time.time_ns()}{ending}"))
    fresh = path.with_name(f"{NAME}.new-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        os.close(open_private_file(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        connection = sqlite3.connect(fresh, isolation_level=None)
        try:
            # Set both before the first table: they cannot be changed later without a copy of the file.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN;\n{(sql_root() / 'journal' / 'schema.sql').read_text('utf-8')}\nCOMMIT;")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        fresh.rename(path)
        sync_folder(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file; None if it does not exist. Raises JournalProblem."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise JournalProblem(f"the journal {path} cannot be looked at: {reason}", path=str(path)) from exc
    return found.st_dev, found.st_ino


def checked(path: Path) -> tuple[int, int]:
    """Return device and inode of a journal that this process may open. Callers must hold `opening`.

    Raises JournalProblem for a file of another user, for a file that is no journal, and for the journal of a newer
    version; FileNotFoundError if it is gone.
    """
    found = identity(path)
    if found is None:
        raise FileNotFoundError(path)
    if not _open.get(found):
        _check_header(path)
    _open[found] = _open.get(found, 0) + 1
    return found


def closed(found: tuple[int, int]) -> None:
    """Note that a connection is closed. Callers must hold `opening`."""
    _open[found] -= 1


def forget_all() -> None:
    """Forget the connections of the parent, in a forked child."""
    _open.clear()


def _check_header(path: Path) -> None:
    try:
        descriptor = open_private_file(path, os.O_RDONLY)
        try:
            header = os.pread(descriptor, _HEADER_BYTES, 0)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except FileProblem as exc:
        raise JournalProblem(f"the journal cannot be used: {exc}", path=str(path)) from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise JournalProblem(f"the journal {path} cannot be read: {reason}", path=str(path)) from exc
    application = header[_APPLICATION_AT : _APPLICATION_AT + 4]
    if not header.startswith(_MAGIC) or application != _APPLICATION:
        raise JournalProblem(
            f"{path} is not a journal of AtlasEngine, or its beginning is damaged; it was not changed: move its "
            "folder away, then try again",
            path=str(path),
        )
    version = int.from_bytes(header[_VERSION_AT : _VERSION_AT + 4], "big")
    if version != _VERSION:
        raise JournalProblem(
            f"the journal {path} has format {version}, and this AtlasEngine knows format {_VERSION}; it was not "
            "changed: use the newer AtlasEngine",
            path=str(path),
        )
