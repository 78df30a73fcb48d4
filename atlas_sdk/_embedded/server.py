"""Start or join the server of a home folder, and keep it running while in use."""

import logging
import os
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from atlas_sdk._embedded import identity, postmaster, supervisor, upgrade
from atlas_sdk._embedded.account import launch
from atlas_sdk._embedded.cluster import Cluster
from atlas_sdk._embedded.locks import exclusive, is_held, polling, shared
from atlas_sdk._embedded.places import MAJOR, Site, find_binaries
from atlas_sdk._embedded.postmaster import DATABASE, PORT, ROLE, Postmaster
from atlas_sdk.errors import EmbeddedServerFailed
from atlas_sdk.home import replace_private_file

__all__ = ["EmbeddedServer"]

_log = logging.getLogger(__name__)

#: Seconds that the server waits for another user after its last one, so that two commands in a row need one start.
_LINGER_S: Final = "5"
#: Seconds to wait for the supervisor; a bare interpreter starts in some 20 ms.
_SUPERVISOR_S: Final = 5.0
#: More settings for the server of a temporary home: it does not wait for the disk.
_TEMPORARY: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_LINGER_VARIABLE: Final = "ATLAS_EMBEDDED_LINGER_S"


class EmbeddedServer:
    """The running PostgreSQL of one home folder, shared by every process and thread that acquired it.

    It stops some seconds after its last user has released it or ended. A forked child shares its parent's use.
    """

    #: The address, for psycopg and psql; it may change in `ensure_running`.
    dsn: str
    #: The data directory (PGDATA), links resolved.
    data_dir: Path
    #: The folder of psql, pg_dump and the other programs that fit this server.
    bin_dir: Path

    def __init__(self, site: Site, users_lock: int) -> None:
        """Take over a shared lock on the file of users. Call `acquire` or `join` instead."""
        self._site = site
        # Close the lock also at garbage collection and at exit. The supervisor then stops the server.
        self._close = weakref.finalize(self, os.close, users_lock)
        self.bin_dir = find_binaries(site.account)
        self.data_dir = site.data_dir()

    @classmethod
    def acquire(cls, home: Path) -> "EmbeddedServer":
        """Start the server of `home`, or join it, and return once it accepts connections.

        Any number of processes and threads may do so at once. The first start takes a second or two, a later start some
        tenths of a second, and joining takes milliseconds. Data of an older major version is upgraded first, which
        takes seconds to minutes. Raises `EmbeddedServerFailed`.
        """
        server = cls.join(home)
        try:
            server.ensure_running()
        except BaseException:
            server.release()
            raise
        return server

    @classmethod
    def join(cls, home: Path, *, temporary: bool = False) -> "EmbeddedServer":
        """Become a user of the server of `home` without starting it; `ensure_running` starts it.

        The supervisor removes a temporary home after its last user has left. Raises `EmbeddedServerFailed`.
        """
        with _explained(home):
            site = Site.prepare(home)
            users_lock = shared(site.run_dir / "users.lock")
            # Set the time of the last use, at which the wait of the supervisor begins.
            os.utime(users_lock)
            server = cls(site, users_lock)
            if temporary:
                site.temporary_mark.touch(mode=0o600)
            return server

    @property
    def home(self) -> Path:
        """The home folder, links resolved."""
        return self._site.home

    def in_database(self, name: str) -> str:
        """Return the address of another database of the running server."""
        return self.dsn.replace(f"///{DATABASE}?", f"///{name}?", 1)

    def ensure_running(self) -> None:
        """Start the server again if it has died; the check takes little time. Committed transactions survive.

        Raises `EmbeddedServerFailed` if it does not start, or if this object was released.
        """
        if not self._close.alive:
            raise EmbeddedServerFailed("This embedded server was released; acquire it again")
        with _explained(self._site.home):
            # Do not join a server of an older major version: an upgrade will stop it, or is reading from it.
            fits = upgrade.major_of(self.data_dir) == MAJOR
            fits = fits and identity.is_owner(self._site, self.data_dir)
            running = postmaster.answering(self.data_dir) if fits else None
            if running is not None:
                self.ensure_supervisor()
            else:
                with exclusive(self._site.run_dir / "start.lock"):
                    running = self._start()
            self.dsn = _dsn(running, self._site.account.name)

    def keep_for(self, seconds: float) -> None:
        """Keep the server running for `seconds` from now, even without users. An existing later deadline stays."""
        with _explained(self._site.home):
            file = self._site.run_dir / "keep-until"
            until = time.time() + seconds
            with exclusive(self._site.run_dir / "start.lock"):
                if until > supervisor.kept_until(file):
                    replace_private_file(file, repr(until))

    def release(self) -> None:
        """Stop using the server. Idempotent; the end of the process does the same."""
        self._close()

    def _start(self) -> Postmaster:
        data_dir = self._site.data_dir()
        # Check this before anything is changed: the data may belong to another home.
        identity.settle(self._site, upgrade.present(data_dir))
        upgrade.finish(data_dir)
        self.data_dir = self._site.place_data()
        # Start the supervisor first, so that a kill in between cannot leave a server without a supervisor.
        self.ensure_supervisor()
        upgrade.upgrade(self._site, self.data_dir, self.bin_dir)
        options = _TEMPORARY if self._site.is_temporary else ()
        return Cluster(site=self._site, data_dir=self.data_dir, bin_dir=self.bin_dir, options=options).serve()

    def ensure_supervisor(self) -> None:
        """Ensure that a supervisor waits for the last user to leave."""
        lock = self._site.run_dir / "supervisor.lock"
        if is_held(lock):
            return
        account = self._site.account
        log = os.open(self._site.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            # -I and -S keep the process small: it needs nothing from site-packages, and may wait for days.
            launch(
                *(sys.executable, "-I", "-S", supervisor.__file__),
                *(self._site.run_dir, self.data_dir, self.bin_dir),
                *("0" if self._site.is_temporary else _linger(), account.name, str(account.uid), str(account.gid)),
                output=log,
            )
        finally:
            os.close(log)
        if not any(is_held(lock) for _ in polling(_SUPERVISOR_S)):
            _log.warning(
                "Nothing will stop the server of %s, because %s does not run %s; see %s",
                *(self._site.home, sys.executable, supervisor.__file__, self._site.log),
            )


def _dsn(server: Postmaster, account: str) -> str:
    """Return the address of a server. `requirepeer` refuses another OS user's program on the same socket."""
    # Give the port, because libpq would otherwise take PGPORT from the environment.
    return (
        f"postgresql:///{DATABASE}?host={quote(os.fsencode(server.socket_dir))}&user={ROLE}&port={PORT}"
        f"&requirepeer={quote(account)}"
    )


def _linger() -> str:
    value = os.environ.get(_LINGER_VARIABLE, _LINGER_S)
    if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII) is None:
        raise EmbeddedServerFailed(f"{_LINGER_VARIABLE} is {value!r}; set it to a number of seconds, or unset it")
    return value


@contextmanager
def _explained(home: Path) -> Iterator[None]:
    """Turn an error of the operating system into an EmbeddedServerFailed."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as exc:
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL in {home} cannot be used: {exc}; mend that (its log is "
            f"{home / 'postgres.run' / 'server.log'}), or give a server with --dsn or ATLAS_DATABASE_URL"
        ) from exc
