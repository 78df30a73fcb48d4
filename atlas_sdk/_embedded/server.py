"""Start or join the server of a home folder, and hold it while in use."""

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

__all__ = ["EmbeddedServer"]

_log = logging.getLogger(__name__)

#: How long the server waits for the next user after its last one: two commands in a row start it once.
_LINGER_S: Final = "5"
#: A bare interpreter starts in some 20 ms.
_KEEPER_S: Final = 5.0
#: More settings for the server of a home that goes with its last user: nothing waits for the disk.
_TEMPORARY: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_LINGER_VARIABLE: Final = "ATLAS_EMBEDDED_LINGER_S"


class EmbeddedServer:
    """A running PostgreSQL of one home folder, shared by every process and thread that acquired it.

    It stops some seconds after its last user released it or ended, however it ended. Children of a fork share their
    parent's use of it.
    """

    #: For psycopg and psql alike; may change in `ensure_running`.
    dsn: str
    #: The data directory (PGDATA), links resolved.
    data_dir: Path
    #: psql, pg_dump and the other programs that fit this server.
    bin_dir: Path

    def __init__(self, site: Site, users_lock: int) -> None:
        """Take over a shared lock on the users' file; `acquire` is the way to get one."""
        self._site = site
        # Closing is all there is to do, at collection and at exit too; the server itself is the supervisor's.
        self._close = weakref.finalize(self, os.close, users_lock)
        self.bin_dir = find_binaries(site.account)
        self.data_dir = site.data_dir()

    @classmethod
    def acquire(cls, home: Path) -> "EmbeddedServer":
        """Start the server of `home`, or join it, and return once it accepts connections.

        Any number of processes and threads may do so at once. The first start ever takes a second or two, a later
        one some tenths, joining milliseconds. Data of an older major that the package carries is upgraded first, which
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
        """Become a user of the server of `home` without starting it; `ensure_running` does.

        A temporary home is removed with its last user. Raises `EmbeddedServerFailed`.
        """
        with _explained(home):
            site = Site.prepare(home)
            users_lock = shared(site.run_dir / "users.lock")
            # For the supervisor, which waits from the last use on.
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
        """Start the server again when it died; cheap when it did not. Committed transactions survive.

        Raises `EmbeddedServerFailed` when it does not come up, or when this object was released.
        """
        if not self._close.alive:
            raise EmbeddedServerFailed("This embedded server was released; acquire it again")
        with _explained(self._site.home):
            # One of an older major is not joined: it is about to be upgraded, or being read for that.
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
        """Keep the server up for `seconds` from now even without users; a later deadline already set stays."""
        with _explained(self._site.home):
            file = self._site.run_dir / "keep-until"
            until = time.time() + seconds
            with exclusive(self._site.run_dir / "start.lock"):
                if until > supervisor.kept_until(file):
                    fresh = file.with_suffix(".new")
                    fresh.write_text(repr(until), encoding="ascii")
                    fresh.replace(file)

    def release(self) -> None:
        """Stop using the server. Idempotent; the end of the process does the same."""
        self._close()

    def _start(self) -> Postmaster:
        data_dir = self._site.data_dir()
        # Before anything there is touched: it may be another home's.
        identity.settle(self._site, upgrade.present(data_dir))
        upgrade.finish(data_dir)
        self.data_dir = self._site.place_data()
        # Before the server, so that no kill in between leaves a server without a supervisor.
        self.ensure_supervisor()
        upgrade.upgrade(self._site, self.data_dir, self.bin_dir)
        options = _TEMPORARY if self._site.is_temporary else ()
        return Cluster(site=self._site, data_dir=self.data_dir, bin_dir=self.bin_dir, options=options).serve()

    def ensure_supervisor(self) -> None:
        """See to it that a supervisor waits for the last user to leave."""
        lock = self._site.run_dir / "supervisor.lock"
        if is_held(lock):
            return
        account = self._site.account
        log = os.open(self._site.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            # -S as well as -I: it needs nothing from site-packages, and waits for days in a small process.
            launch(
                *(sys.executable, "-I", "-S", supervisor.__file__),
                *(self._site.run_dir, self.data_dir, self.bin_dir),
                *("0" if self._site.is_temporary else _linger(), account.name, str(account.uid), str(account.gid)),
                output=log,
            )
        finally:
            os.close(log)
        if not any(is_held(lock) for _ in polling(_KEEPER_S)):
            _log.warning(
                "Nothing will stop the server of %s: %s does not run %s; see %s",
                *(self._site.home, sys.executable, supervisor.__file__, self._site.log),
            )


def _dsn(server: Postmaster, account: str) -> str:
    """Return the address of a server; libpq refuses another OS user's program that listens in its place."""
    # The port is spelled out because libpq would otherwise take PGPORT from the environment.
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
    """Translate what the operating system refuses."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as exc:
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL in {home} cannot be used: {exc}; see to that (its log is "
            f"{home / 'postgres.run' / 'server.log'}), or give a server with --dsn or ATLAS_DATABASE_URL"
        ) from exc
