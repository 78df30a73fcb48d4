"""Create the data directory once, and start its server."""

import logging
import os
import shutil
import sys
import time
from pathlib import Path

from attrs import frozen

from atlas_sdk._embedded import identity, postmaster
from atlas_sdk._embedded.account import Account, launch
from atlas_sdk._embedded.locks import is_held, polling, try_exclusive
from atlas_sdk._embedded.places import MAJOR, Site
from atlas_sdk._embedded.postmaster import DATABASE, PORT, ROLE, Postmaster
from atlas_sdk.errors import EmbeddedServerFailed
from atlas_sdk.home import sync_folder

__all__ = ["Cluster"]

_log = logging.getLogger(__name__)

#: Seconds to wait for the processes of a killed server to end. A process notices the kill within milliseconds, unless
#: it is computing.
_LEAVING_S = 10.0
#: Seconds to wait for a server to accept connections. After a crash the server first replays its log.
_READY_S = 60.0
#: Seconds to wait for a new data directory, which takes 1.1 s on a quiet machine.
_MAKING_S = 120.0
#: Seconds to wait for a server to stop, which writes a last checkpoint.
_STOPPED_S = 120.0
_ATTEMPTS = 3
_LOG_LIMIT_BYTES = 1 << 20

_SETTINGS = """\
# Written at every start. Settings of your own: ALTER SYSTEM SET …
max_connections = 200
shared_buffers = 32MB
wal_level = minimal
max_wal_senders = 0
min_wal_size = 32MB
max_wal_size = 256MB
jit = off
fsync = on
synchronous_commit = on
timezone = 'UTC'
log_timezone = 'UTC'
# A statement of a client that was killed ends too.
client_connection_check_interval = 10s
# The log tells what went wrong, never what was in a statement or a row.
log_destination = stderr
logging_collector = off
log_line_prefix = '%m [%p] '
log_min_messages = warning
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
log_checkpoints = off
"""

_HBA = """\
# Written at every start: only the OS user who owns this server, only on its socket.
local all all peer map=atlas
"""


