"""Record which home a data directory belongs to, so that a copied home never uses the data of the original.

The holder of the start lock writes two files::

    home/identity              a random id
    home/postgres/atlas.home   the same id, the identity of this folder, and the home that it belongs to

The inode distinguishes a folder from its copy: a rename keeps the inode, a copy has another one. This module does not
compare the device of the data. The device number can change at a boot (LVM, Btrfs, NFS), and in a snapshot of a whole
file system. Such a snapshot is as good as the data after a crash.

A copy of a stopped server's home becomes an independent home. This module refuses two other kinds of copies, and says
what to do: the copy of a running server, whose files were copied at different times; and a copy that still leads to the
files of the original, by a symlink or by hard links. A person who is sure that the data is good removes `atlas.home`.
"""

import json
import os
import shlex
import stat
import struct
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from atlas_sdk._embedded import postmaster
from atlas_sdk._embedded.locks import is_held
from atlas_sdk._embedded.places import Site
from atlas_sdk.errors import EmbeddedServerFailed

__all__ = ["is_owner", "mark", "settle"]

#: The record in the data directory.
_RECORD = "atlas.home"
_LIMIT_BYTES = 1 << 16
#: PostgreSQL's pg_control.h: ControlFileData.state follows numbers of 8, 4 and 4 bytes; 1 is DB_SHUTDOWNED.
_CONTROL_STATE = struct.Struct("=16xi")
_SHUT_DOWN = 1


@frozen(kw_only=True)
class _Record:
    """The content of `atlas.home`."""

    id: str
    home: str
    home_device: int
    home_inode: int
    data_inode: int
    record_inode: int

    def is_of_folder(self, data_dir: Path) -> bool:
        """Return True if the record was written in this folder. A disk may reuse one inode, so this compares two."""
        return (data_dir.stat().st_ino, (data_dir / _RECORD).lstat().st_ino) == (self.data_inode, self.record_inode)

    def is_of_home(self, home: Path) -> bool:
        """Return True if the record names this home at its present path."""
        status = home.stat()
        return (self.home, self.home_device, self.home_inode) == (str(home), status.st_dev, status.st_ino)


def is_owner(site: Site, data_dir: Path) -> bool:
    """Return True if the data certainly belongs to this home; `settle` decides the other cases.

    Data inside the home belongs to the home. Data behind a link belongs to the home that the record names.
    """
    if not site.is_linked:
        return True
    record = _read(data_dir)
    return record is not None and record.is_of_home(site.home)


def settle(site: Site, data_dir: Path) -> None:
    """Assign the data to this home, or refuse. The caller holds the start lock.

    Raises `EmbeddedServerFailed` for the data of another home, and for an incomplete copy. Does nothing if there is no
    data yet.
    """
    if not (data_dir / "PG_VERSION").exists():
        return
    record = _read(data_dir)
    if record is None:
        _refuse_unknown(data_dir)
        # Data inside the home is marked later, when its server starts, so that data of an unsuitable version stays
        # unchanged.
        is_new = site.is_linked
    elif is_new := not record.is_of_folder(data_dir):
        _refuse_copy(data_dir)
        # The original keeps the id, because the name of its socket folder contains the id.
        site.renew_id()
    elif is_new := site.is_linked and not record.is_of_home(site.home):
        _refuse_other(site, data_dir, record)
    if is_new:
        mark(site, data_dir)


def mark(site: Site, data_dir: Path) -> None:
    """Write the record if it is missing or outdated. The caller holds the start lock."""
    record = _read(data_dir)
    known = record is not None and record.id == site.id() and record.is_of_folder(data_dir)
    if known and record is not None and record.is_of_home(site.home):
        return
    fresh = data_dir / f"{_RECORD}.new"
    fresh.unlink(missing_ok=True)
    home = site.home.stat()
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        written = _Record(
            id=site.id(),
            home=str(site.home),
            home_device=home.st_dev,
            home_inode=home.st_ino,
            data_inode=data_dir.stat().st_ino,
            record_inode=os.fstat(descriptor).st_ino,
        )
        # The JSON is ASCII, since it escapes all other characters of a path.
        json.dump(asdict(written), file)
    site.account.give(fresh)
    fresh.replace(data_dir / _RECORD)


