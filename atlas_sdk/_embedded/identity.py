"""Which home a data directory belongs to, so that a copied home never works on the data of the original.

Two files, written by whoever holds the start lock::

    home/identity              a random id
    home/postgres/atlas.home   the same id, which folder this is, and which home it belongs to

A folder is told from its copy by its inode: renaming keeps it, copying gives another. The device is not compared for
the data: its number changes at a boot (LVM, Btrfs, NFS), and in a snapshot of a whole file system, which is as good as
the data after a crash.

A copy of a server that was stopped becomes a home of its own. These are refused, and say what to do: the copy of a
running server, because its files are of different moments; and a copy that still leads to the original's files, by a
link or by hard links. Removing `atlas.home` is how a person vouches for such data.
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

#: In the data directory.
_RECORD = "atlas.home"
_LIMIT_BYTES = 1 << 16
#: PostgreSQL's pg_control.h: ControlFileData.state follows two numbers of 8 and 4 + 4 bytes; 1 is DB_SHUTDOWNED.
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
        """Return whether it was written into this very folder: two inodes, because a new disk counts from the start."""
        return (data_dir.stat().st_ino, (data_dir / _RECORD).lstat().st_ino) == (self.data_inode, self.record_inode)

    def is_of_home(self, home: Path) -> bool:
        """Return whether it names this home, at the place where it is."""
        status = home.stat()
        return (self.home, self.home_device, self.home_inode) == (str(home), status.st_dev, status.st_ino)


def is_owner(site: Site, data_dir: Path) -> bool:
    """Return whether the data is this home's for certain; `settle` decides the rest.

    What lies in the home is. What a link leads to is when it says so.
    """
    if not site.is_linked:
        return True
    record = _read(data_dir)
    return record is not None and record.is_of_home(site.home)


def settle(site: Site, data_dir: Path) -> None:
    """Make the data this home's, or refuse. The caller holds the start lock.

    Raises `EmbeddedServerFailed` for the data of another home, and for a copy that is not whole. Does nothing where
    there is no data yet.
    """
    if not (data_dir / "PG_VERSION").exists():
        return
    record = _read(data_dir)
    if record is None:
        _refuse_unknown(data_dir)
        # The rest is marked when its server starts: data that it cannot serve stays as it is.
        is_new = site.is_linked
    elif is_new := not record.is_of_folder(data_dir):
        _refuse_copy(data_dir)
        # The original keeps the id, by which its socket folder is called.
        site.renew_id()
    elif is_new := site.is_linked and not record.is_of_home(site.home):
        _refuse_other(site, data_dir, record)
    if is_new:
        mark(site, data_dir)


def mark(site: Site, data_dir: Path) -> None:
    """Write down whose data it is, unless that is written already. The caller holds the start lock."""
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
        # Odd bytes of a path stay escapes, so this is ASCII.
        json.dump(asdict(written), file)
    site.account.give(fresh)
    fresh.replace(data_dir / _RECORD)


def _read(data_dir: Path) -> _Record | None:
    """Return the record of a data directory; None when there is none that can be understood."""
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
        return None  # torn by a loss of power


def _refuse_unknown(data_dir: Path) -> None:
    """Refuse data without a record when a server of another folder left its mark in it."""
    server = postmaster.recorded(data_dir)
    if server is not None and not server.is_of(data_dir) and not postmaster.may_work_in(server.pid, data_dir):
        raise _torn(data_dir)


def _refuse_copy(data_dir: Path) -> None:
    """Refuse the copy of a data directory unless it is whole and stands alone."""
    if not _was_shut_down(data_dir):
        raise _torn(data_dir)
    for path in (data_dir / "pg_wal", *(data_dir / "pg_tblspc").glob("*")):
        if path.is_symlink():
            raise EmbeddedServerFailed(
                f"{data_dir} is a copy, and {path} in it leads to {path.readlink()}, which is the original's; "
                "dump the original and load that into another home (atlasctl db dump, atlasctl db load --home)"
            )
    # The first is written in place by every server, the second by none.
    for name in ("global/pg_control", "PG_VERSION"):
        if (data_dir / name).stat().st_nlink > 1:
            raise EmbeddedServerFailed(
                f"{data_dir} shares its files with another folder by hard links, so this would change both; "
                f"copy it as a whole: cp -a {_quoted(data_dir)} {_quoted(_copy_of(data_dir))}, and use that one"
            )


def _refuse_other(site: Site, data_dir: Path, record: _Record) -> None:
    """Refuse what a link leads to when it is another home's; accept it when this home was only moved."""
    home, other = site.home, Path(record.home)
    status = home.stat()
    # The device number may have changed since.
    is_same = record.home_inode == status.st_ino and (record.home_device == status.st_dev or record.home == str(home))
    own = (
        f"give {home} data of its own while nothing uses the other: cp -a {_quoted(data_dir)} "
        f"{_quoted(_copy_of(data_dir))} && ln -sfn {_quoted(_copy_of(data_dir))} {_quoted(site.link)}"
    )
    if not is_same and _leads_to(other, data_dir) and not _are_same(other, home):
        raise EmbeddedServerFailed(
            f"{home} is a copy of the home {other}, and its data is still that one's, {data_dir}; {own}"
        )
    if not is_same and site.id() != record.id:
        raise EmbeddedServerFailed(
            f"{site.link} leads to {data_dir}, which is the data of another home ({other}); {own}; or, if it is to "
            f"belong to {home}: rm {_quoted(data_dir / _RECORD)}"
        )
    server = postmaster.recorded(data_dir)
    if server is not None and postmaster.may_work_in(server.pid, data_dir) and not is_held(site.server_lock):
        raise EmbeddedServerFailed(
            f"{data_dir} is served by process {server.pid}, which another home started; stop what uses it, or end it "
            f"with: kill {server.pid}"
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
    """Return whether the data was left by a server that had stopped, with nothing to recover."""
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