@frozen(kw_only=True)
class Cluster:
    """One data directory and its programs. Callers must hold the start lock."""

    site: Site
    data_dir: Path
    bin_dir: Path
    #: The major version of the programs.
    major: str = MAJOR
    #: More settings for the server's command line.
    options: tuple[str, ...] = ()

    def serve(self) -> Postmaster:
        """Return the running server; start it if needed, whatever the last server left behind."""
        complaint = ""
        for _ in range(_ATTEMPTS):
            lock = self._wait_for_the_last_one()
            if isinstance(lock, Postmaster):
                return lock
            try:
                if self._exists():
                    self.site.check_entry()
                else:
                    self._create(lock)
                self._configure()
                written = self._launch(lock)
            finally:
                os.close(lock)
            running = self._wait_until_ready()
            if running is not None:
                _log.info("Started PostgreSQL %s for %s, process %d", self.major, self.site.home, running.pid)
                return running
            complaint = postmaster.last_complaint(self.site.log, since=written)
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL does not start: {complaint}; the log is {self.site.log}, and a server can be "
            "given with --dsn or ATLAS_DATABASE_URL"
        )

    def stop(self) -> None:
        """Stop the running server, whoever started it, and wait until its processes have ended."""
        self._pg_ctl_stop(_STOPPED_S)
        if not any(not is_held(self.site.server_lock) for _ in polling(_LEAVING_S)):
            raise EmbeddedServerFailed(
                f"The server of {self.data_dir} does not stop; end it (ps -ef | grep postgres); "
                f"its log is {self.site.log}"
            )

    def _wait_for_the_last_one(self) -> Postmaster | int:
        """Return the running server if it answers, or the server lock when no process of the last server is left."""
        enough = time.monotonic() + _LEAVING_S
        for _ in polling(_MAKING_S):
            running = postmaster.answering(self.data_dir)
            if running is not None:
                return running
            lock = try_exclusive(self.site.server_lock)
            if lock is not None:
                return lock
            server = postmaster.recorded(self.data_dir)
            if server is not None and server.ready:
                self._stop_unreachable(server)
            # The process that started the last server may have been killed while a program was still making the data
            # directory, or while the server was replaying its log. Both end by themselves, so wait longer.
            is_making = server is None and self._half.exists()
            if time.monotonic() > enough and not is_making and (server is None or server.ready):
                break
        raise EmbeddedServerFailed(
            f"Processes of an earlier server still hold {self.data_dir} and do not answer; wait for them or end them "
            f"(ps -ef | grep postgres); the log is {self.site.log}"
        )

    def _stop_unreachable(self, server: Postmaster) -> None:
        """Stop a running server of this folder that cannot be reached, so that it can be started again.

        Either the socket was deleted, for example with the runtime folder at a logout. Or the folder was moved, and the
        server still uses the socket's old path.
        """
        moved = not server.is_of(self.data_dir)
        if not (moved or not postmaster.socket_path(server.socket_dir).exists()):
            return
        # Check the process, because pg_ctl sends its signal to any process whose id is in postmaster.pid.
        if not postmaster.may_work_in(server.pid, self.data_dir):
            return
        what = f"{server.data_dir} is {self.data_dir} now" if moved else f"The socket in {server.socket_dir} is gone"
        _log.warning("%s; starting its server again", what)
        self._pg_ctl_stop(_LEAVING_S)

    def _pg_ctl_stop(self, wait_s: float) -> None:
        options = ("-D", self.data_dir, "-m", "fast", "-t", f"{wait_s:.0f}")
        self._account.run(self.bin_dir / "pg_ctl", "stop", *options, timeout_s=wait_s + 10)

    @property
    def _account(self) -> Account:
        return self.site.account

    @property
    def _half(self) -> Path:
        """The data directory while it is being made."""
        return self.data_dir.with_name(self.data_dir.name + ".new")

    def _exists(self) -> bool:
        """Return True if a data directory exists. Raises EmbeddedServerFailed if this version cannot serve it."""
        if not self.data_dir.exists():
            return False
        version = self.data_dir / "PG_VERSION"
        if version.exists():
            major = version.read_text(encoding="ascii", errors="replace").strip()
            if major != self.major:
                raise EmbeddedServerFailed(f"{self.data_dir} was made by PostgreSQL {major}, and this is {self.major}")
            return True
        if any(self.data_dir.iterdir()):
            raise EmbeddedServerFailed(
                f"{self.data_dir} has files but no PostgreSQL data; move it away, or set ATLAS_HOME to another folder"
            )
        return False

    def _create(self, lock: int) -> None:
        """Create a data directory under a temporary name and rename it, so that it is never incomplete."""
        half = self._half
        _remove(half)
        half.mkdir(mode=0o700)
        try:
            self._account.give(half)
            # C.UTF-8 sorts by bytes, which is as fast as C, and the same on every system. It knows the case of all
            # letters.
            locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
            sync = ("--no-sync",) if self.site.is_temporary else ()
            self._must((self.bin_dir / "initdb", "-D", half, "-U", ROLE, "--auth=reject", *sync, *locale), lock=lock)
            self._must(
                (self.bin_dir / "postgres", "--single", "-D", half, "postgres"),
                lock=lock,
                stdin=f"CREATE DATABASE {DATABASE} OWNER {ROLE}\n",
            )
            with (half / "postgresql.conf").open("a", encoding="utf-8") as file:
                file.write("\ninclude_if_exists = 'atlas.conf'\n")
            half.rename(self.data_dir)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
        sync_folder(self.data_dir.parent)
        _log.info("Created a PostgreSQL %s data directory in %s", self.major, self.data_dir)

    def _must(self, command: tuple[str | Path, ...], *, lock: int, stdin: str = "") -> None:
        done = self._account.run(*command, stdin=stdin, timeout_s=_MAKING_S, pass_fds=(lock,))
        if done.returncode != 0 or "ERROR:" in done.stdout:
            self.site.log.write_text(done.stdout, encoding="utf-8")
            raise EmbeddedServerFailed(
                f"No data directory could be created in {self.data_dir}: "
                f"{postmaster.last_complaint(self.site.log, since=0)}; the log is {self.site.log}, and a server can "
                "be given with --dsn or ATLAS_DATABASE_URL"
            )

    def _configure(self) -> None:
        client = self._account.client.replace('"', '""')
        for name, text in (
            ("atlas.conf", _SETTINGS),
            ("pg_hba.conf", _HBA),
            ("pg_ident.conf", f'atlas "{client}" {ROLE}\n'),
        ):
            # Write a new file and rename it: root must not write through a link that the server's account may have
            # made.
            fresh = self.data_dir / f"{name}.new"
            fresh.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(fresh, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
            self._account.give(fresh)
            fresh.replace(self.data_dir / name)
        identity.mark(self.site, self.data_dir)

    def _launch(self, lock: int) -> int:
        """Start the server, which inherits the lock; return the length of the log before the start."""
        stranger = postmaster.forget_dead(self.data_dir)
        if stranger is not None:
            raise EmbeddedServerFailed(
                f"Process {stranger} serves {self.data_dir} but does not answer; end it with: kill {stranger}"
            )
        socket_dir = self.site.socket_dir(self.data_dir)
        if socket_dir != self.data_dir and sys.platform == "linux":
            postmaster.remove_socket(socket_dir)
        if self.site.log.exists() and self.site.log.stat().st_size > _LOG_LIMIT_BYTES:
            self.site.log.replace(self.site.log.with_suffix(".log.1"))
        log = os.open(self.site.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            written = os.fstat(log).st_size
            # Give these settings on the command line, where no file can override the access rules.
            launch(
                self.bin_dir / "postgres",
                *("-D", self.data_dir),
                *("-c", "listen_addresses="),
                *("-c", f"unix_socket_directories={socket_dir}"),
                *("-c", "unix_socket_permissions=0700"),
                *("-c", f"port={PORT}"),
                *(word for option in self.options for word in ("-c", option)),
                output=log,
                account=self._account,
                pass_fds=(lock,),
            )
        finally:
            os.close(log)
        return written

    def _wait_until_ready(self) -> Postmaster | None:
        """Return the launched server once it accepts connections, or None if it has ended."""
        for _ in polling(_READY_S):
            running = postmaster.answering(self.data_dir)
            if running is not None:
                return running
            if not is_held(self.site.server_lock):
                return None
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL in {self.data_dir} started but accepts no connection after {_READY_S:.0f} s; "
            f"the log is {self.site.log}"
        )


def _remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
        _log.info("Removed %s, which a killed first start had left", folder)