def _read(data_dir: Path) -> _Record | None:
    """Return the record of a data directory; None if it is missing or unreadable."""
    try:
        descriptor = os.open(data_dir / _RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        text = file.read(_LIMIT_BYTES)
    try:
        found: dict[str, Any] = json.loads(text)
        numbers = ("home_device", "home_inode", "data_inode", "record_inode")
        return _Record(
            id=str(found["id"]), home=str(found["home"]), **{number: int(found[number]) for number in numbers}
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # a power failure cut the file short


def _refuse_unknown(data_dir: Path) -> None:
    """Refuse data without a record if its postmaster.pid belongs to the server of another folder."""
    server = postmaster.recorded(data_dir)
    if server is not None and not server.is_of(data_dir) and not postmaster.may_work_in(server.pid, data_dir):
        raise _torn(data_dir)


def _refuse_copy(data_dir: Path) -> None:
    """Refuse the copy of a data directory unless it is complete and shares no files with the original."""
    if not _was_shut_down(data_dir):
        raise _torn(data_dir)
    for path in (data_dir / "pg_wal", *(data_dir / "pg_tblspc").glob("*")):
        if path.is_symlink():
            raise EmbeddedServerFailed(
                f"{data_dir} is a copy, and {path} in it leads to {path.readlink()}, which belongs to the original; "
                "dump the original and load that into another home (atlasctl db dump, atlasctl db load --home)"
            )
    # Check a file that servers write in place, and one that they never write.
    for name in ("global/pg_control", "PG_VERSION"):
        if (data_dir / name).stat().st_nlink > 1:
            raise EmbeddedServerFailed(
                f"{data_dir} shares its files with another folder by hard links, so this would change both; "
                f"copy it as a whole: cp -a {_quoted(data_dir)} {_quoted(_copy_of(data_dir))}, and use that one"
            )


def _refuse_other(site: Site, data_dir: Path, record: _Record) -> None:
    """Refuse the data behind a link if it belongs to another home; accept it if this home was only moved."""
    home, other = site.home, Path(record.home)
    status = home.stat()
    # Accept another device number for the same path, because the number may change at a boot.
    is_same = record.home_inode == status.st_ino and (record.home_device == status.st_dev or record.home == str(home))
    own = (
        f"give {home} data of its own while nothing uses the other: cp -a {_quoted(data_dir)} "
        f"{_quoted(_copy_of(data_dir))} && ln -sfn {_quoted(_copy_of(data_dir))} {_quoted(site.link)}"
    )
    if not is_same and _leads_to(other, data_dir) and not _are_same(other, home):
        raise EmbeddedServerFailed(f"{home} is a copy of the home {other}, and still uses its data, {data_dir}; {own}")
    if not is_same and site.id() != record.id:
        raise EmbeddedServerFailed(
            f"{site.link} leads to {data_dir}, which is the data of another home ({other}); {own}; or, if it shall "
            f"belong to {home}: rm {_quoted(data_dir / _RECORD)}"
        )
    server = postmaster.recorded(data_dir)
    if server is not None and postmaster.may_work_in(server.pid, data_dir) and not is_held(site.server_lock):
        raise EmbeddedServerFailed(
            f"process {server.pid} of another home serves {data_dir}; stop the programs that use it, or end it with: "
            f"kill {server.pid}"
        )
    if is_same:
        site.renew_id(record.id)


def _leads_to(home: Path, data_dir: Path) -> bool:
    return _are_same(home / "postgres", data_dir)


def _are_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _was_shut_down(data_dir: Path) -> bool:
    """Return True if the last server of the data was shut down, so that there is nothing to recover."""
    if (data_dir / "postmaster.pid").exists():
        return False
    try:
        with (data_dir / "global" / "pg_control").open("rb") as file:
            (state,) = _CONTROL_STATE.unpack(file.read(_CONTROL_STATE.size))
    except (OSError, struct.error):
        return False
    return bool(state == _SHUT_DOWN)


def _torn(data_dir: Path) -> EmbeddedServerFailed:
    files = " ".join(_quoted(data_dir / name) for name in ("postmaster.pid", _RECORD))
    return EmbeddedServerFailed(
        f"{data_dir} was copied while its server ran or after it was killed, so parts of it may be missing; use the "
        "original until its server has stopped and copy it again, or dump and load it (atlasctl db dump, atlasctl db "
        f"load --home). If all of it was copied at one instant, as a snapshot of the disk is: rm -f {files}; it then "
        "recovers as after a crash (docs/backups.md)"
    )


def _copy_of(data_dir: Path) -> Path:
    return data_dir.with_name(f"{data_dir.name}.copy")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
